"""A run as TRI-ML's trainer saves it, and the original model written out in torch.

Read from TRI-ML/prismatic-vlms @ 874c5bb (models/vlms/prismatic.py, models/backbones/vision/dinosiglip_vit.py,
models/backbones/llm/prompting/base_prompter.py) and timm 0.9.10 (models/vision_transformer.py, layers/pos_embed.py).
"""

import json
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_parts import Case, llama, tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

SIDE, PATCH = 224, 56  # 4 x 4 patches, instead of 256 patches of 14 pixels
RUN = {
    "model": {
        "type": "prism-dinosiglip-224px+7b",
        "model_id": "prism-dinosiglip-224px+7b",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "llm_backbone_id": "llama2-7b-pure",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive",
        "llm_max_length": 2048,
    },
    "dataset": {"type": "llava-lvis4v-lrv"},
    "seed": 7,
    "stage": "finetune",
}
DINO, SIGLIP, LLAMA = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224.webli", "Llama-2-7b-hf"
IMAGE = -1  # in place of token ids at the patches, which have none in the original


def random_weights(shapes, seed):
    """Return large random weights, so that inputs change the states clearly; norms and scales are near 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        near_one = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma"))
        fan_in = weight[0].numel() if len(shape) in (2, 4) else 4
        weights[name] = 1 + 0.2 * weight if near_one else 0.5 * weight / fan_in**0.5
    return weights


def timm_shapes(width, inner, depth, patches, more):
    shapes = {"patch_embed.proj.weight": (width, 3, PATCH, PATCH), "patch_embed.proj.bias": (width,)}
    shapes |= {"pos_embed": (1, patches, width), "norm.weight": (width,), "norm.bias": (width,)} | more
    for block in (f"blocks.{at}." for at in range(depth)):
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", inner, width),
            ("mlp.fc2", width, inner),
        ):
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[block + name] = (width,)
        if "reg_token" in more:
            shapes |= {f"{block}ls1.gamma": (width,), f"{block}ls2.gamma": (width,)}
    return shapes


def build(folder):
    words = tokenizer([], bos="<s>", front="<s>")
    config = LlamaConfig(**{name: value for name, value in llama(words).items() if name != "model_type"})
    config.save_pretrained(folder / LLAMA)
    words.save_pretrained(folder / LLAMA)
    language = LlamaForCausalLM(config)
    # As llama2.py does for "<PAD>".
    language.resize_token_embeddings(len(words) + 1, pad_to_multiple_of=64, mean_resizing=False)

    dino = timm_shapes(32, 128, 4, 36, {"cls_token": (1, 1, 32), "reg_token": (1, 4, 32)})  # for 336 pixels
    siglip = timm_shapes(48, 80, 3, 16, {"attn_pool.latent": (1, 1, 48), "attn_pool.norm.weight": (48,)})
    for seed, (name, shapes) in enumerate({DINO: dino, SIGLIP: siglip}.items()):
        (folder / name).mkdir()
        save_file(random_weights(shapes, seed), folder / name / "model.safetensors")

    sizes = {0: (320, 80), 2: (16, 320), 4: (16, 16)}  # the first layer widens fourfold
    projector = {f"projector.{at}.weight": shape for at, shape in sizes.items()}
    projector |= {f"projector.{at}.bias": shape[:1] for at, shape in sizes.items()}
    saved = {"projector": random_weights(projector, 2)}
    saved["llm_backbone"] = random_weights({f"llm.{n}": w.shape for n, w in language.state_dict().items()}, 3)
    (folder / "checkpoints").mkdir()
    torch.save({"model": saved}, folder / "checkpoints" / "latest-checkpoint.pt")
    (folder / "config.json").write_text(json.dumps(RUN))


def timm_features(weights, pixels, heads=16):
    """`get_intermediate_layers(pixels, n={depth - 2})`: patches, without the final norm."""

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    def attention(x, name):
        q, k, v = linear(x, f"{name}.qkv").unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attention_weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return linear((attention_weights @ v).transpose(1, 2).flatten(2), f"{name}.proj")

    x = F.conv2d(pixels, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=PATCH)
    grid, positions = x.shape[-2:], weights["pos_embed"]
    side = round(positions.shape[1] ** 0.5)
    if (side, side) != grid:
        positions = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        positions = F.interpolate(positions, size=grid, mode="bicubic", antialias=True)
        positions = positions.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)
    before = [weights[name].expand(len(x), -1, -1) for name in ("cls_token", "reg_token") if name in weights]
    x = torch.cat([*before, x.flatten(2).transpose(1, 2) + positions], dim=1)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for block in (f"blocks.{at}." for at in range(depth - 1)):
        scales = [weights.get(f"{block}ls{at}.gamma", 1.0) for at in (1, 2)]
        x = x + scales[0] * attention(norm(x, block + "norm1"), block + "attn")
        x = x + scales[1] * linear(F.gelu(linear(norm(x, block + "norm2"), block + "mlp.fc1")), block + "mlp.fc2")
    return x[:, sum(token.shape[1] for token in before) :]


class Original:
    """PrismaticVLM with `forward` and `generate` for one picture and one text."""

    config = SimpleNamespace(image_token_id=IMAGE)

    def __init__(self, folder):
        saved = torch.load(folder / "checkpoints" / "latest-checkpoint.pt", weights_only=True)["model"]
        self.projector = saved["projector"]
        self.dino, self.siglip = (load_file(folder / name / "model.safetensors") for name in (DINO, SIGLIP))
        language = {name.removeprefix("llm."): weight for name, weight in saved["llm_backbone"].items()}
        config = LlamaConfig.from_pretrained(folder / LLAMA, vocab_size=len(language["lm_head.weight"]))
        self.llm = LlamaForCausalLM(config).eval()
        self.llm.load_state_dict(language)

    def __call__(self, input_ids, pixel_values, **more):
        return self.llm(inputs_embeds=self.embeddings(input_ids, pixel_values), **more)

    def generate(self, input_ids, pixel_values, **more):
        out = self.llm.generate(inputs_embeds=self.embeddings(input_ids, pixel_values), **more)
        if isinstance(out, torch.Tensor):
            return torch.cat([input_ids, out], dim=1)
        return out

    def embeddings(self, input_ids, pixel_values):
        patches = [timm_features(self.dino, pixel_values["dino"]), timm_features(self.siglip, pixel_values["siglip"])]
        features = torch.cat(patches, dim=2)
        for index in (0, 2, 4):
            features = F.gelu(features) if index else features
            features = F.linear(
                features, self.projector[f"projector.{index}.weight"], self.projector[f"projector.{index}.bias"]
            )
        words = self.llm.get_input_embeddings()(input_ids[input_ids != IMAGE][None])
        return torch.cat([words[:, :1], features, words[:, 1:]], dim=1)


def inputs(folder, frame, text, order):
    words = AutoTokenizer.from_pretrained(folder / LLAMA)(f"In: {text}\nOut:", return_tensors="pt").input_ids
    patches = torch.full((1, (SIDE // PATCH) ** 2), IMAGE)
    square = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    scaled = torch.tensor(np.asarray(square)).permute(2, 0, 1)[None].float().div(255)
    norms = {"dino": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "siglip": ((0.5,) * 3, (0.5,) * 3)}
    pixels = {
        name: (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for name, (mean, std) in norms.items()
    }
    return {"input_ids": torch.cat([words[:, :1], patches, words[:, 1:]], dim=1), "pixel_values": pixels}


CASES = [Case("prismatic", "prismatic", build, inputs, size=32, image_tokens=16, original=Original)]

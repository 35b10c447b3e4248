"""Small random-weight checkpoints in the published formats, one function for each encoder that reads weights."""

import json

import torch
from tiny_parts import tokenizer
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ConvNextImageProcessorPil,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

SIDE = 32  # pixels of a square, where the encoder does not fix it
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURE = {**VIT, "intermediate_size": 24, "image_size": SIDE, "patch_size": 8}
TEXT = {**VIT, "intermediate_size": 24, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SQUARE = {"height": SIDE, "width": SIDE}


def options(name, folder, seed=0):
    """Write the encoder's checkpoint into the folder; return its options, {} for encoders without weights."""
    write = globals().get(name)
    return {} if write is None else {"weights": str(write(folder, torch.Generator().manual_seed(seed)))}


def clip(folder, generator):
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    return _saved(folder, generator, CLIPModel(CLIPConfig(vision_config=PICTURE, text_config=TEXT)), processor)


def siglip(folder, generator):
    model = SiglipModel(SiglipConfig(vision_config=PICTURE, text_config=TEXT))
    return _saved(folder, generator, model, SiglipImageProcessorPil(size=SQUARE))


def dinov2(folder, generator):
    """With registers, and with position embeddings for a larger picture, as on the Hub."""
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**PICTURE | {"image_size": 56}))
    return _saved(folder, generator, model, BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE))


def dinov3(folder, generator):
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": SQUARE, "resample": 2, **colours}
    _saved(folder, generator, DINOv3ViTModel(DINOv3ViTConfig(**PICTURE, num_register_tokens=4)))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def resnet50(folder, generator):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 16, 24, 32], depths=[1, 2, 1, 1])
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 2 * SIDE})
    return _saved(folder, generator, ResNetForImageClassification(config), processor)


def vc1(folder, generator, width=128, patch=16, depth=2):
    """Two heads, 2 x 2 patches; with the decoder of the autoencoder."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 5, width), "mask_token": (1, 1, 8)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= _norm("norm", width) | _linear("decoder_embed", width, 8)
    for block in range(depth):
        name = f"blocks.{block}"
        shapes |= _norm(f"{name}.norm1", width) | _norm(f"{name}.norm2", width)
        shapes |= _linear(f"{name}.attn.qkv", width, 3 * width) | _linear(f"{name}.attn.proj", width, width)
        shapes |= _linear(f"{name}.mlp.fc1", width, 4 * width) | _linear(f"{name}.mlp.fc2", 4 * width, width)
    return _file(folder / "vc1.pth", {"model": _random_weights(shapes, generator)})


def r3m(folder, generator, depths=(1, 2, 1, 1), bottleneck=True):
    """With torchvision's names of the weights of a ResNet, and 8 to 64 channels."""
    shapes, before = _convolution("conv1", 3, 8, 7) | _batch_norm("bn1", 8), 8
    for stage, depth in enumerate(depths, start=1):
        inner = 4 * 2 ** (stage - 1)
        after = inner * 4 if bottleneck else inner * 2
        for block in range(depth):
            name = f"layer{stage}.{block}"
            sizes = [(before, inner, 1), (inner, inner, 3), (inner, after, 1)]
            sizes = sizes if bottleneck else [(before, after, 3), (after, after, 3)]
            for number, (of, to, side) in enumerate(sizes, start=1):
                shapes |= _convolution(f"{name}.conv{number}", of, to, side) | _batch_norm(f"{name}.bn{number}", to)
            if block == 0 and (stage > 1 or before != after):
                shapes |= _convolution(f"{name}.downsample.0", before, after, 1)
                shapes |= _batch_norm(f"{name}.downsample.1", after)
            before = after
    named = {f"module.convnet.{name}": shape for name, shape in shapes.items()}
    return _file(folder / "r3m.pt", {"r3m": _random_weights(named | {"module.lang_rew.weight": (3, 4)}, generator)})


def mineclip(folder, generator, width=128, patch=32, feature=64, depth=2):
    """Two heads, 5 x 8 patches; two layers that pool in time, also with two heads."""
    image = {"conv1.weight": (width, 3, patch, patch), "cls_token": (width,), "pos_embed": (41, width)}
    image |= {"projection": (width, feature)} | _norm("ln_pre", width) | _norm("ln_post", width)
    for block in range(depth):
        name = f"blocks.{block}"
        image |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
        image |= _linear(f"{name}.attn.out_proj", width, width)
        image |= _norm(f"{name}.ln_1", width) | _norm(f"{name}.ln_2", width)
        image |= _linear(f"{name}.mlp.c_fc", width, 4 * width) | _linear(f"{name}.mlp.c_proj", 4 * width, width)
    video = {"pos_emb.emb.weight": (32, feature)} | _norm("norm", feature)
    for number in range(2 * depth):
        name = f"attn_layers.layers.{number}"
        video |= _norm(f"{name}.0.0", feature)
        if number % 2:
            video |= _linear(f"{name}.1.net.0.proj", feature, 8 * feature)
            video |= _linear(f"{name}.1.net.3", 4 * feature, feature)
        else:
            video |= {f"{name}.1.{part}.weight": (128, feature) for part in ("to_q", "to_k", "to_v")}
            video |= {f"{name}.1.to_out.weight": (feature, 128)}
    named = {f"model.image_encoder.{name}": shape for name, shape in image.items()}
    named |= {f"model.temporal_encoder.attn.model.{name}": shape for name, shape in video.items()}
    return _file(
        folder / "attn.pth", {"state_dict": _random_weights(named | {"model.clip_model.logit_scale": ()}, generator)}
    )


def answer_text(folder, generator):
    words = tokenizer([], front="</s>", back="</s>")
    config = BertConfig(**VIT, intermediate_size=24, vocab_size=len(words), max_position_embeddings=64)
    return _saved(folder, generator, BertModel(config), words)


def _saved(folder, generator, model, *processors):
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if weight.is_floating_point()}
    model.load_state_dict(_random_weights(shapes, generator), strict=False)
    for saved in (model, *processors):
        saved.save_pretrained(folder)
    return folder


def _file(path, values):
    torch.save(values, path)
    return path


def _random_weights(shapes, generator):
    """Return random weights with which states stay near 1, so that an omitted weight changes the result clearly."""
    return {name: _draw(name, torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def _draw(name, values):
    if name.endswith("running_var"):
        return values.abs() + 0.5
    if name.endswith("weight") and "pos" not in name:
        return values / (values.numel() / len(values)) ** 0.5 if values.ndim > 1 else 1 + values / 10
    return values / 2


def _linear(name, of, to):
    return {f"{name}.weight": (to, of), f"{name}.bias": (to,)}


def _norm(name, size):
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _convolution(name, of, to, side):
    return {f"{name}.weight": (to, of, side, side)}


def _batch_norm(name, size):
    return _norm(name, size) | {f"{name}.running_mean": (size,), f"{name}.running_var": (size,)}

"""Encoders of frozen vision models equal the class of transformers, or the original network written out here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_weights
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_parts import frames
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPVisionModel,
    DINOv3ViTModel,
    ResNetModel,
    SiglipVisionModel,
)

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.encoders import answer_text, mineclip, r3m
from pr2l.encoders.base import EncoderSource
from pr2l.vlms.base import Defaults

SHAPE = (24, 40, 3)
MEAN, STD = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
CLASSES = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel, "dinov2": AutoModel, "dinov3": DINOv3ViTModel}
REGISTERS = {"dinov2": 4, "dinov3": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """weights(name): return the path of the encoder's small checkpoint, which is written once."""
    paths = {}

    def path(name):
        if name not in paths:
            paths[name] = small_weights.options(name, tmp_path_factory.mktemp(name))["weights"]
        return paths[name]

    return path


def source(shape=SHAPE, **options):
    return EncoderSource("tiny", Defaults(**options), None, [{}], shape, ())


def create(name, shape=SHAPE, **options):
    module = registry.load("encoders", name)
    return module.create(source(shape), module.Defaults(**options))


def encode(name, pictures, **options):
    encoder = create(name, pictures.shape[1:], **options)
    values = encoder.encode(pictures, [{}] * len(pictures)).values
    assert values.shape == (len(pictures), encoder.tokens, encoder.width)
    return values


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# Classes of transformers.


def processed(name, pictures, weights):
    """Return the pixels of the checkpoint's own processor for stretched frames, without a crop."""
    if name == "dinov3":  # its processor needs torchvision: it scales, and then resizes floats as PIL does
        squares = [np.stack([_resized(channel) for channel in picture.transpose(2, 0, 1)]) for picture in pictures]
        return (torch.tensor(np.stack(squares)) - MEAN) / STD
    processor = AutoImageProcessor.from_pretrained(weights, backend="pil")
    stretched = {"size": small_weights.SQUARE, "do_center_crop": False, "return_tensors": "pt"}
    return processor(list(pictures), **stretched)["pixel_values"]


def _resized(channel):
    scaled = Image.fromarray(channel.astype(np.float32) / 255, mode="F")
    return np.asarray(scaled.resize((small_weights.SIDE, small_weights.SIDE), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_tokens_equal_the_class_of_transformers(name, weights):
    pictures = frames(2, *SHAPE[:2])
    out = CLASSES[name].from_pretrained(weights(name)).eval()(processed(name, pictures, weights(name)))
    first = 0 if name == "siglip" else 1 + REGISTERS.get(name, 0)
    patches = out.last_hidden_state[:, first:]
    assert patches.shape[1] == 16
    assert_close(encode(name, pictures, weights=weights(name), tokens="cls")[:, 0], out.pooler_output)
    assert_close(encode(name, pictures, weights=weights(name), tokens="mean")[:, 0], patches.mean(1))
    before = out.last_hidden_state[:, : min(first, 1)]
    assert_close(encode(name, pictures, weights=weights(name)), torch.cat([before, patches], dim=1))
    quarters = patches.unflatten(1, (2, 2, 2, 2)).mean(dim=(2, 4)).flatten(1, 2)
    pooled = encode(name, pictures, weights=weights(name), image_tokens=4)
    assert_close(pooled, torch.cat([before, quarters], dim=1))


def test_pixels_of_square_frames_equal_the_default_processor(weights):
    """A square frame is not cropped by the default processor."""
    pictures = frames(2, 48, 48)
    processor = AutoImageProcessor.from_pretrained(weights("clip"), backend="pil")
    theirs = processor(list(pictures), return_tensors="pt")["pixel_values"]
    assert torch.equal(create("clip", (48, 48, 3), weights=weights("clip")).pixels(pictures), theirs)


@torch.no_grad()
def test_resnet50_tokens_are_the_cells_of_its_last_feature_map(weights):
    pictures = frames(2, 64, 64)  # of the size to which its processor crops
    processor = AutoImageProcessor.from_pretrained(weights("resnet50"), backend="pil")
    pixels = processor(list(pictures), do_resize=False, return_tensors="pt")["pixel_values"]
    out = ResNetModel.from_pretrained(weights("resnet50")).eval()(pixels)
    assert out.last_hidden_state.shape == (2, 32, 2, 2)
    cells = torch.stack([out.last_hidden_state[:, :, y, x] for y in range(2) for x in range(2)], dim=1)
    assert_close(encode("resnet50", pictures, weights=weights("resnet50")), cells)
    assert_close(encode("resnet50", pictures, weights=weights("resnet50"), tokens="cls")[:, 0], cells.mean(1))


# Published files, with the network written out.


def normalised(pictures, size, resample):
    stretched = [np.asarray(Image.fromarray(picture).resize((size, size), resample)) for picture in pictures]
    return (torch.tensor(np.stack(stretched)).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def norm(x, w, name, eps):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(x, w, name):
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def multi_head_attention(q, k, v, heads=2):
    """Return scaled dot-product attention of each head."""
    q, k, v = (values.unflatten(-1, (heads, -1)).transpose(1, 2) for values in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def vision_transformer(w, pixels):
    """As facebookresearch/eai-vc, vit.py: timm's blocks, positions are added before the class token is prepended."""
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, 1:]
    first = w["cls_token"] + w["pos_embed"][:, :1]
    x = torch.cat([first.expand(len(x), -1, -1), x], dim=1)
    for block in ("blocks.0", "blocks.1"):
        qkv = linear(norm(x, w, f"{block}.norm1", 1e-6), w, f"{block}.attn.qkv")
        x = x + linear(multi_head_attention(*qkv.chunk(3, dim=-1)), w, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
        x = x + linear(hidden, w, f"{block}.mlp.fc2")
    return norm(x, w, "norm", 1e-6)


def test_vc1_equals_its_vision_transformer(weights):
    pictures = frames(2, *SHAPE[:2])
    states = vision_transformer(
        torch.load(weights("vc1"), weights_only=True)["model"], normalised(pictures, 32, Image.Resampling.BICUBIC)
    )
    assert_close(encode("vc1", pictures, weights=weights("vc1")), states)
    assert_close(encode("vc1", pictures, weights=weights("vc1"), tokens="cls")[:, 0], states[:, 0])


def resnet(w, pixels):
    """As in torchvision, the 3 x 3 convolution of a bottleneck has the stride."""

    def conv_norm(x, conv, norm, stride):
        kernel = w[f"{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return F.batch_norm(x, *(w[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")))

    x = F.max_pool2d(conv_norm(pixels, "conv1", "bn1", 2).relu(), 3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in w:
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            convolutions = 3 if f"{name}.conv3.weight" in w else 2
            strides = (1, stride, 1) if convolutions == 3 else (stride, 1)
            shortcut = x
            if f"{name}.downsample.0.weight" in w:
                shortcut = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            for number in range(1, convolutions + 1):
                x = conv_norm(x, f"{name}.conv{number}", f"{name}.bn{number}", strides[number - 1])
                x = x.relu() if number < convolutions else (x + shortcut).relu()
            block += 1
    return x


@pytest.mark.parametrize("bottleneck", [True, False])
def test_r3m_equals_torchvisions_resnet(bottleneck, tmp_path):
    file = small_weights.r3m(tmp_path, torch.Generator().manual_seed(0), bottleneck=bottleneck)
    prefix, saved = "module.convnet.", torch.load(file, weights_only=True)["r3m"]
    w = {name.removeprefix(prefix): weight for name, weight in saved.items() if name.startswith(prefix)}
    pictures = frames(2, *SHAPE[:2])
    maps = resnet(w, normalised(pictures, 224, Image.Resampling.BILINEAR))
    assert maps.shape[2:] == (7, 7)
    assert_close(encode("r3m", pictures, weights=str(file)), maps.flatten(2).transpose(1, 2))
    assert_close(encode("r3m", pictures, weights=str(file), tokens="cls")[:, 0], maps.mean(dim=(2, 3)))


def clip_tower(w, pixels):
    """As in MineCLIP, clip.py: return the feature and the states after the last layer."""
    x = F.conv2d(pixels, w["conv1.weight"], stride=32).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], dim=1) + w["pos_embed"]
    x = norm(x, w, "ln_pre", 1e-5)
    for block in ("blocks.0", "blocks.1"):
        y = norm(x, w, f"{block}.ln_1", 1e-5)
        qkv = F.linear(y, w[f"{block}.attn.in_proj_weight"], w[f"{block}.attn.in_proj_bias"])
        x = x + linear(multi_head_attention(*qkv.chunk(3, dim=-1)), w, f"{block}.attn.out_proj")
        hidden = linear(norm(x, w, f"{block}.ln_2", 1e-5), w, f"{block}.mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), w, f"{block}.mlp.c_proj")
    return norm(x[:, 0], w, "ln_post", 1e-5) @ w["projection"], x


def temporal_pooling(w, x):
    """As in x-transformers 0.27.1 with absolute positions, pre-norm and GLU with swish; then MineCLIP's mean."""
    x = x + w["pos_emb.emb.weight"][: x.shape[1]] * x.shape[2] ** -0.5
    for layer in range(0, 4, 2):
        attention, forward = f"attn_layers.layers.{layer}", f"attn_layers.layers.{layer + 1}"
        y = norm(x, w, f"{attention}.0.0", 1e-5)
        mixed = multi_head_attention(*(linear(y, w, f"{attention}.1.{name}") for name in ("to_q", "to_k", "to_v")))
        x = x + linear(mixed, w, f"{attention}.1.to_out")
        values, gate = linear(norm(x, w, f"{forward}.0.0", 1e-5), w, f"{forward}.1.net.0.proj").chunk(2, dim=-1)
        x = x + linear(values * F.silu(gate), w, f"{forward}.1.net.3")
    return norm(x, w, "norm", 1e-5).mean(1)


def test_mineclip_equals_its_tower_and_temporal_pooling(weights):
    file, pictures = weights("mineclip"), frames(2, 160, 256)
    saved = torch.load(file, weights_only=True)["state_dict"]
    image, video = (mineclip.below(saved, prefix) for prefix in (mineclip.IMAGE_PREFIX, mineclip.VIDEO_PREFIX))
    mean, std = (torch.tensor(values)[:, None, None] for values in (mineclip.MEAN, mineclip.STD))
    pixels = (torch.tensor(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    feature, states = clip_tower(image, pixels)
    assert_close(encode("mineclip", pictures, weights=file)[:, 0], feature)
    assert_close(encode("mineclip", pictures, weights=file, tokens="all"), states)
    still = feature[:, None].repeat(1, 16, 1)
    assert_close(encode("mineclip", pictures, weights=file, video=True)[:, 0], temporal_pooling(video, still))


def test_mineclip_stretches_frames_of_other_sizes(weights):
    """As PIL stretches floats: bilinear, with antialiasing."""
    pictures, size = frames(2, 320, 512), (256, 160)
    scaled = [
        [np.asarray(Image.fromarray(picture[..., channel].astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
         for channel in range(3)] for picture in pictures
    ]  # fmt: skip
    mean, std = (torch.tensor(values)[:, None, None] for values in (mineclip.MEAN, mineclip.STD))
    encoder = create("mineclip", weights=weights("mineclip"))
    assert_close(encoder.pixels(pictures), (torch.tensor(np.array(scaled)) / 255 - mean) / std)


def test_safetensors_give_the_same_tokens(weights, tmp_path):
    pictures = frames(1, *SHAPE[:2])
    save_file(torch.load(weights("vc1"), weights_only=True)["model"], tmp_path / "vc1.safetensors")
    ours, theirs = (
        encode("vc1", pictures, weights=str(path)) for path in (tmp_path / "vc1.safetensors", weights("vc1"))
    )
    assert torch.equal(ours, theirs)


# Random features and answer_text.


def test_random_features_are_a_convolution_with_random_kernels():
    """One layer: the product of each patch with the kernels."""
    pictures = frames(2, 4, 4)
    encoder = create("random_features", (4, 4, 3), size=4, channels=(5,))
    maps = F.pad(torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1, (1, 1, 1, 1))
    patches = [maps[:, :, y : y + 3, x : x + 3].flatten(1) for y in (0, 2) for x in (0, 2)]
    expected = torch.stack([(patch @ encoder.kernels[0].flatten(1).T).relu() for patch in patches], dim=1)
    assert_close(encoder.encode(pictures, [{}] * 2).values, expected)
    same_seed, other_seed = (create("random_features", (4, 4, 3), size=4, channels=(5,), seed=seed) for seed in (0, 1))
    assert torch.equal(same_seed.kernels[0], encoder.kernels[0])
    assert not torch.equal(other_seed.kernels[0], encoder.kernels[0])


def test_random_features_keep_the_scale_of_their_input():
    noise = np.random.default_rng(0).integers(0, 2, (8, 64, 64, 3), dtype=np.uint8) * 255  # mean square 1
    values = create("random_features", (64, 64, 3)).encode(noise, [{}] * 8).values
    assert values.shape == (8, 64, 64) and 0.4 < values.square().mean() < 0.8  # zero padding reduces it at the borders


class EchoVLM:
    """A VLM that answers with the prompt in upper case."""

    special_tokens = ()

    def grids(self, prompt):
        return [1]

    def prompt_length(self, texts):
        return 9

    def hidden(self, frames, texts, prompt_tokens):
        return SimpleNamespace(answers=[text.upper() for text in texts])


@torch.no_grad()
def test_answer_text_is_the_normalised_mean_of_token_embeddings(weights):
    """The reference embeds each text alone, without padding."""
    prompt = Prompt(name="test", text="{text}", slots=("text",), why="", source="")
    text_source = SimpleNamespace(vlm_options=Defaults(), prompt=prompt, load_vlm=EchoVLM, frame_shape=(4, 4, 3))
    text_source.contexts = [{"text": "is it near ?"}, {"text": "where is the medikit , left of you ?"}, {"text": ""}]
    encoder = answer_text.create(text_source, answer_text.Defaults(weights=weights("answer_text")))
    tokens = encoder.encode(frames(3, 4, 4), text_source.contexts)
    assert tokens.values.shape == (3, 1, encoder.width) and tokens.mask.all()
    assert encoder.answers() == ["IS IT NEAR ?", "WHERE IS THE MEDIKIT , LEFT OF YOU ?", ""]
    model = AutoModel.from_pretrained(weights("answer_text")).eval()
    for text, ours in zip(encoder.answers(), tokens.values[:, 0], strict=True):
        embedding = model(**encoder.embedder.tokenizer([text], return_tensors="pt")).last_hidden_state[0].mean(0)
        assert_close(ours, embedding / embedding.norm())


MODULES = ("Transformer", "Pooling", "Normalize")


@pytest.mark.parametrize(
    ("modules", "pooling", "reason"),
    [
        (MODULES, {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, None),
        (MODULES, {"pooling_mode": "mean", "include_prompt": True}, None),
        (MODULES, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "pooling by cls_token"),
        (MODULES, {"pooling_mode": "lasttoken"}, "pooling by lasttoken"),
        ((*MODULES[:2], "Dense"), {"pooling_mode_mean_tokens": True}, "a layer of type Dense"),
    ],
)
def test_only_sentence_embedders_with_mean_pooling_are_accepted(modules, pooling, reason, weights, tmp_path):
    folder = shutil.copytree(weights("answer_text"), tmp_path / "embedder")
    entries = [{"type": f"sentence_transformers.models.{name}", "path": name[:2]} for name in modules]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "Po").mkdir()
    (folder / "Po" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    if reason is None:
        assert answer_text.SentenceEmbedder(str(folder), "cpu")(["yes"]).shape[0] == 1
        return
    with pytest.raises(UserError, match=f"embedder' has {reason}; .*mean pooling"):
        answer_text.SentenceEmbedder(str(folder), "cpu")


@pytest.mark.parametrize("text", ["{", '{"path": "1_Pooling"}', '[{"type": "Transformer"}]'])
def test_damaged_modules_are_refused(text, weights, tmp_path):
    folder = Path(shutil.copytree(weights("answer_text"), tmp_path / "embedder"))
    (folder / "modules.json").write_text(text)
    with pytest.raises(UserError, match="embedder'( is incomplete, damaged|: Expecting)"):
        answer_text.SentenceEmbedder(str(folder), "cpu")


def test_answer_text_needs_generation():
    with pytest.raises(UserError, match="generation=greedy"):
        answer_text.create(source(generation="none"), answer_text.Defaults())


# Errors.


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "dinov3", "resnet50"])
def test_missing_model_gives_the_download_command(name):
    default = registry.load("encoders", name).Defaults().weights
    with pytest.raises(UserError, match=f"'{default}'.*hf download {default} --local-dir FOLDER"):
        create(name)


@pytest.mark.parametrize(("name", "source"), [("vc1", "dl.fbaipublicfiles.com"), ("r3m", "drive.google"),
                                             ("mineclip", "github.com/MineDojo/MineCLIP")])  # fmt: skip
def test_missing_file_gives_its_source(name, source):
    default = registry.load("encoders", name).Defaults().weights
    with pytest.raises(UserError, match=f"'{default}'.*{source}.*encoder_options.weights"):
        create(name)


def test_weights_of_another_architecture_are_refused(weights):
    with pytest.raises(UserError, match="'clip'.*'siglip'"):
        create("siglip", weights=weights("clip"))


def test_missing_weights_are_refused(tmp_path):
    folder = small_weights.options("dinov3", tmp_path)["weights"]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="DINOv3ViTModel: .* weights are missing"):
        create("dinov3", weights=folder)


def test_unsupported_resize_filters_are_refused(weights, tmp_path):
    folder = Path(shutil.copytree(weights("dinov3"), tmp_path / "dinov3"))
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(values | {"resample": 4}))
    with pytest.raises(UserError, match="filter 4"):
        create("dinov3", weights=str(folder))


class NotATensor:
    """A class whose module would run when a pickle is read."""


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"model": NotATensor()}, "contains more than tensors.*If you trust it"),
        ({"state_dict": {}}, "no entry 'model' with weights; it has 'state_dict'"),
        ({"model": torch.zeros(1)}, "no entry 'model' with weights; it has 'model'"),
        (torch.zeros(1), "it has Tensor"),
        ({"model": {"backbone.weight": torch.zeros(1)}}, "so it is not a checkpoint of VC-1"),
        ({"model": {"patch_embed.proj.weight": torch.zeros(1280, 3, 14, 14), "pos_embed": torch.zeros(1, 5, 1280),
                    "blocks.0.mlp.fc1.weight": torch.zeros(8, 1280)}}, "has width 1280, but VC-1 is a ViT-B"),
        ({"model": {"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16), "pos_embed": torch.zeros(1, 5, 64),
                    "blocks.0.mlp.fc1.weight": torch.zeros(8, 64)}}, "do not have the shapes.*Missing key"),
        ({"model": {"patch_embed.proj.weight": torch.zeros(64, 3), "pos_embed": torch.zeros(1, 5, 64),
                    "blocks.0.mlp.fc1.weight": torch.zeros(8, 64)}}, "does not have the shapes.*dl.fbaipublicfiles"),
        ({"model": {"patch_embed.proj.weight": 3}}, "'patch_embed.proj.weight' in the entry .* is not a tensor"),
    ],
)  # fmt: skip
def test_invalid_vc1_files_are_refused(saved, message, tmp_path):
    torch.save(saved, tmp_path / "vc1.pth")
    with pytest.raises(UserError, match=message):
        create("vc1", weights=str(tmp_path / "vc1.pth"))


@pytest.mark.parametrize(("name", "message"), [("vc1.pth", "ends too early"), ("vc1.safetensors", "not a complete")])
def test_empty_files_are_refused(name, message, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        create("vc1", weights=str(tmp_path / name))


def test_git_lfs_pointer_is_refused(weights, tmp_path):
    folder = Path(shutil.copytree(weights("clip"), tmp_path / "clip"))
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match="incomplete, damaged"):
        create("clip", weights=str(folder))


@pytest.mark.parametrize("size", [0, 1, 7, 100, 5000])
@pytest.mark.parametrize("name", ["clip", "resnet50", "vc1", "r3m", "mineclip", "answer_text"])
def test_truncated_weights_are_refused(name, size, weights, tmp_path):
    path = Path(weights(name))
    if path.is_dir():
        copied = Path(shutil.copytree(path, tmp_path / name))
        file = copied / "model.safetensors"
    else:
        copied = file = Path(shutil.copy(path, tmp_path / path.name))
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match="Download it again"):
        create(name, weights=str(copied))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": 3}', "\x00"])
@pytest.mark.parametrize("name", ["clip", "dinov3"])
def test_damaged_json_files_are_refused(name, file, text, weights, tmp_path):
    copied = Path(shutil.copytree(weights(name), tmp_path / name))
    (copied / file).write_text(text)
    with pytest.raises(UserError, match="encoder_options: .*weights="):
        create(name, weights=str(copied))


def test_weights_may_be_below_the_home_folder(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(weights("vc1"), tmp_path / "mine.pth")
    assert create("vc1", weights="~/mine.pth").key()["weights"]["name"] == "mine.pth"


@pytest.mark.parametrize("module", [r3m, mineclip])
def test_files_without_the_right_weights_are_refused(module, tmp_path):
    torch.save({"r3m": {"x": torch.zeros(1)}, "state_dict": {"x": torch.zeros(1)}}, tmp_path / "file.pt")
    with pytest.raises(UserError, match="not a checkpoint of"):
        module.create(source(), module.Defaults(weights=str(tmp_path / "file.pt")))


def test_image_tokens_options(weights):
    with pytest.raises(UserError, match="image_tokens=1.*tokens=cls"):
        create("vc1", weights=weights("vc1"), tokens="cls", image_tokens=1)
    with pytest.raises(UserError, match="1, 4 or null"):
        create("vc1", weights=weights("vc1"), image_tokens=3)
    assert create("vc1", weights=weights("vc1"), image_tokens=1).tokens == 2

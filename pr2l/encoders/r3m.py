"""R3M (Nair et al. 2022), a ResNet trained on Ego4D's videos of people with descriptions of their actions.

ResNet-50: 224 x 224 pixels, 49 tokens (the 7 x 7 positions of the last stage), width 2048; tokens=cls is the published
representation, their mean. ResNet-18 and -34 (width 512) work as well. MIT licence. Source: model.pt, which
load_r3m("resnet50") of facebookresearch/r3m downloads from Google Drive to ~/.r3m/r3m_50; loaded without that package.
Written from r3m @ b2334e7, r3m/__init__.py and r3m/models/models_r3m.py; the network is torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL.Image import Resampling
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import (
    FileEncoder,
    SquareDefaults,
    VisionOutput,
    from_feature_map,
    imagenet_processor,
    load_weights,
)
from pr2l.vlms.pixels import Pixels

SIZE = 224  # pixels
PREFIX = "module.convnet."  # of nn.DataParallel, then of the image encoder
STAGES = 4
NEEDED = ("conv1.weight", *(f"layer{stage}.0.conv2.weight" for stage in range(1, STAGES + 1)))  # to infer the sizes


class Defaults(SquareDefaults):
    """Options of the encoder `r3m`."""

    weights: str = "weights/r3m_50.pt"  # model.pt as published, or the tensors of its entry "r3m" as .safetensors


class R3mEncoder(FileEncoder):
    """Encoder of frames by R3M's ResNet."""

    published = "https://drive.google.com/uc?id=1Xu0ssuG0N1zjZS54wmWzJ7-nb0-7XzbA (ResNet-50, model.pt of r3m)"
    entry = "r3m"

    def build_model(self, tensors: Mapping[str, Tensor], path: str) -> nn.Module:
        image = {name.removeprefix(PREFIX): tensors[name] for name in tensors if name.startswith(PREFIX)}
        if missing := [name for name in NEEDED if name not in image]:
            raise UserError(f"{path} has no weight {PREFIX + missing[0]!r}, so it is not a checkpoint of R3M.")
        model = ResNetModel(resnet_config(image))
        return load_weights(model, as_transformers(image), path)

    def preprocessing(self) -> Callable[[Frames], Tensor]:
        return Pixels(imagenet_processor(Resampling.BILINEAR), SIZE, self.device, self.dtype)

    def forward(self, pixels: Tensor) -> VisionOutput:
        return from_feature_map(self.model(pixels))


def resnet_config(tensors: Mapping[str, Tensor]) -> Any:
    """Return the config that fits the weights' shapes.

    Blocks have three convolutions in ResNet-50, and two in ResNet-18 and -34. Names are torchvision's.

    Args:
        tensors: Name -> weight of the image encoder, without the prefix of the published file.
    """
    last = "conv3" if "layer1.0.conv3.weight" in tensors else "conv2"
    stages = range(1, STAGES + 1)
    return ResNetConfig(
        embedding_size=len(tensors["conv1.weight"]),
        hidden_sizes=[len(tensors[f"layer{stage}.0.{last}.weight"]) for stage in stages],
        depths=[sum(bool(re.match(rf"layer{stage}\.\d+\.conv1", name)) for name in tensors) for stage in stages],
        layer_type="bottleneck" if last == "conv3" else "basic",
    )


def as_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from torchvision's names to transformers'.

    Args:
        tensors: Name -> weight. Names of an unknown form are kept.
    """
    return {_renamed(name): weight for name, weight in tensors.items()}


def _renamed(name: str) -> str:
    layer_types = {"conv": "convolution", "bn": "normalization"}
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"embedder.embedder.{layer_types[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
        stage, block, kind, number, suffix = match.groups()
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}.{layer_types[kind]}.{suffix}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", name):
        stage, block, index, suffix = match.groups()
        kind = "convolution" if index == "0" else "normalization"
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{kind}.{suffix}"
    return name


def create(source: EncoderSource, options: Defaults) -> R3mEncoder:
    return R3mEncoder(source, options)

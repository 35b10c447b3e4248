"""R3M (Nair et al. 2022): a ResNet trained on Ego4D's videos of people and what they are told to do.

ResNet-50: 224 x 224 pixels, 49 tokens (the 7 x 7 places of the last stage), width 2048; tokens=cls is the published
representation, their mean. ResNet-18 and -34 (width 512) are read as well. MIT licence. Source: model.pt, which
load_r3m("resnet50") of facebookresearch/r3m fetches from Google Drive to ~/.r3m/r3m_50; read without that package.
Written from r3m @ b2334e7, r3m/__init__.py and r3m/models/models_r3m.py; the network is torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import FileEncoder, Seen, SquareDefaults, as_torchvision, loaded, places
from pr2l.vlms.pixels import Pixels

SIZE = 224  # pixels
PREFIX = "module.convnet."  # nn.DataParallel's, and the part that sees
STAGES = 4


class Defaults(SquareDefaults):
    weights: str = "weights/r3m_50.pt"  # model.pt as published, or its "r3m" as .safetensors


class R3mEncoder(FileEncoder):
    published = "https://drive.google.com/uc?id=1Xu0ssuG0N1zjZS54wmWzJ7-nb0-7XzbA (ResNet-50, model.pt of r3m)"
    entry = "r3m"

    def read(self, weights: str, dtype: torch.dtype) -> nn.Module:
        held = self.read_tensors(weights)
        tensors = {name.removeprefix(PREFIX): held[name] for name in held if name.startswith(PREFIX)}
        if not tensors:
            raise UserError(f"{weights}: no weight's name begins with {PREFIX!r}, so it is no R3M.")
        model = ResNetModel(resnet_config(tensors))
        return loaded(model, as_transformers(tensors), weights).to(dtype)

    def read_pixels(self) -> Callable[[Frames], Tensor]:
        return Pixels(as_torchvision(Resampling.BILINEAR), SIZE, self.device, self.dtype)

    def look(self, pixels: Tensor) -> Seen:
        return places(self.model(pixels))


def resnet_config(tensors: Mapping[str, Tensor]) -> Any:
    """Sizes are read off the weights; ResNet-50's blocks have three convolutions, smaller ResNets' two."""
    last = "conv3" if "layer1.0.conv3.weight" in tensors else "conv2"
    stages = range(1, STAGES + 1)
    return ResNetConfig(
        embedding_size=len(tensors["conv1.weight"]),
        hidden_sizes=[len(tensors[f"layer{stage}.0.{last}.weight"]) for stage in stages],
        depths=[sum(bool(re.match(rf"layer{stage}\.\d+\.conv1", name)) for name in tensors) for stage in stages],
        layer_type="bottleneck" if last == "conv3" else "basic",
    )


def as_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names as transformers'."""
    return {_renamed(name): weight for name, weight in tensors.items()}


def _renamed(name: str) -> str:
    parts = {"conv": "convolution", "bn": "normalization"}
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"embedder.embedder.{parts[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
        stage, block, part, number, rest = found.groups()
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}.{parts[part]}.{rest}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", name):
        stage, block, part, rest = found.groups()
        kind = "convolution" if part == "0" else "normalization"
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{kind}.{rest}"
    return name


def create(source: EncoderSource, options: Defaults) -> R3mEncoder:
    return R3mEncoder(source, options)

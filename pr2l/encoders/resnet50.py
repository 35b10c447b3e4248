"""ResNet-50 (He et al. 2015), trained to classify ImageNet.

224 x 224 pixels, 49 tokens (the 7 x 7 positions of the last stage), width 2048; tokens=cls and tokens=mean are both the
average over the positions. Apache 2.0 licence. Source: microsoft/resnet-50 on the Hugging Face Hub, which is v1.5.
Other ResNets in transformers' format work as well.
"""

from __future__ import annotations

from torch import Tensor
from transformers import ResNetModel

from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import HubEncoder, SquareDefaults, VisionOutput, from_feature_map


class Defaults(SquareDefaults):
    """Options of the encoder `resnet50`."""

    weights: str = "microsoft/resnet-50"  # a Hub id or a folder


class ResNetEncoder(HubEncoder):
    """Encoder of frames by a ResNet."""

    model_class, model_types = ResNetModel, ("resnet",)

    def forward(self, pixels: Tensor) -> VisionOutput:
        return from_feature_map(self.model(pixels))


def create(source: EncoderSource, options: Defaults) -> ResNetEncoder:
    return ResNetEncoder(source, options)

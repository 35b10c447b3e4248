"""DINOv2 (Oquab et al. 2023), trained on images alone, without text.

ViT-B/14: 224 x 224 pixels, 1 + 256 tokens, width 768. Apache 2.0 licence. Source: facebook/dinov2-base on the Hugging
Face Hub. With facebook/dinov2-with-registers-base, the four register tokens are dropped, as they belong to no patch.
"""

from __future__ import annotations

from transformers import AutoModel

from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import HubEncoder, SquareDefaults


class Defaults(SquareDefaults):
    """Options of the encoder `dinov2`."""

    weights: str = "facebook/dinov2-base"  # a Hub id or a folder


class Dinov2Encoder(HubEncoder):
    """Encoder of frames by DINOv2's vision transformer."""

    model_class, model_types = AutoModel, ("dinov2", "dinov2_with_registers")


def create(source: EncoderSource, options: Defaults) -> Dinov2Encoder:
    return Dinov2Encoder(source, options)

"""SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025): as CLIP, with a sigmoid loss for each pair.

SigLIP 2 ViT-B/16: 224 x 224 pixels, 196 tokens, width 768; no class token, so that tokens=cls is its attention pooling.
Apache 2.0 licence. Source: google/siglip2-base-patch16-224 on the Hugging Face Hub, or google/siglip-base-patch16-224,
which is SigLIP and has the same shape.
"""

from __future__ import annotations

from transformers import SiglipVisionModel

from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import HubEncoder, SquareDefaults


class Defaults(SquareDefaults):
    weights: str = "google/siglip2-base-patch16-224"  # a Hub id or a folder


class SiglipEncoder(HubEncoder):
    model_class, model_types = SiglipVisionModel, ("siglip", "siglip_vision_model")
    advice = "Of SigLIP 2 take a checkpoint with one size, such as google/siglip2-base-patch16-224, not a NaFlex one."


def create(source: EncoderSource, options: Defaults) -> SiglipEncoder:
    return SiglipEncoder(source, options)

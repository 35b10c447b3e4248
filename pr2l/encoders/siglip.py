"""SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025), trained like CLIP, but with a sigmoid loss per pair.

SigLIP 2 ViT-B/16: 224 x 224 pixels, 196 tokens, width 768. It has no class token; tokens=cls is its attention pooling.
Apache 2.0 licence. Source: google/siglip2-base-patch16-224 on the Hugging Face Hub, or google/siglip-base-patch16-224
for SigLIP, which has the same shape.
"""

from __future__ import annotations

from transformers import SiglipVisionModel

from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import HubEncoder, SquareDefaults


class Defaults(SquareDefaults):
    """Options of the encoder `siglip`."""

    weights: str = "google/siglip2-base-patch16-224"  # a Hub id or a folder


class SiglipEncoder(HubEncoder):
    """Encoder of frames by SigLIP's vision transformer."""

    model_class, model_types = SiglipVisionModel, ("siglip", "siglip_vision_model")
    advice = "For SigLIP 2 use a checkpoint of one image size, such as google/siglip2-base-patch16-224, not NaFlex."


def create(source: EncoderSource, options: Defaults) -> SiglipEncoder:
    return SiglipEncoder(source, options)

"""CLIP's image encoder (Radford et al. 2021), trained to match images with their captions.

ViT-B/16: 224 x 224 pixels, 1 + 196 tokens, width 768. MIT licence. Source: openai/clip-vit-base-patch16 on the
Hugging Face Hub; the other ViTs of CLIP, and OpenCLIP's in transformers' format, work as well. Tokens are taken after
the last layer; only the summary (tokens=cls), which comes from the class token, goes through the final norm.
"""

from __future__ import annotations

from transformers import CLIPVisionModel

from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import HubEncoder, SquareDefaults


class Defaults(SquareDefaults):
    """Options of the encoder `clip`."""

    weights: str = "openai/clip-vit-base-patch16"  # a Hub id or a folder


class ClipEncoder(HubEncoder):
    """Encoder of frames by CLIP's vision transformer."""

    model_class, model_types = CLIPVisionModel, ("clip", "clip_vision_model")


def create(source: EncoderSource, options: Defaults) -> ClipEncoder:
    return ClipEncoder(source, options)

"""DINOv3 (Simeoni et al. 2025), the successor of DINOv2, with rotary position embeddings.

ViT-B/16: 224 x 224 pixels, 1 + 196 tokens, width 768; its four register tokens are dropped, as they belong to no patch.
DINOv3 licence, to be accepted on the model's page. Source: facebook/dinov3-vitb16-pretrain-lvd1689m on the Hugging Face
Hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import DINOv3ViTModel
from transformers.utils.hub import cached_file

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import HubEncoder, SquareDefaults


class Defaults(SquareDefaults):
    """Options of the encoder `dinov3`."""

    weights: str = "facebook/dinov3-vitb16-pretrain-lvd1689m"  # a Hub id or a folder


class Dinov3Encoder(HubEncoder):
    """Encoder of frames by DINOv3's vision transformer."""

    model_class, model_types = DINOv3ViTModel, ("dinov3_vit",)
    advice = "The convolutional DINOv3 models are not supported."

    def preprocessing(self) -> Callable[[Frames], Tensor]:
        """Return a function that equals transformers' DINOv3ViTImageProcessor, which needs torchvision.

        Unlike the other processors it scales the pixels first and resizes floating-point numbers.

        Raises:
            UserError: The file names a filter other than bilinear and bicubic.
        """
        weights = self.options.weights
        values = json.loads(Path(cached_file(weights, "preprocessor_config.json")).read_text(encoding="utf-8"))
        size, filters = values["size"], {2: "bilinear", 3: "bicubic"}
        if values["resample"] not in filters:
            raise UserError(
                f"encoder_options: the image processor of weights={weights!r} resizes with PIL's filter"
                f" {values['resample']}; 2 (bilinear) and 3 (bicubic) are supported."
            )
        mode, scale = filters[values["resample"]], values.get("rescale_factor", 1 / 255)
        mean, std = (
            torch.tensor(values[name], device=self.device)[:, None, None] for name in ("image_mean", "image_std")
        )

        def pixels(frames: Frames) -> Tensor:
            scaled = rearrange(torch.tensor(frames, device=self.device), "b h w c -> b c h w").float() * scale
            squares = interpolate(scaled, (size["height"], size["width"]), mode=mode, antialias=True)
            return ((squares - mean) / std).to(self.dtype)

        return pixels


def create(source: EncoderSource, options: Defaults) -> Dinov3Encoder:
    return Dinov3Encoder(source, options)

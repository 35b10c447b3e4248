"""VC-1, the "visual cortex" (Majumdar et al. 2023), a masked autoencoder of egocentric video and ImageNet.

ViT-B/16: 224 x 224 pixels, 1 + 196 tokens, width 768, after the final norm. The paper's VC-1 without a size in its name
is the ViT-L/16 (width 1024). CC BY-NC licence. Source: https://dl.fbaipublicfiles.com/eai-vc/vc1_vitb.pth (or
vc1_vitl.pth), loaded without its package. tokens=cls equals the output of vc_models (use_cls).
Written from facebookresearch/eai-vc @ e782c35, vc_models/src/vc_models/models/vit/vit.py and transforms/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from PIL.Image import Resampling
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import FileEncoder, SquareDefaults, VisionOutput, imagenet_processor, load_weights
from pr2l.vlms.pixels import Pixels
from pr2l.vlms.timm_towers import renamed

HEAD = 64  # width of an attention head in ViT-S, B and L
NEEDED = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")  # to infer the sizes
NAMES = {  # timm's names -> transformers'
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "blocks": "layers",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "norm": "layernorm",
    "attn.proj": "attention.o_proj",
    "attn": "attention",
}


class Defaults(SquareDefaults):
    """Options of the encoder `vc1`."""

    weights: str = "weights/vc1_vitb.pth"  # the file as published, or the tensors of its entry "model" as .safetensors


class Vc1Encoder(FileEncoder):
    """Encoder of frames by VC-1's vision transformer."""

    published = "https://dl.fbaipublicfiles.com/eai-vc/vc1_vitb.pth (ViT-B) or vc1_vitl.pth there (ViT-L)"
    entry = "model"

    def build_model(self, tensors: Mapping[str, Tensor], path: str) -> nn.Module:
        if missing := [name for name in NEEDED if name not in tensors]:
            raise UserError(f"{path} has no weight {missing[0]!r}, so it is not a checkpoint of VC-1.")
        if (width := len(tensors[NEEDED[0]])) > 1024:
            raise UserError(f"{path} has width {width}, but VC-1 is a ViT-B (768) or a ViT-L (1024).")
        model = ViTModel(vit_config(tensors), add_pooling_layer=False)
        return load_weights(model, as_transformers(tensors), path)

    def preprocessing(self) -> Callable[[Frames], Tensor]:
        return Pixels(imagenet_processor(Resampling.BICUBIC), self.model.config.image_size, self.device, self.dtype)

    def forward(self, pixels: Tensor) -> VisionOutput:
        states = self.model(pixels).last_hidden_state
        return VisionOutput(states[:, 0], states[:, :1], states[:, 1:])


def vit_config(tensors: Mapping[str, Tensor]) -> Any:
    """Return the config that fits the weights' shapes; names are timm's.

    Args:
        tensors: Name -> weight. The width of a head is 64, and the positions are a class token and a square grid.
    """
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    return ViTConfig(
        hidden_size=width,
        patch_size=patch,
        image_size=patch * round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        num_attention_heads=width // HEAD,
        intermediate_size=len(tensors["blocks.0.mlp.fc1.weight"]),
        layer_norm_eps=1e-6,
    )


def as_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights from timm's format to transformers' format.

    timm stores queries, keys and values as one matrix. The weights of the decoder are dropped.

    Args:
        tensors: timm's name -> weight, as in the published file.
    """
    state_dict = dict[str, Tensor]()
    for name, weight in tensors.items():
        if "decoder" in name or "mask_token" in name:
            continue
        matrices = zip("qkv", weight.chunk(3), strict=True) if ".qkv." in name else [("", weight)]
        state_dict |= {renamed(name, NAMES).replace("qkv", f"{letter}_proj"): matrix for letter, matrix in matrices}
    return state_dict


def create(source: EncoderSource, options: Defaults) -> Vc1Encoder:
    return Vc1Encoder(source, options)

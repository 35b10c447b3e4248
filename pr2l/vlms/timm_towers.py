"""Config and weights of timm's DINOv2 and SigLIP vision transformers, converted to transformers' classes.

Written from timm 0.9.10 (models/vision_transformer.py, layers/pos_embed.py), which Prismatic pins. A tower ends before
its last block: Prismatic uses the input of that block, so the block, the final norm and the pooling are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig

HEADS = 16  # attention heads of ViT-L and of SigLIP's so400m; all other sizes come from the weights

# timm's names -> transformers' names; the first that matches is used.
DINO = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "blocks": "encoder.layer",
    "attn.proj": "attention.o_proj",
    "attn": "attention",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
SIGLIP = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "blocks": "encoder.layers",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "attn": "self_attn",
}


def dino_config(weights: Mapping[str, Tensor], size: int) -> Any:
    """Return transformers' config of a DINOv2 tower.

    Args:
        weights: Name -> weight, from timm's model.safetensors.
        size: Side of the picture in pixels, a multiple of the side of a patch.
    """
    return Dinov2WithRegistersConfig(**_shape(weights, size), num_register_tokens=weights["reg_token"].shape[1])


def siglip_config(weights: Mapping[str, Tensor], size: int) -> Any:
    """Return transformers' config of a SigLIP tower.

    Args:
        weights: Name -> weight, from timm's model.safetensors.
        size: Side of the picture in pixels, a multiple of the side of a patch.
    """
    inner = len(weights["blocks.0.mlp.fc1.weight"])
    return SiglipVisionConfig(**_shape(weights, size), intermediate_size=inner, vision_use_head=False)


def dino_weights(weights: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Convert the weights of a DINOv2 tower to transformers' names.

    Args:
        weights: Name -> weight, from timm's model.safetensors.
        size: Side of the picture in pixels; position embeddings for another size are resized.
    """
    positions = _positions(weights, size)
    none = torch.zeros_like(positions[:, :1])  # timm's class token includes its position embedding
    return _blocks(weights, DINO) | {
        "embeddings.position_embeddings": torch.cat([none, positions], dim=1),
        "embeddings.mask_token": none[0],  # not used
    }


def siglip_weights(weights: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Convert the weights of a SigLIP tower to transformers' names.

    Args:
        weights: Name -> weight, from timm's model.safetensors.
        size: Side of the picture in pixels; position embeddings for another size are resized.
    """
    return _blocks(weights, SIGLIP) | {"embeddings.position_embedding.weight": _positions(weights, size)[0]}


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Replace every part of a weight's name that is in a table.

    Args:
        name: Name of a weight, such as "blocks.0.attn.proj.weight".
        names: Part of a name -> its replacement; the first match counts.
    """
    return re.sub("|".join(map(re.escape, names)), lambda match: names[match[0]], name)


def _shape(weights: Mapping[str, Tensor], size: int) -> dict[str, Any]:
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    # timm's SigLIP has the exact GELU, though SigLIP was trained with the approximation by tanh.
    layers = {"num_hidden_layers": _last_block(weights), "num_attention_heads": HEADS, "hidden_act": "gelu"}
    return {"hidden_size": width, "patch_size": patch, "image_size": size, **layers}


def _last_block(weights: Mapping[str, Tensor]) -> int:
    return max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))


def _blocks(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return all converted weights but the positions; timm stores queries, keys and values as one matrix."""
    last, converted = f"blocks.{_last_block(weights)}.", dict[str, Tensor]()
    for name, weight in weights.items():
        if name.startswith(last) or not name.startswith(("patch_embed.", "cls_token", "reg_token", "blocks.")):
            continue
        parts = zip("qkv", weight.chunk(3), strict=True) if ".qkv." in name else [("", weight)]
        converted |= {renamed(name, names).replace("qkv", f"{letter}_proj"): part for letter, part in parts}
    return converted


def _positions(weights: Mapping[str, Tensor], size: int) -> Tensor:
    """Return position embeddings [1, N, D], resized if they are for another size, such as DINOv2's for 518 pixels."""
    embeddings, side = weights["pos_embed"], size // weights["patch_embed.proj.weight"].shape[-1]
    if embeddings.shape[1] == side**2:
        return embeddings
    grid = embeddings.unflatten(1, (round(embeddings.shape[1] ** 0.5), -1)).permute(0, 3, 1, 2)
    scaled = nn.functional.interpolate(grid.float(), size=(side, side), mode="bicubic", antialias=True)
    return scaled.flatten(2).transpose(1, 2)

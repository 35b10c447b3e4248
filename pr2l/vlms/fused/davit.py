"""DaViT (Ding et al. 2022), the vision tower of Florence-2.

The pictures stay [B, H, W, C] in memory from the first layer to the last, so that linear layers, norms and depthwise
convolutions need no copies in between. A block's residual around its convolution is part of the convolution's weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pr2l.vlms.fused.layers import Derived, linear, linear_add, linear_gelu


class Tower:
    """The function of a `Florence2VisionBackbone`, without gradients.

    Args:
        backbone: transformers' module, whose weights are used.
    """

    def __init__(self, backbone: Any) -> None:
        self._stages = [
            (patches, [part for block in blocks for part in _parts(block)])
            for patches, blocks in zip(backbone.convs, backbone.blocks, strict=True)
        ]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the features [B, C, H', W'] of pictures [B, 3, H, W]."""
        states = pixels.permute(0, 2, 3, 1)
        for patches, blocks in self._stages:
            states = embed_patches(patches, states)
            for block in blocks:
                states = block(states)
        return states.permute(0, 3, 1, 2)


def _parts(block: Any) -> tuple[Block, Block]:
    return Spatial(block.spatial_block), Channel(block.channel_block)


def embed_patches(layer: Any, states: Tensor) -> Tensor:
    """Convert pictures or states [B, H, W, C] to patches [B, H', W', D].

    Args:
        layer: `Florence2VisionConvEmbed`.
        states: [B, H, W, C].
    """
    if layer.pre_norm:
        states = layer.norm(states)
    patches: Tensor = layer.conv(states.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))
    patches = patches.permute(0, 2, 3, 1).contiguous()
    return patches if layer.pre_norm else layer.norm(patches)


class Block:
    """Convolution, attention, convolution, MLP, each with a residual. Subclasses implement the attention.

    Args:
        block: `Florence2VisionSpatialBlock` or `Florence2VisionChannelBlock`.
    """

    def __init__(self, block: Any) -> None:
        self.block = block
        self._first, self._second = Derived(with_residual), Derived(with_residual)

    def __call__(self, states: Tensor) -> Tensor:
        """Return the block's output for states [B, H, W, C], contiguous."""
        block = self.block
        states = _convolved(states, block.conv1, self._first)
        states = linear_add(self.attention.proj, self.attend(block.norm1(states)), states)
        states = _convolved(states, block.conv2, self._second)
        return linear_add(block.ffn.fc2, linear_gelu(block.ffn.fc1, block.norm2(states)), states)

    @property
    def attention(self) -> Any:
        """The module with the layers `qkv` and `proj`."""
        raise NotImplementedError

    def attend(self, states: Tensor) -> Tensor:
        """Return what every position reads, [B, H, W, C], before the output projection.

        Args:
            states: [B, H, W, C], contiguous.
        """
        raise NotImplementedError


class Spatial(Block):
    """Block in which every position attends to the others of its window."""

    @property
    def attention(self) -> Any:
        return self.block.window_attn

    def attend(self, states: Tensor) -> Tensor:
        side, heads = self.attention.window_size, self.attention.num_heads
        rows, height, width, size = states.shape
        states = functional.pad(states, (0, 0, 0, -width % side, 0, -height % side))
        down, across = states.shape[1] // side, states.shape[2] // side
        # [B, down x side, across x side, 3 x heads x D] -> 3 of [B x down x across, heads, side x side, D]
        windows = linear(self.attention.qkv, states).view(rows, down, side, across, side, 3, heads, size // heads)
        windows = windows.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, side * side, size // heads)
        query, key, value = windows.unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        attended = attended.view(rows, down, across, heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return attended.reshape(rows, down * side, across * side, size)[:, :height, :width].contiguous()


class Channel(Block):
    """Block in which every channel attends to the other channels of its group, over all positions."""

    @property
    def attention(self) -> Any:
        return self.block.channel_attn

    def attend(self, states: Tensor) -> Tensor:
        rows, height, width, size = states.shape
        groups, positions = self.attention.groups, height * width
        # [B, N, 3 x groups x D] -> 3 of [B, groups, N, D]
        parts = linear(self.attention.qkv, states).view(rows, positions, 3, groups, size // groups)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(query.transpose(2, 3), key).mul_(positions**-0.5).softmax(dim=-1)
        attended = torch.matmul(value, scores.transpose(2, 3))  # [B, groups, N, D]
        return attended.transpose(1, 2).reshape(rows, height, width, size)


def with_residual(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a depthwise convolution that also adds its input.

    Args:
        weight: [C, 1, 3, 3].
        bias: [C].
    """
    weight = weight.clone()
    weight[:, 0, 1, 1] += 1
    return weight.contiguous(memory_format=torch.channels_last), bias.clone()


def _convolved(states: Tensor, layer: nn.Conv2d, derived: Derived[tuple[Tensor, Tensor]]) -> Tensor:
    assert layer.bias is not None
    weight, bias = derived(layer.weight, layer.bias)
    pictures = states.permute(0, 3, 1, 2)  # channels_last, as states are contiguous
    return functional.conv2d(pictures, weight, bias, padding=1, groups=len(weight)).permute(0, 2, 3, 1)

"""MineCLIP (Fan et al. 2022): CLIP trained on videos of Minecraft and what their players say.

ViT-B/16: 160 x 256 pixels. tokens=cls, the default, is one token of width 512, the image feature that MineDojo's agents
read frame by frame; tokens=all is 1 + 160 tokens of width 768 after the last layer. MIT licence. Source: the `attn` or
`avg` checkpoint that the README of MineDojo/MineCLIP links to on Google Drive, read without its package.

MineCLIP pools 16 frames in time to score a video against a text. An encoder knows one frame, not the episode before it
(stores and memories go by the frame), so the feature of the frame alone is what a policy gets, as MineAgent's does; a
policy that needs the past has an LSTM for it. With `video` the temporal pooling sees the frame 16 times over: a video
that stands still, as forward_video_features gives it: before the adapter after which MineCLIP compares videos with
texts. For `avg` that is the image feature again.
Frames of another size are stretched; the package leaves that to its caller.
Written from MineCLIP @ e6c06a0, mineclip/mineclip (mineclip.py, base.py, clip.py, pooling.py, transformer.py), and from
x-transformers 0.27.1, of which the latter is made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import FileEncoder, Seen, VisionDefaults, loaded

SIZE = (160, 256)  # pixels
MEAN, STD = (0.3331, 0.3245, 0.3051), (0.2439, 0.2493, 0.2873)  # of 21,000 clips (base.py)
HEAD = 64  # numbers of an attention head
VIDEO = 16  # frames of a video, as MineCLIP was trained
IMAGE_PREFIX, VIDEO_PREFIX = "model.image_encoder.", "model.temporal_encoder.attn.model."


class Defaults(VisionDefaults):
    weights: str = "weights/mineclip_attn.pth"  # the file as published, or its "state_dict" as .safetensors
    tokens: Literal["all", "cls", "mean"] = "cls"  # MineCLIP's feature; class token and patches; the patches' mean
    video: bool = False  # tokens=cls after the temporal pooling, which is shown the frame 16 times


class MineClipEncoder(FileEncoder):
    options: Defaults
    published = "https://github.com/MineDojo/MineCLIP, whose README links to `attn` and `avg` on Google Drive,"
    entry = "state_dict"

    def read(self, weights: str, dtype: torch.dtype) -> nn.Module:
        held = self.read_tensors(weights)
        image, video = (below(held, prefix) for prefix in (IMAGE_PREFIX, VIDEO_PREFIX))
        if not image:
            raise UserError(f"{weights}: no weight's name begins with {IMAGE_PREFIX!r}, so it is no MineCLIP.")
        model = nn.ModuleDict({"image": loaded(ImageTower(image), image, weights)})
        if self.options.video and video:
            model["video"] = loaded(VideoTower(video), video, weights)
        return model.to(dtype)

    def read_pixels(self) -> Callable[[Frames], Tensor]:
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))

        def pixels(frames: Frames) -> Tensor:
            pictures = torch.tensor(frames, device=self.device).permute(0, 3, 1, 2).float()
            if pictures.shape[2:] != SIZE:
                pictures = interpolate(pictures, SIZE, mode="bilinear", antialias=True)
            return ((pictures / 255 - mean) / std).to(self.dtype)

        return pixels

    def look(self, pixels: Tensor) -> Seen:
        feature, states = self.model["image"](pixels)
        if "video" in self.model:
            feature = self.model["video"](feature[:, None].expand(-1, VIDEO, -1))
        return Seen(feature, states[:, :1], states[:, 1:])


class Block(nn.Module):
    """A layer of CLIP, with its names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=inner, gelu=QuickGELU(), c_proj=outer))

    def forward(self, states: Tensor) -> Tensor:
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False)[0]
        return states + self.mlp(self.ln_2(states))


class QuickGELU(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


class ImageTower(nn.Module):
    """[B, 3, 160, 256] -> the feature of each picture [B, F], and the last layer's states [B, 1 + patches, D]."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Sizes are read off the weights."""
        super().__init__()
        width, _, patch, _ = weights["conv1.weight"].shape
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.cls_token, self.pos_embed, self.projection = (
            nn.Parameter(torch.empty(weights[name].shape)) for name in ("cls_token", "pos_embed", "projection")
        )
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(patches), 1, -1)
        states = self.blocks(self.ln_pre(torch.cat([first, patches], dim=1) + self.pos_embed))
        return self.ln_post(states[:, 0]) @ self.projection, states


class VideoTower(nn.Module):
    """[B, L, F] -> [B, F]: a pre-norm transformer, attention and feed-forward in turn, and the mean over the L frames.

    The names are those of x-transformers.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Sizes are read off the weights."""
        super().__init__()
        length, width = weights["pos_emb.emb.weight"].shape
        inner = len(weights["attn_layers.layers.0.1.to_q.weight"])
        wide = weights["attn_layers.layers.1.1.net.3.weight"].shape[1]
        depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("attn_layers."))
        blocks = [FeedForward(width, wide) if number % 2 else Attention(width, inner) for number in range(depth)]
        layers = nn.ModuleList(nn.ModuleList([nn.ModuleList([nn.LayerNorm(width)]), block]) for block in blocks)
        self.attn_layers = nn.ModuleDict({"layers": layers})
        self.pos_emb = nn.ModuleDict({"emb": nn.Embedding(length, width)})
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        length, width = features.shape[1:]
        positions: Any = self.pos_emb["emb"]
        layers: Any = self.attn_layers["layers"]
        states = features + positions.weight[:length] * width**-0.5
        for (norm,), block in layers:
            states = states + block(norm(states))
        return self.norm(states).mean(dim=1)


class Attention(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        parts = (part(states).unflatten(2, (-1, HEAD)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v))
        return self.to_out(scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width, inner), nn.Identity(), nn.Identity(), nn.Linear(inner, width))

    def forward(self, states: Tensor) -> Tensor:
        return self.net(states)


class Gated(nn.Module):
    """A gated linear unit whose gate is SiLU's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, states: Tensor) -> Tensor:
        values, gate = self.proj(states).chunk(2, dim=-1)
        return values * silu(gate)


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with the prefix, without it."""
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def create(source: EncoderSource, options: Defaults) -> MineClipEncoder:
    return MineClipEncoder(source, options)

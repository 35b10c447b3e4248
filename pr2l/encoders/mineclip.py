"""MineCLIP (Fan et al. 2022), a CLIP trained on videos of Minecraft with the players' commentary.

ViT-B/16: 160 x 256 pixels. tokens=cls, the default, is one token of width 512, the image feature that MineDojo's agents
use for each frame; tokens=all is 1 + 160 tokens of width 768 after the last layer. MIT licence. Source: the `attn` or
`avg` checkpoint that the README of MineDojo/MineCLIP links to on Google Drive, loaded without its package.

MineCLIP pools 16 frames in time to score a video against a text. This encoder gets one frame, because the cache and
stored embeddings are looked up by frame, and returns the feature of that frame, as in MineAgent. A policy that needs
the past can use an LSTM. With `video`, the temporal pooling gets the frame 16 times, and the result equals that of
forward_video_features for a still video, before the adapter that MineCLIP compares with texts. For the `avg` checkpoint
it equals the image feature.
Frames of another size are stretched; MineCLIP's package leaves resizing to its caller.
Written from MineCLIP @ e6c06a0, mineclip/mineclip (mineclip.py, base.py, clip.py, pooling.py, transformer.py), and from
x-transformers 0.27.1, on which transformer.py is based.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.vision import FileEncoder, VisionDefaults, VisionOutput, load_weights

SIZE = (160, 256)  # pixels
MEAN, STD = (0.3331, 0.3245, 0.3051), (0.2439, 0.2493, 0.2873)  # of 21,000 clips (base.py)
HEAD = 64  # width of an attention head
VIDEO = 16  # frames of a video in MineCLIP's training
IMAGE_PREFIX, VIDEO_PREFIX = "model.image_encoder.", "model.temporal_encoder.attn.model."
NEEDED = ("conv1.weight", "cls_token", "pos_embed", "projection", "blocks.0.ln_1.weight")  # to infer the sizes


class Defaults(VisionDefaults):
    """Options of the encoder `mineclip`."""

    weights: str = "weights/mineclip_attn.pth"  # the file as published, or its "state_dict" as .safetensors
    # cls = MineCLIP's feature; all = class token and patches; mean = the patches' mean
    tokens: Literal["all", "cls", "mean"] = "cls"
    video: bool = False  # with tokens=cls: apply the temporal pooling to the frame repeated 16 times


class MineClipEncoder(FileEncoder):
    """Encoder of frames by MineCLIP's image tower and, with `video`, its temporal pooling."""

    options: Defaults
    published = "https://github.com/MineDojo/MineCLIP, whose README links to `attn` and `avg` on Google Drive,"
    entry = "state_dict"

    def build_model(self, tensors: Mapping[str, Tensor], path: str) -> nn.Module:
        image, video = (below(tensors, prefix) for prefix in (IMAGE_PREFIX, VIDEO_PREFIX))
        if missing := [name for name in NEEDED if name not in image]:
            name = IMAGE_PREFIX + missing[0]
            raise UserError(f"{path} has no weight {name!r}, so it is not a checkpoint of MineCLIP.")
        model = nn.ModuleDict({"image": load_weights(ImageTower(image), image, path)})
        if self.options.video and video:
            model["video"] = load_weights(VideoTower(video), video, path)
        return model

    def preprocessing(self) -> Callable[[Frames], Tensor]:
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))

        def pixels(frames: Frames) -> Tensor:
            pictures = rearrange(torch.tensor(frames, device=self.device), "b h w c -> b c h w").float()
            if pictures.shape[2:] != SIZE:
                pictures = interpolate(pictures, SIZE, mode="bilinear", antialias=True)
            return ((pictures / 255 - mean) / std).to(self.dtype)

        return pixels

    def forward(self, pixels: Tensor) -> VisionOutput:
        feature, states = self.model["image"](pixels)
        if "video" in self.model:
            feature = self.model["video"](feature[:, None].expand(-1, VIDEO, -1))
        return VisionOutput(feature, states[:, :1], states[:, 1:])


class Block(nn.Module):
    """Layer of CLIP's vision transformer, with CLIP's weight names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=inner, gelu=QuickGELU(), c_proj=outer))

    def forward(self, states: Tensor) -> Tensor:
        """Run the layer.

        Args:
            states: [B, T, width].

        Returns:
            [B, T, width].
        """
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False)[0]
        return states + self.mlp(self.ln_2(states))


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU: x * sigmoid(1.702 x)."""

    def forward(self, values: Tensor) -> Tensor:
        """Compute the activation of each number.

        Args:
            values: Tensor of any shape.
        """
        return values * torch.sigmoid(1.702 * values)


class ImageTower(nn.Module):
    """Image tower of MineCLIP: images [B, 3, 160, 256] to features [B, F] and states [B, 1 + patches, D].

    The states are those after the last layer, the class token first.

    Args:
        weights: Weights to load later; their shapes give the sizes of the layers.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
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
        """Encode images.

        Args:
            pixels: [B, 3, 160, 256], normalised.

        Returns:
            Features [B, F], and states [B, 1 + patches, D] before the last norm.
        """
        patches = rearrange(self.conv1(pixels), "b d h w -> b (h w) d")
        first = self.cls_token.expand(len(patches), 1, -1)
        states = self.blocks(self.ln_pre(torch.cat([first, patches], dim=1) + self.pos_embed))
        return self.ln_post(states[:, 0]) @ self.projection, states


class VideoTower(nn.Module):
    """Temporal pooling of MineCLIP: features of L frames [B, L, F] to one feature [B, F].

    It is a pre-norm transformer followed by the mean over frames. Weight names are those of x-transformers.

    Args:
        weights: Weights to load later; their shapes give the sizes of the layers.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
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
        """Pool the features of a video.

        Args:
            features: [B, L, F]; L is at most the number of learned positions.

        Returns:
            [B, F].
        """
        length, width = features.shape[1:]
        positions: Any = self.pos_emb["emb"]
        layers: Any = self.attn_layers["layers"]
        states = features + positions.weight[:length] * width**-0.5
        for (norm,), block in layers:
            states = states + block(norm(states))
        return self.norm(states).mean(dim=1)


class Attention(nn.Module):
    """Multi-head self-attention of x-transformers, with heads of width 64."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        projections = (self.to_q, self.to_k, self.to_v)
        heads = (rearrange(layer(states), "b l (h d) -> b h l d", d=HEAD) for layer in projections)
        return self.to_out(rearrange(scaled_dot_product_attention(*heads), "b h l d -> b l (h d)"))


class FeedForward(nn.Module):
    """Feed-forward layer of x-transformers; the identities keep the numbers in its weight names."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width, inner), nn.Identity(), nn.Identity(), nn.Linear(inner, width))

    def forward(self, states: Tensor) -> Tensor:
        return self.net(states)


class Gated(nn.Module):
    """Gated linear unit with SiLU as its gate."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, states: Tensor) -> Tensor:
        values, gate = self.proj(states).chunk(2, dim=-1)
        return values * silu(gate)


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix.

    Args:
        weights: Name -> weight.
        prefix: Beginning of a name, such as "model.image_encoder."; removed from the names in the result.
    """
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def create(source: EncoderSource, options: Defaults) -> MineClipEncoder:
    return MineClipEncoder(source, options)

"""What the Qwen-VL families share: a frame is handed over as a grid of patches, and every size is possible.

Left alone, the number of image tokens would follow the size of the picture; here every frame has the same
grid.
"""

from __future__ import annotations

from typing import Any

import torch

from pr2l.core.types import Frames
from pr2l.vlms.chat import ChatVLM

GRID = 16  # default picture: 16 x 16 tokens, as much as other VLMs give to one


class QwenVL(ChatVLM):
    can_share_prefix = False  # the positions of what follows an image depend on its grid

    def default_image_size(self) -> int:
        return GRID * self._token_side

    def write(self, text: str) -> str:
        written = super().write(text)
        if "<|vision_start|>" in written:
            return written
        return written.replace(self.placeholder, f"<|vision_start|>{self.placeholder}<|vision_end|>")

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        vision = self.config.vision_config
        patch, merge, count = vision.patch_size, vision.spatial_merge_size, len(frames)
        if self.image_size % self._token_side:
            raise ValueError(f"a token is {self._token_side} pixels wide, which does not divide it")
        grid = self.image_size // patch
        # Patches that will be merged into one token stand together; a still picture fills all moments of a
        # patch.
        patches = self.squares(frames).reshape(count, 3, grid // merge, merge, patch, grid // merge, merge, patch)
        patches = patches.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        patches = patches.expand(*patches.shape[:6], vision.temporal_patch_size, *patches.shape[7:])
        return {"pixel_values": patches.reshape(count * grid * grid, -1), **self._grids(count)}

    def lm_inputs(self, image_features: Any, texts: list[str]) -> dict[str, Any]:
        return super().lm_inputs(image_features, texts) | self._grids(len(texts))  # positions of image tokens go by it

    def _grids(self, count: int) -> dict[str, torch.Tensor]:
        side = self.image_size // self.config.vision_config.patch_size
        return {"image_grid_thw": torch.tensor([[1, side, side]] * count, device=self.model.device)}

    def text_inputs(self, texts: list[str], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == self.image_token_id).int()}

    @property
    def _token_side(self) -> int:
        vision = self.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

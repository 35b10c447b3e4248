"""Base class of the Qwen-VL families, whose vision tower reads a grid of patches of any size.

By default every frame is a square of image_size pixels. With aspect=native it keeps its shape, and its number of tokens
follows from its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from pr2l.core.types import Frames
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.conversation import Prompt, image_count

GRID = 16  # default picture: 16 x 16 tokens, about as many as in other VLMs


class QwenVL(ChatVLM):
    """Base class of VLMs whose image inputs are patches and the shape of their grid."""

    can_share_prefix = False  # the positions of tokens after an image depend on its grid

    def default_image_size(self) -> int:
        return GRID * self._token_side

    def native_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to which the checkpoint's image processor resizes a frame, with at most image_size² pixels.

        Args:
            height: Height of the frame in pixels.
            width: Width of the frame in pixels.

        Returns:
            Height and width in pixels, multiples of the side of a token.
        """
        least = min(int(self.image_processor.size["shortest_edge"]), self.image_size**2)
        size: tuple[int, int] = smart_resize(height, width, self._token_side, least, self.image_size**2)
        return size

    def _tokenize(self, written: str) -> list[int]:
        if "<|vision_start|>" not in written:
            written = written.replace(self.placeholder, f"<|vision_start|>{self.placeholder}<|vision_end|>")
        return super()._tokenize(written)

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        vision = self.config.vision_config
        patch, merge, count = vision.patch_size, vision.spatial_merge_size, len(frames)
        if any(side % self._token_side for side in self.picture_size):
            raise ValueError(f"a token is {self._token_side} pixels wide, which does not divide it")
        rows, columns = (side // self._token_side for side in self.picture_size)
        # Patches that are merged into one token are adjacent; a still picture is repeated over time.
        patches = self.preprocess(frames).reshape(count, 3, rows, merge, patch, columns, merge, patch)
        patches = patches.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        patches = patches.expand(*patches.shape[:6], vision.temporal_patch_size, *patches.shape[7:])
        return {"pixel_values": patches.reshape(count * rows * columns * merge**2, -1), **self._grids(count)}

    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
        # Positions of image tokens follow from the grids.
        return super().lm_inputs(image_features, prompts) | self._grids(sum(map(image_count, prompts)))

    def _grids(self, count: int) -> dict[str, torch.Tensor]:
        patch = self.config.vision_config.patch_size
        grid = [1, *(side // patch for side in self.picture_size)]
        return {"image_grid_thw": torch.tensor([grid] * count, device=self.model.device)}

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == self.image_token_id).int()}

    @property
    def _token_side(self) -> int:
        vision = self.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

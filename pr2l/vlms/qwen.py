"""Base class of the Qwen-VL families, whose vision tower reads a grid of patches of any size.

By default every frame is a square of image_size pixels. With aspect=native it keeps its shape, and its number of tokens
follows from its size.

A video of F frames is a grid of patches in time too: two frames are merged into one, and if F is odd, the last frame is
repeated. So a video has half as many tokens as its frames have as images.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from pr2l.core.types import Frames
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.conversation import Prompt, Video, videos_of, visuals

GRID = 16  # default picture: 16 x 16 tokens, about as many as in other VLMs


class QwenVL(ChatVLM):
    """Base class of VLMs whose image inputs are patches and the shape of their grid."""

    takes_videos = True
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

    def _tokenize(self, written: str, videos: Sequence[Video] = ()) -> list[int]:
        if "<|vision_start|>" not in written:
            for word in (self.placeholder, self.video_token):
                written = written.replace(word, f"<|vision_start|>{word}<|vision_end|>")
        return super()._tokenize(written, videos)

    def video_grids(self, video: Video) -> list[int]:
        return [self.image_length()] * self._pairs(video.frames)

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        pictures = self.preprocess(frames)[:, None]
        # A still picture is repeated over time.
        patches = self._patches(pictures.expand(-1, self.config.vision_config.temporal_patch_size, -1, -1, -1))
        return {"pixel_values": patches, "image_grid_thw": self._grids([1] * len(frames))}

    def video_pixels(self, videos: Sequence[Frames]) -> dict[str, torch.Tensor]:
        lengths = [self._pairs(len(frames)) for frames in videos]
        every = self.config.vision_config.temporal_patch_size
        whole = [np.concatenate([frames, *[frames[-1:]] * (-len(frames) % every)]) for frames in videos]
        pictures = self.preprocess_videos(np.concatenate(whole))
        patches = self._patches(pictures.unflatten(0, (-1, every)))
        return {"pixel_values_videos": patches, "video_grid_thw": self._grids(lengths)}

    def _pairs(self, frames: int) -> int:
        """Return the length of a video's grid in time."""
        return ceil(frames / self.config.vision_config.temporal_patch_size)

    def _patches(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the patches of pictures [N, time, 3, H, W], which are merged over time."""
        vision = self.config.vision_config
        patch, merge, (count, every) = vision.patch_size, vision.spatial_merge_size, pictures.shape[:2]
        if any(side % self._token_side for side in self.picture_size):
            raise ValueError(f"a token is {self._token_side} pixels wide, which does not divide it")
        rows, columns = (side // self._token_side for side in self.picture_size)
        # Patches that are merged into one token are adjacent.
        patches = pictures.reshape(count, every, 3, rows, merge, patch, columns, merge, patch)
        patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return patches.reshape(count * rows * columns * merge**2, -1)

    def _grids(self, lengths: Sequence[int]) -> torch.Tensor:
        """Return the grids of images and videos with these lengths in time."""
        patch = self.config.vision_config.patch_size
        sides = [side // patch for side in self.picture_size]
        return torch.tensor([[length, *sides] for length in lengths], device=self.model.device)

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        # Positions of image and video tokens follow from the grids.
        inputs = {"mm_token_type_ids": (ids == self.image_token_id).int() + 2 * (ids == self.video_token_id).int()}
        videos = [video for prompt in prompts for video in videos_of(prompt)]
        if images := sum(visual is None for prompt in prompts for visual in visuals(prompt)):
            inputs["image_grid_thw"] = self._grids([1] * images)
        if videos:
            inputs["video_grid_thw"] = self._grids([self._pairs(video.frames) for video in videos])
        return inputs | self._times(videos)

    def _times(self, videos: Sequence[Video]) -> dict[str, torch.Tensor]:
        """Return the seconds that each step of a video's grid takes."""
        if not videos:
            return {}
        every = self.config.vision_config.temporal_patch_size
        seconds = [every / video.fps for video in videos]
        return {"second_per_grid_ts": torch.tensor(seconds, device=self.model.device)}

    @property
    def _token_side(self) -> int:
        vision = self.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

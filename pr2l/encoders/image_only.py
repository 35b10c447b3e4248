"""The paper's main baseline: image tokens of the VLM's own vision tower, before the language model and any prompt."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt

from pr2l.core.types import Contexts, Frames
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.states import StatesEncoder, check_pooling, pool_grid, pooled_length


class Defaults(BaseModel):
    """Options of the encoder `image_only`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # average the tokens of an image to this square number; or to [rows, columns], without a token before the grid, so
    # that a policy can point at the cells; None = keep all tokens
    image_tokens: int | tuple[PositiveInt, PositiveInt] | None = None
    pca: int | None = None  # components per token; None = no PCA, as in the paper's baseline
    pca_frames: PositiveInt = 512  # frames of random play that the PCA is fitted on


class ImageOnlyEncoder(StatesEncoder):
    """Encoder of frames by the vision tower of a VLM, without its language model."""

    def __init__(self, source: EncoderSource, options: Defaults) -> None:
        self.vlm, self.options = source.load_vlm(), options
        check_pooling(self.vlm, options.image_tokens)
        super().__init__(
            layers=1,
            length=pooled_length(self.vlm.vision_length, options.image_tokens),
            size=self.vlm.vision_size,
            pca=options.pca,
            pca_frames=options.pca_frames,
            join="width",
        )

    def key(self) -> dict[str, Any]:
        return super().key() | {"options": self.options.model_dump(mode="json"), "vlm": self.vlm.key()}

    def states(self, frames: Frames, contexts: Contexts) -> tuple[torch.Tensor, torch.Tensor]:
        vision = self.vlm.vision(frames)
        states = pool_grid(vision.values[:, None], self.options.image_tokens)
        return states, vision.mask[:, : states.shape[2]]


def create(source: EncoderSource, options: Defaults) -> ImageOnlyEncoder:
    return ImageOnlyEncoder(source, options)

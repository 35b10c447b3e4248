"""Promptable representations: a VLM's hidden states at the image, the prompt and its generated answer.

Options give the ablations of the paper: no prompt (`prompt=null`), no generation (`vlm_options.generation=none`),
another auxiliary text (`prompt=<variant>`), and fewer `segments`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt

from pr2l.core.types import Contexts, Frames, Segment
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.prompts import PromptOptions, PromptRenderer
from pr2l.encoders.common.states import StatesEncoder, check_pooling, pool_grids, pooled_lengths


class Defaults(PromptOptions):
    """Options of the encoder `prompted`."""

    segments: tuple[Segment, ...] = ("image", "prompt", "generated")  # tokens to use, in this order, as in the paper
    # average the tokens of an image to this square number; or to [rows, columns], without a token before the grid, so
    # that a policy can point at the cells; None = keep all tokens
    image_tokens: int | tuple[PositiveInt, PositiveInt] | None = None
    pca: int | None = None  # components per layer and token (paper's Habitat: 1024 of 4096); None = no PCA
    pca_frames: PositiveInt = 512  # frames of random play that the PCA is fitted on
    layer_join: Literal["width", "tokens"] = "width"  # concatenate layers in a token, or make them tokens


class PromptedEncoder(StatesEncoder):
    """Encoder of a VLM's hidden states under a prompt.

    Tokens come in the order of the option `segments`. For a prompt of several images or a video, the image tokens come
    frame by frame, the oldest frame first.
    """

    def __init__(self, source: EncoderSource, options: Defaults) -> None:
        self.vlm = source.load_vlm()
        self.source, self.options = source, options
        self.prompts = PromptRenderer(source, self.vlm, options.max_prompt_tokens)
        self.prompt_tokens, self.frame_history = self.prompts.tokens, self.prompts.images
        self._answers: list[str] = []
        check_pooling(self.vlm, options.image_tokens)
        lengths = {
            "image": pooled_lengths(self.prompts.grids, options.image_tokens),
            "prompt": self.prompt_tokens,
            "generated": self.vlm.new_tokens,
        }
        super().__init__(
            layers=len(self.vlm.options.layers),
            length=sum(lengths[segment] for segment in options.segments),
            size=self.vlm.hidden_size,
            pca=options.pca,
            pca_frames=options.pca_frames,
            join=options.layer_join,
        )

    def key(self) -> dict[str, Any]:
        options = self.options.model_dump(mode="json", exclude=self.options.unused())
        return super().key() | {"options": options, "vlm": self.vlm.key(), **self.prompts.key()}

    def states(self, frames: Frames, contexts: Contexts) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.prompts.hidden(frames, contexts)
        self._answers = hidden.answers
        states, masks = [], []
        for segment in self.options.segments:
            span = hidden.spans[segment]
            segment_states, mask = hidden.states[:, :, span], hidden.mask[:, span]
            if segment == "image":
                segment_states = pool_grids(segment_states, self.prompts.grids, self.options.image_tokens)
                mask = mask[:, : segment_states.shape[2]]
            states.append(segment_states)
            masks.append(mask)
        return torch.cat(states, dim=2), torch.cat(masks, dim=1)

    def answers(self) -> list[str]:
        return self._answers

    def metrics(self) -> dict[str, float]:
        return self.prompts.metrics()

    def clear_cache(self) -> None:
        self.prompts.clear_counts()


def create(source: EncoderSource, options: Defaults) -> PromptedEncoder:
    return PromptedEncoder(source, options)

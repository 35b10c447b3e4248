"""What every encoder is given and what it must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pr2l.core.prompt import Prompt
from pr2l.core.types import Contexts, Frames, Labels, Tokens

if TYPE_CHECKING:
    from pr2l.vlms.base import VLM
    from pr2l.vlms.base import Defaults as VLMDefaults


@dataclass(frozen=True)
class EncoderSource:
    """Everything an encoder may be made from; one that needs no VLM never loads it.

    vlm, vlm_options: the VLM's name and its frozen Defaults, as in the config.
    prompt: None = no prompt.
    contexts: every context that the task can give; None = they are open, such as free-form instructions.
    frame_shape: (H, W, 3) of the environment's frames.
    kinds: the names that the environment's labels can have.
    """

    vlm: str
    vlm_options: VLMDefaults
    prompt: Prompt | None
    contexts: Contexts | None
    frame_shape: tuple[int, int, int]
    kinds: tuple[str, ...]

    def load_vlm(self) -> VLM:
        from pr2l.vlms.loading import load_vlm  # transformers takes seconds to import

        return load_vlm(self.vlm, self.vlm_options)


class Encoder(ABC):
    """Frozen: frames and contexts in, `tokens` tokens of `width` numbers out.

    An encoder with `fit_frames` > 0 must be fitted on about so many frames, or be given a fitted state,
    before it encodes; `width` is known before that. Where a frame takes long, `costly`, frames that come again are
    looked up (see common/cache.py), so its tokens may depend on nothing but a row's frame and context.
    """

    tokens: int
    width: int
    needs_labels: bool = False
    fit_frames: int = 0
    costly: bool = False

    @abstractmethod
    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        """Tokens with values [B, tokens, width]. labels: one list per frame, where `needs_labels`."""

    def answers(self) -> list[str]:
        """What the VLM said about each frame of the last batch; empty for encoders that ask nothing."""
        return []

    def key(self) -> dict[str, Any]:
        """Everything that tokens depend on beside frame and context, in JSON values; stored embeddings go by it.

        Two encoders whose tokens could differ in any number must differ here: name every option, the VLM's key, the
        prompt, and a digest of what was fitted.
        """
        raise NotImplementedError(f"{type(self).__module__} has no key(), and without it embeddings cannot be stored")

    def clear_cache(self) -> None:  # noqa: B027  # most encoders keep nothing
        """Drops what is kept of earlier batches, so that the next one comes out as if it were the first."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the run's metrics, counted since `clear_cache` was last called; empty where there are none."""
        return {}

    def fit(self, frames: Frames, contexts: Contexts) -> None:
        """Fits what has to be fitted; only for `fit_frames` > 0."""
        raise NotImplementedError(f"{type(self).__module__} has nothing to fit")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What `fit` made, to store with the run; empty where there is nothing to fit."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes what state_dict gave."""
        if state:
            raise ValueError(f"{type(self).__module__} has nothing to load, but was given {sorted(state)}")

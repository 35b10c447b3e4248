"""Interface of an encoder, and what one is made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pr2l.core.prompt import Prompt
from pr2l.core.types import Contexts, Frames, Labels, Tokens

if TYPE_CHECKING:  # torch takes a second to import, transformers several
    import torch

    from pr2l.vlms import VLM
    from pr2l.vlms import Defaults as VLMDefaults


@dataclass(frozen=True)
class EncoderSource:
    """What an encoder is made from. An encoder that needs no VLM never loads it.

    Args:
        vlm: Name of the VLM: "tiny", a folder or a Hub id.
        vlm_options: Its options.
        prompt: Prompt that the VLM is given beside each frame; None = none.
        contexts: Every context that the task can give; None = they are open, such as free-form instructions.
        frame_shape: (H, W, 3) of the environment's frames.
        kinds: Names of the things that the environment's labels can have.
    """

    vlm: str
    vlm_options: VLMDefaults
    prompt: Prompt | None
    contexts: Contexts | None
    frame_shape: tuple[int, int, int]
    kinds: tuple[str, ...]

    def load_vlm(self) -> VLM:
        """Load the VLM. With aspect=native it is told the size of the environment's frames."""
        from pr2l.vlms.loading import load_vlm

        options = self.vlm_options
        if options.aspect == "native" and options.frame_size is None:
            options = options.model_copy(update={"frame_size": self.frame_shape[:2]})
        return load_vlm(self.vlm, options)


class Encoder(ABC):
    """A frozen encoder: frames and contexts in, `tokens` tokens of `width` numbers out.

    Attributes:
        tokens: T, known before the first frame.
        width: D, known before the first frame.
        frame_history: K, the number of frames that a row holds: the current one and those before it.
        needs_labels: Whether it reads the simulator's ground truth.
        fit_frames: Number of frames to fit it on before it can encode; 0 = nothing to fit.
        costly: Whether encoding takes so long that frames that come again are looked up (see common/cache.py). The
            tokens of such an encoder may depend on nothing but a row's frames and context.
    """

    tokens: int
    width: int
    frame_history: int = 1
    needs_labels: bool = False
    fit_frames: int = 0
    costly: bool = False

    @abstractmethod
    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        """Encode a batch.

        Args:
            frames: uint8 [B, H, W, 3]; [B, K, H, W, 3], the oldest frame first, for an encoder with frame_history > 1.
            contexts: One per row.
            labels: One list of objects per row, for an encoder that `needs_labels`.

        Returns:
            Tokens with values [B, tokens, width].
        """

    def answers(self) -> list[str]:
        """Return the VLM's answer for each row of the last batch; empty for an encoder that asks nothing."""
        return []

    def key(self) -> dict[str, Any]:
        """Return everything beside frame and context that the tokens depend on, in JSON values.

        Stored embeddings are found by it, so two encoders whose tokens could differ must have different keys: name
        every option, the VLM's key, the prompt, and a digest of what was fitted.
        """
        raise NotImplementedError(f"{type(self).__module__} has no key(), and without it embeddings cannot be stored")

    def clear_cache(self) -> None:  # noqa: B027  # most encoders keep nothing
        """Drop what is kept of earlier batches, and restart the counts of `metrics`."""

    def metrics(self) -> dict[str, float]:
        """Return numbers for the run's metrics, counted since `clear_cache`; empty if there are none."""
        return {}

    def fit(self, frames: Frames, contexts: Contexts) -> None:
        """Fit the encoder on `fit_frames` rows; only for fit_frames > 0.

        Raises:
            UserError: The frames cannot be fitted, such as too few of them.
        """
        raise NotImplementedError(f"{type(self).__module__} has nothing to fit")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what `fit` computed, to store with the run; empty if there is nothing to fit."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__module__} has nothing to load, but was given {sorted(state)}")

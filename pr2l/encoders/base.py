"""Interface of an encoder, and the environment and VLM from which an encoder is created."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pr2l.core.cameras import camera_width
from pr2l.core.prompt import Prompt
from pr2l.core.types import Contexts, Frames, Labels, Tokens

if TYPE_CHECKING:  # torch takes a second to import, transformers several
    import torch

    from pr2l.vlms import VLM
    from pr2l.vlms import Defaults as VLMDefaults


@dataclass(frozen=True)
class EncoderSource:
    """Everything that a new encoder may need: the VLM's name, the prompt, and facts about the environment.

    The VLM is loaded by `load_vlm` only, so an encoder that does not use a VLM does not load it.

    Args:
        vlm: Name of the VLM: "tiny", a folder or a Hub id.
        vlm_options: Options of the VLM; encoders of other vision models use its device and dtype.
        prompt: Prompt for the VLM; None = no prompt.
        contexts: All contexts of the task; None = they cannot be listed, such as free-form instructions.
        frame_shape: (H, W, 3) of the environment's frames.
        kinds: All names of objects in the environment's labels.
    """

    vlm: str
    vlm_options: VLMDefaults
    prompt: Prompt | None
    contexts: Contexts | None
    frame_shape: tuple[int, int, int]
    kinds: tuple[str, ...]

    def load_vlm(self) -> VLM:
        """Load the VLM; with aspect=native and without frame_size, for images of the environment's size."""
        from pr2l.vlms.loading import load_vlm

        options = self.vlm_options
        if options.aspect == "native" and options.frame_size is None:
            height, width, _ = self.frame_shape
            size = height, camera_width(width, self.prompt.cameras if self.prompt else ())
            options = options.model_copy(update={"frame_size": size})
        return load_vlm(self.vlm, options)


class Encoder(ABC):
    """A frozen encoder: it turns a batch of frames and contexts into `tokens` tokens of width `width` per row.

    Attributes:
        tokens: T, number of tokens per row, known before the first frame.
        width: D, width of a token, known before the first frame.
        frame_history: K, number of frames per row: the current frame and the K - 1 frames before it.
        needs_labels: Whether `encode` needs the simulator's ground truth.
        fit_frames: Number of frames that `fit` needs before the first call of `encode`; 0 = nothing to fit.
        costly: Whether encoding is slow enough to cache the tokens (common/cache.py). The tokens of such an encoder
            must depend on nothing but a row's frames and context.
    """

    tokens: int
    width: int
    frame_history: int = 1
    needs_labels: bool = False
    fit_frames: int = 0
    costly: bool = False

    @abstractmethod
    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        """Encode a batch of frames.

        Args:
            frames: uint8 [B, H, W, 3]; [B, K, H, W, 3], the oldest frame first, for an encoder with frame_history > 1.
            contexts: One context per row.
            labels: One list of labels per row, for an encoder with `needs_labels`; None for all others.

        Returns:
            Tokens with values [B, tokens, width] and mask [B, tokens].
        """

    def answers(self) -> list[str]:
        """Return the VLM's answer for each row of the last batch; an empty list if the encoder generates no text."""
        return []

    def key(self) -> dict[str, Any]:
        """Return everything that the tokens depend on beside frame and context, as JSON values.

        Stored embeddings are looked up by this key, so two encoders whose tokens could differ must have different keys.
        A key contains all options, the VLM's key, the prompt, and a digest of what `fit` computed.
        """
        raise NotImplementedError(f"{type(self).__module__} has no method key(), which stored embeddings need")

    def clear_cache(self) -> None:  # noqa: B027  # most encoders keep nothing
        """Drop cached tokens, and reset the counts behind `metrics`."""

    def metrics(self) -> dict[str, float]:
        """Return numbers for the run's metrics, counted since `clear_cache`; an empty dict if there are none."""
        return {}

    def fit(self, frames: Frames, contexts: Contexts) -> None:
        """Fit the encoder, such as its PCA; called only if fit_frames > 0.

        Args:
            frames: N rows as in `encode`; N is fit_frames, or less if a data set has fewer frames.
            contexts: One context per row.

        Raises:
            UserError: The encoder cannot be fitted on these frames, for example because they are too few.
        """
        raise NotImplementedError(f"{type(self).__module__} has no parameters to fit")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that `fit` computed, which are saved with the run; empty if there is nothing to fit."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the tensors that `state_dict` returned.

        Args:
            state: Name -> tensor; {} for an encoder with nothing to fit.

        Raises:
            ValueError: The encoder has nothing to fit, but `state` has entries.
        """
        if state:
            raise ValueError(f"{type(self).__module__} has no fitted state, but got {sorted(state)}")

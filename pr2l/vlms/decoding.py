"""How the next token is chosen: greedily, or by sampling that a row does alone."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from pr2l.core.types import Frames


class Decoding(LogitsProcessor):
    """Turns logits [B, V] into scores whose largest entry is the next token; made anew for every generation.

    eos: ids that end an answer; they are forbidden until min_new_tokens have been chosen.
    uniforms: [B, steps] in 0..1, row b's random number at each step; None = greedy.
    """

    def __init__(
        self,
        eos: tuple[int, ...],
        min_new_tokens: int,
        uniforms: npt.NDArray[np.float64] | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.eos, self.min_new_tokens = list(eos), min_new_tokens
        self.uniforms, self.temperature = uniforms, temperature
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, self.step = self.step, self.step + 1
        if step < self.min_new_tokens:
            scores = scores.index_fill(1, torch.tensor(self.eos, device=scores.device), float("-inf"))
        if self.uniforms is None:
            return scores
        token = self._sample(scores, torch.from_numpy(self.uniforms[:, step : step + 1]))
        return torch.full_like(scores, float("-inf")).scatter(1, token.to(scores.device), 0.0)

    def _sample(self, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Inverse of the cumulative distribution at each row's own number, in float64: -> ids [B, 1]."""
        probabilities = torch.softmax(scores.cpu().double() / self.temperature, dim=-1)
        cumulative = probabilities.cumsum(-1)
        return (cumulative <= uniform * cumulative[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)


def uniforms(seed: int, frames: Frames, texts: list[str], steps: int) -> npt.NDArray[np.float64]:
    """[B, steps] numbers in 0..1 that depend on the seed and on the row's own frame and text, nothing else.

    So a row's sampled text does not depend on its neighbours or its place in the batch, and the same frame
    seen again gives the same text.
    """
    rows = zip(frames, texts, strict=True)
    return np.stack([np.random.default_rng([seed, *_digest(f, t)]).random(steps) for f, t in rows])


def _digest(frame: Frames, text: str) -> list[int]:
    hashed = blake2b(frame.tobytes(), digest_size=16)
    hashed.update(text.encode())
    return [int(word) for word in np.frombuffer(hashed.digest(), dtype=np.uint32)]

"""Choice of the next token, greedy or sampled with random numbers of each row, and the end of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, LogitsProcessor

from pr2l.core.types import Frames
from pr2l.vlms.conversation import Prompt


class Decoding(LogitsProcessor):
    """Logits processor that makes the next token the largest entry of logits [B, V]; one object per generation.

    Args:
        eos: Token ids that end an answer; they are forbidden until min_new_tokens have been chosen.
        min_new_tokens: Smallest number of tokens of an answer.
        uniforms: [B, steps] in 0..1, the random number of row b at each step; None = greedy.
        temperature: Sampling temperature, above 0.
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
        """Sample ids [B, 1] by the inverse of the cumulative distribution at each row's random number, in float64."""
        probabilities = torch.softmax(scores.cpu().double() / self.temperature, dim=-1)
        cumulative = probabilities.cumsum(-1)
        return (cumulative <= uniform * cumulative[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)


def take_over_decoding(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Drop the checkpoint's settings for decoding (beams, penalties, forced tokens), and return its EOS ids.

    EOS is dropped too. `generate` then always makes all its tokens, so that every row has a state at every position;
    positions after the end of an answer are masked with `before_end`.

    Args:
        model: A transformers model, changed in place.
        tokenizer: Its tokenizer, whose EOS is used if the model has none.

    Returns:
        Ids of all tokens that end an answer; empty if there is none.
    """
    ends = model.generation_config.eos_token_id
    # BLIP-2 and InstructBLIP call `generate` of the language model inside them.
    inner: Any = getattr(model, "language_model", None)
    for module in (model, inner):
        if (old := getattr(module, "generation_config", None)) is not None:
            ends = old.eos_token_id if ends is None else ends
            names = ("bos_token_id", "pad_token_id", "decoder_start_token_id")
            module.generation_config = GenerationConfig(**{name: getattr(old, name) for name in names})
    ends = ends or tokenizer.eos_token_id
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)


def before_end(tokens: torch.Tensor, eos: Sequence[int]) -> torch.Tensor:
    """Return a mask of generated tokens, True up to and including the token that ends the answer.

    Args:
        tokens: int64 [B, N].
        eos: Token ids that end an answer.

    Returns:
        bool [B, N].
    """
    ends = torch.isin(tokens, torch.tensor(eos, device=tokens.device, dtype=tokens.dtype))
    return ends.cumsum(1) - ends.long() == 0


def uniforms(
    seed: int | Sequence[int], images: Sequence[Frames], prompts: Sequence[Prompt], steps: int, draws: int = 1
) -> npt.NDArray[np.float64]:
    """Return random numbers that depend only on the seed and on a row's own images and prompt.

    The sampled text of a row therefore does not depend on the other rows or on its index in the batch, and a repeated
    frame gives the same text.

    Args:
        seed: At least 0; or one for each row, so that rows with equal images and prompts differ.
        images: The images of each row, uint8 [images, H, W, 3].
        prompts: One prompt per row.
        steps: Numbers per draw.
        draws: Draws per row; the first draw does not depend on their number.

    Returns:
        [B x draws, steps] in 0..1, with the draws of a row next to each other.
    """
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    numbers = [
        np.random.default_rng([row_seed, *_digest(row_images, prompt)]).random(draws * steps).reshape(draws, steps)
        for row_seed, row_images, prompt in zip(seeds, images, prompts, strict=True)
    ]
    return np.concatenate(numbers)


def _digest(images: Frames, prompt: Prompt) -> list[int]:
    hashed = blake2b(images.tobytes(), digest_size=16)
    hashed.update(str(prompt).encode())
    return [int(word) for word in np.frombuffer(hashed.digest(), dtype=np.uint32)]

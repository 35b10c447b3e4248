"""How much lower precision changes the states, and how much the other rows of a batch do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pr2l.core.types import Frames, Hidden
from pr2l.profiling.measure import Measure, exact
from pr2l.vlms.base import VLM

ROWS = 4  # rows that are embedded alone


def of_rows(title: str, vlm: VLM, hidden: Hidden, frames: Frames, texts: Sequence[str]) -> Iterator[Measure]:
    """Compare the first rows of a batch with the same rows alone, at image and prompt tokens.

    Generated tokens are left out, because one that changes, changes all later ones.

    Args:
        title: First words of the names of the measures.
        vlm: The VLM.
        hidden: Its states of the whole batch.
        frames: uint8 [B, H, W, 3], different frames.
        texts: One prompt per frame, of equal length in tokens.
    """
    batch = of_input(hidden)[:ROWS]
    alone = [of_input(vlm.hidden(frames[row : row + 1], [texts[row]])) for row in range(len(batch))]
    differences = [relative(row, single[0]) for row, single in zip(batch, alone, strict=True)]
    largest = (batch - torch.cat(alone)).abs().max()
    yield Measure(f"{title}: a row of the batch against the row alone, RMS difference", exact(max(differences)), "")
    yield Measure(f"{title}: a row of the batch against the row alone, largest difference", exact(float(largest)), "")


def to_float32(title: str, lower: Hidden, full: Hidden, goal: float | None) -> Iterator[Measure]:
    """Compare states in lower precision with states in float32.

    Args:
        title: First words of the names of the measures.
        lower: States in lower precision.
        full: States of the same batch in float32.
        goal: Minimum of the median cosine over tokens; None = no goal.
    """
    cosines = cosine(lower.states, full.states)
    difference = relative(of_input(lower), of_input(full))
    yield Measure(f"{title}: RMS difference to float32", exact(difference), "")
    yield Measure(f"{title}: cosine to float32, median of the tokens", exact(float(cosines.median())), "", goal)
    yield Measure(f"{title}: cosine to float32, lowest of the tokens", exact(float(cosines.min())), "")


def of_input(hidden: Hidden) -> Tensor:
    """Return the states of the image and prompt tokens, [B, L, T, D]."""
    return hidden.states[:, :, : hidden.spans["prompt"].stop]


def relative(states: Tensor, reference: Tensor) -> float:
    """Return the root mean square of a difference, as a fraction of that of the reference."""
    return float((states - reference).norm() / reference.norm())


def cosine(states: Tensor, reference: Tensor) -> Tensor:
    """Return the cosine similarity of each token of states [B, L, T, D] that is not masked (zero)."""
    real = reference.flatten(0, 2).norm(dim=-1) > 0
    return torch.cosine_similarity(states.flatten(0, 2)[real], reference.flatten(0, 2)[real], dim=-1)

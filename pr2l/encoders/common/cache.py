"""A short memory before a costly encoder: a frame that comes again is looked up instead of embedded."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch

from pr2l.core.types import Context, Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder


class Row(NamedTuple):
    """What became of one frame; answer: None where the encoder asks nothing."""

    values: torch.Tensor
    mask: torch.Tensor
    answer: str | None


class Remembering(Encoder):
    """Gives what `encoder` does, on the CPU, and asks it only for rows not among the last `capacity` different ones.

    A row is a frame and its context. New rows go to the encoder as one batch, equal ones once. A row comes back as
    it was first computed; computed again in a batch of another size, the last bits of its numbers could differ.
    """

    def __init__(self, encoder: Encoder, capacity: int) -> None:
        self.encoder, self.capacity = encoder, capacity
        self.tokens, self.width, self.fit_frames = encoder.tokens, encoder.width, encoder.fit_frames
        self._rows: OrderedDict[bytes, Row] = OrderedDict()  # the least recently used first
        self._answers: list[str] = []
        self._count, self._hits = 0, 0  # rows since the last forget, and those of them that the encoder was spared

    @property
    def bytes(self) -> int:
        """What a full memory of float32 tokens and their mask takes."""
        return self.capacity * self.tokens * (4 * self.width + 1)

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        names = [_name(frame, context) for frame, context in zip(frames, contexts, strict=True)]
        known = {name: self._rows[name] for name in names if name in self._rows}
        new = {name: place for place, name in enumerate(names) if name not in known}
        self._count, self._hits = self._count + len(names), self._hits + len(names) - len(new)
        if new:
            places = list(new.values())
            known |= zip(new, self._asked(frames[places], [contexts[place] for place in places]), strict=True)
        for name in names:
            self._rows[name] = known[name]
            self._rows.move_to_end(name)
        while len(self._rows) > self.capacity:
            self._rows.popitem(last=False)
        rows = [known[name] for name in names]
        self._answers = [row.answer for row in rows if row.answer is not None]
        return Tokens(torch.stack([row.values for row in rows]), torch.stack([row.mask for row in rows]))

    def answers(self) -> list[str]:
        return self._answers

    def forget(self) -> None:
        self._rows.clear()
        self._count, self._hits = 0, 0

    def metrics(self) -> dict[str, float]:
        """Which share of the rows the encoder was not asked for."""
        return {"memory/hit_rate": self._hits / self._count} if self._count else {}

    def fit(self, frames: Frames, contexts: Contexts) -> None:
        self.forget()
        self.encoder.fit(frames, contexts)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.encoder.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.forget()
        self.encoder.load_state_dict(state)

    def key(self) -> dict[str, Any]:
        return self.encoder.key()

    def _asked(self, frames: Frames, contexts: Contexts) -> list[Row]:
        tokens = self.encoder.encode(frames, contexts)
        answers: Sequence[str | None] = self.encoder.answers() or [None] * len(frames)
        # Copies: a view of one row would keep its whole batch in memory.
        values, masks = ([one.clone() for one in part.cpu()] for part in (tokens.values, tokens.mask))
        return [Row(*each) for each in zip(values, masks, answers, strict=True)]


def _name(frame: Frames, context: Context) -> bytes:
    """16 bytes for a frame and its context; 128 bits, so that no two ever meet."""
    digest = blake2b(f"{frame.shape}{json.dumps(context, sort_keys=True)}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()

"""Cache of a costly encoder's tokens, so that a repeated frame is not encoded again."""

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


class CachedRow(NamedTuple):
    """Tokens [T, D] and mask [T] of one row. The answer is None for an encoder that generates no text."""

    values: torch.Tensor
    mask: torch.Tensor
    answer: str | None


def uncached(encoder: Encoder) -> Encoder:
    """Return the encoder inside a cache; another encoder as it is.

    Args:
        encoder: An encoder with or without a cache.
    """
    return encoder.encoder if isinstance(encoder, CachedEncoder) else encoder


class CachedEncoder(Encoder):
    """Least-recently-used cache around an encoder. Tokens are returned on the CPU.

    A row is a frame (or frame history) and its context. Rows that are not in the cache are encoded as one batch; equal
    rows are encoded once. A cached row keeps its first value, although encoding it in a batch of another size could
    change its last bits.

    Args:
        encoder: Encoder whose tokens depend on nothing but a row's frames and context.
        capacity: Number of different rows to keep.
    """

    def __init__(self, encoder: Encoder, capacity: int) -> None:
        self.encoder, self.capacity = encoder, capacity
        self.tokens, self.width, self.fit_frames = encoder.tokens, encoder.width, encoder.fit_frames
        self.frame_history = encoder.frame_history
        self._rows: OrderedDict[bytes, CachedRow] = OrderedDict()  # the least recently used first
        self._answers: list[str] = []
        self._count, self._hits = 0, 0  # since clear_cache: rows, and rows that were not encoded

    @property
    def bytes(self) -> int:
        """Size of a full cache in bytes, with float32 tokens and their mask."""
        return self.capacity * self.tokens * (4 * self.width + 1)

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        keys = [_row_key(frame, context) for frame, context in zip(frames, contexts, strict=True)]
        row_of = {key: self._rows[key] for key in keys if key in self._rows}
        new = {key: index for index, key in enumerate(keys) if key not in row_of}
        self._count, self._hits = self._count + len(keys), self._hits + len(keys) - len(new)
        if new:
            indices = list(new.values())
            row_of |= zip(new, self._encode(frames[indices], [contexts[index] for index in indices]), strict=True)
        for key in keys:
            self._rows[key] = row_of[key]
            self._rows.move_to_end(key)
        while len(self._rows) > self.capacity:
            self._rows.popitem(last=False)
        rows = [row_of[key] for key in keys]
        self._answers = [row.answer for row in rows if row.answer is not None]
        return Tokens(torch.stack([row.values for row in rows]), torch.stack([row.mask for row in rows]))

    def answers(self) -> list[str]:
        return self._answers

    def clear_cache(self) -> None:
        self._rows.clear()
        self._count, self._hits = 0, 0
        self.encoder.clear_cache()

    def metrics(self) -> dict[str, float]:
        """Return the encoder's metrics, and the fraction of rows that were found in the cache."""
        hit_rate = {"cache/hit_rate": self._hits / self._count} if self._count else {}
        return self.encoder.metrics() | hit_rate

    def fit(self, frames: Frames, contexts: Contexts) -> None:
        self.clear_cache()
        self.encoder.fit(frames, contexts)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.encoder.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.clear_cache()
        self.encoder.load_state_dict(state)

    def key(self) -> dict[str, Any]:
        return self.encoder.key()

    def _encode(self, frames: Frames, contexts: Contexts) -> list[CachedRow]:
        tokens = self.encoder.encode(frames, contexts)
        answers: Sequence[str | None] = self.encoder.answers() or [None] * len(frames)
        # Copies: a view of one row would keep its whole batch in memory.
        values = [row.clone() for row in tokens.values.cpu()]
        masks = [row.clone() for row in tokens.mask.cpu()]
        return [CachedRow(*row) for row in zip(values, masks, answers, strict=True)]


def _row_key(frame: Frames, context: Context) -> bytes:
    """Return a digest of a frame and its context; with 128 bits, collisions are negligible."""
    digest = blake2b(f"{frame.shape}{json.dumps(context, sort_keys=True)}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()

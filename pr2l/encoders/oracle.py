"""The simulator's own labels as tokens, one per object: what perfect perception of the frame would be worth.

A bound for comparison, the only encoder that may look behind the pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: int = 16  # tokens; the nearest objects are kept
    named: bool = True  # a number says whether the context names the object's kind, as a perfect answer would
    distance_unit: float = 500.0  # distances are divided by it, so that numbers stay near 1; in map units


class OracleEncoder(Encoder):
    """A token is [kind one-hot (K), box centre x, y, box width, height (all 0..1 of the frame), distance, named].

    named: 1 if the kind is a value of the frame's context, else 0; absent without the option.
    """

    needs_labels = True

    def __init__(self, source: EncoderSource, options: Defaults) -> None:
        self.options = options
        self.kinds = {kind: index for index, kind in enumerate(source.kinds)}
        self.height, self.frame_width, _ = source.frame_shape
        self.tokens, self.width = options.objects, len(self.kinds) + 5 + options.named

    def key(self) -> dict[str, Any]:
        frame = [self.height, self.frame_width]
        options = self.options.model_dump(mode="json")
        return {"encoder": __name__, "options": options, "kinds": list(self.kinds), "frame": frame}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        if labels is None:
            raise ValueError("the oracle reads labels; make the environment with labels=True")
        values = torch.zeros(len(frames), self.tokens, self.width)
        mask = torch.zeros(len(frames), self.tokens, dtype=torch.bool)
        for row, objects in enumerate(labels):
            known = [one for one in objects if one["name"] in self.kinds]  # blood, puffs and the like are not
            nearest = sorted(known, key=lambda one: one["distance"])[: self.tokens]
            for slot, one in enumerate(nearest):
                values[row, slot, self.kinds[one["name"]]] = 1
                place = self._place(one["box"], one["distance"])
                values[row, slot, len(self.kinds) : len(self.kinds) + 5] = place
                if self.options.named:
                    values[row, slot, -1] = one["name"] in contexts[row].values()
                mask[row, slot] = True
        return Tokens(values, mask)

    def _place(self, box: tuple[float, float, float, float], distance: float) -> torch.Tensor:
        left, top, right, bottom = box
        centre = [(left + right) / 2 / self.frame_width, (top + bottom) / 2 / self.height]
        size = [(right - left) / self.frame_width, (bottom - top) / self.height]
        return torch.tensor([*centre, *size, distance / self.options.distance_unit])


def create(source: EncoderSource, options: Defaults) -> OracleEncoder:
    return OracleEncoder(source, options)

"""The simulator's labels as tokens, one per object, to measure the benefit of perfect perception.

For comparison only: all other encoders get pixels alone.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource


class Defaults(BaseModel):
    """Options of the encoder `oracle`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objects: int = 16  # number of tokens, one for each of the nearest objects
    named: bool = True  # add a number to each token: 1 if the context names the object's kind, else 0
    distance_unit: float = 500.0  # divisor of distances, in map units, so that they are near 1


class OracleEncoder(Encoder):
    """Encoder of the simulator's labels: tokens [B, objects, K + 5 + named], the nearest objects first, padded.

    A token contains the kind as a one-hot vector of length K, the centre (x, y) and the size (width, height) of the
    bounding box as fractions of the frame, the distance divided by distance_unit, and with the option `named` 1 if the
    kind is one of the values of the row's context, else 0.
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
            raise ValueError("the encoder oracle needs labels; make the environment with labels=True")
        values = torch.zeros(len(frames), self.tokens, self.width)
        mask = torch.zeros(len(frames), self.tokens, dtype=torch.bool)
        for row, objects in enumerate(labels):
            encodable = [label for label in objects if label["name"] in self.kinds]  # without blood, puffs and the like
            nearest = sorted(encodable, key=lambda label: label["distance"])[: self.tokens]
            for token, label in enumerate(nearest):
                values[row, token, self.kinds[label["name"]]] = 1
                position = self._position(label["box"], label["distance"])
                values[row, token, len(self.kinds) : len(self.kinds) + 5] = position
                if self.options.named:
                    values[row, token, -1] = label["name"] in contexts[row].values()
                mask[row, token] = True
        return Tokens(values, mask)

    def _position(self, box: tuple[float, float, float, float], distance: float) -> torch.Tensor:
        left, top, right, bottom = box
        centre = [(left + right) / 2 / self.frame_width, (top + bottom) / 2 / self.height]
        size = [(right - left) / self.frame_width, (bottom - top) / self.height]
        return torch.tensor([*centre, *size, distance / self.options.distance_unit])


def create(source: EncoderSource, options: Defaults) -> OracleEncoder:
    return OracleEncoder(source, options)

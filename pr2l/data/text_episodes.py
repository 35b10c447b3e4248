"""Recorded episodes for a policy that reads frames and prompts and writes its actions."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.data.action_features import ActionFeatures
from pr2l.data.recording import Recording
from pr2l.data.sources import Episodes, Rows
from pr2l.data.store import Store
from pr2l.policies.base import Tensors
from pr2l.rollout.vec_text import TextCodec


class TextEpisodes(Episodes):
    """Episodes whose observations and actions are those of `VecText`.

    Args:
        recording: The data set, with actions as text.
        store: As in `Episodes`.
        gamma: As in `Episodes`.
        codec: Conversion of prompts and actions.
        action_features: As in `Episodes`, with token ids as actions.

    Raises:
        UserError: The actions are not texts, or one has too many tokens.
    """

    def __init__(
        self,
        recording: Recording,
        store: Store,
        gamma: float,
        codec: TextCodec,
        action_features: ActionFeatures | None = None,
    ) -> None:
        super().__init__(recording, store, gamma, action_features)
        if not isinstance(self._actions, list):
            raise UserError(
                f"text_policy learns from actions as texts, but those of {recording.folder} are "
                f"{recording.action_space}; record the episodes with actions=text"
            )
        expert_actions = self._expert_actions
        self.codec = codec
        self._last_actions = [text for number in range(len(self)) for text in ["", *recording.episode(number).actions]]
        self._actions = codec.actions(self._actions)
        self._expert_actions = codec.actions(expert_actions) if self.has_expert_actions else self._actions

    def _observations(self, rows: slice | Rows) -> Tensors:
        numbers = np.arange(len(self.recording))[rows]
        contexts, last_actions = ([values[row] for row in numbers] for values in (self._contexts, self._last_actions))
        read = self.codec.observations(self._frames(numbers), contexts, last_actions)
        return super()._observations(rows) | {key: torch.from_numpy(values) for key, values in read.items()}

    def _frames(self, rows: Rows) -> Frames:
        """Return the frames of rows, uint8 [B, H, W, 3]; consecutive rows of an episode are read at once."""
        parts = []
        for number, group in groupby(rows, key=self.recording.episode_of):
            places = np.array([*group]) - self.recording.starts[number]
            parts.append(self.recording.frames(number)[places])
        return np.concatenate(parts)

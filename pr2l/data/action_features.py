"""Features of the candidate actions of a data set, computed once by the VLM and kept in a store on disk.

The rows of the store (see store.py) are the steps of the recording, float16 [steps, N, D]. Its key has a digest of the
candidates, so that a feature always belongs to its action.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pr2l.core import digest
from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.lock import locked
from pr2l.core.types import Tokens
from pr2l.data.candidates import Candidates, candidates
from pr2l.data.recording import Recording
from pr2l.data.store import Store, is_complete
from pr2l.data.store_writer import write_store
from pr2l.data.text_candidates import text_candidates
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.action_states import ActionStates, action_states


@dataclass(frozen=True, eq=False)
class ActionFeatures:
    """Candidates of each step and their features.

    Args:
        actions: int64 [steps, N, factors], or token ids [steps, N, R]; candidate 0 is the recorded action.
        store: Their features, a row [N, D] per step.
    """

    actions: npt.NDArray[np.int64]
    store: Store

    def __getitem__(self, steps: npt.NDArray[np.int_]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the candidates int64 [B, N, factors] of some steps, and their features float16 [B, N, D].

        Args:
            steps: int [B], step numbers.
        """
        return torch.from_numpy(self.actions[steps]), self.store[steps].values


def action_features(
    encoder: Encoder, recording: Recording, config: RunConfig, *, wait: bool = False
) -> ActionFeatures | None:
    """Compute the features of the candidates of a data set, or the missing ones; None = the algorithm uses none.

    Ctrl-C keeps the finished rows, then raises KeyboardInterrupt.

    Args:
        encoder: Encoder of the config, whose VLM computes the features.
        recording: Data set.
        config: Config, whose algorithm has the options of Digi-Q. The VLM gets about `num_envs` prompts at once.
        wait: As in `embed_with`.

    Raises:
        UserError: The options do not fit the VLM or the data set.
        DiskFull: The disk has too little space.
    """
    options = config.options("algorithm")
    states = action_states(encoder, options)
    if states is None:
        return None
    if config.text_policy is None:
        chosen = candidates(recording, options.n)
    else:
        chosen = text_candidates(encoder, recording, config)
    steps, count = chosen.actions.shape[:2]
    key = {"data": recording.key, "action_features": states.key(), "candidates": digest.of_json(_digests(chosen))}
    folder = recording.folder / "embeddings" / f"actions-{states.view}-{digest.of_json(key)}"
    shape = (steps, count, states.width)
    Console().print(f"features of actions: {cost(shape)}", soft_wrap=True, highlight=False)
    with nullcontext() if is_complete(folder) else locked(folder, wait=wait):  # processes that only read need no lock
        store = write_store(folder, key, shape, lambda start: _rows(recording, chosen, states, start, config), "steps")
    return ActionFeatures(chosen.actions, store)


def cost(shape: tuple[int, int, int]) -> str:
    """Describe what the features of a data set cost.

    Args:
        shape: Steps, candidates of a step, and width of a feature.
    """
    steps, count, width = shape
    return f"{steps:,} steps x {count} actions = {steps * count:,} questions, {2 * steps * count * width / 1e6:,.1f} MB"


def _digests(chosen: Candidates) -> dict[str, Any]:
    return {"actions": digest.of_tensors({"actions": torch.from_numpy(chosen.actions)}), "texts": chosen.texts}


def _rows(
    recording: Recording, chosen: Candidates, states: ActionStates, start: int, config: RunConfig
) -> Iterator[Tokens]:
    """Yield the features of the steps from `start` on, some steps at a time."""
    size = max(config.num_envs // chosen.actions.shape[1], 1)
    first = 0  # step
    for number in range(recording.episodes):
        count = int(recording.starts[number + 1] - recording.starts[number]) - 1
        if first + count > start:
            frames, contexts = recording.frames(number), recording.contexts_of(number)
            for place in range(max(start - first, 0), count, size):
                rows = slice(place, min(place + size, count))
                texts = chosen.texts[first + rows.start : first + rows.stop]
                values = states.encode(frames[rows], texts, contexts[rows])
                yield Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
        first += count

"""Candidates for the action of each recorded step, from which Digi-Q's policy imitates the best.

Candidate 0 is the recorded action. The others are the different actions that were taken on the most similar screens of
the data set, the most similar first: an estimate of what the policies that recorded the data do there, which needs
neither them nor their probabilities. There is no random choice.

Screens are compared as thumbnails, by their squared distance; an action is as near as the nearest screen on which it
was taken. Actions are different if their texts are: a place inside a cell counts, a factor without effect does not. An
action that is malformed in the context of a step is no candidate. If the data set has fewer than N different actions,
the recorded action fills the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pr2l.core import registry
from pr2l.core.config import parse_options
from pr2l.core.errors import UserError
from pr2l.core.types import Context, Frames
from pr2l.data.recording import Recording

SIDE = 32  # longer side of a thumbnail in pixels
CHUNK = 256  # steps whose distances to all others are in memory at once

TextOf = Callable[[Any, Context], str]  # an action and its context -> its text form; "" = malformed


class Candidates(NamedTuple):
    """Candidates of all steps of a data set.

    Args:
        actions: int64 [steps, N, factors].
        texts: Their text forms, N per step; "" = a recorded action that was malformed.
    """

    actions: npt.NDArray[np.int64]
    texts: list[list[str]]


def text_form(recording: Recording) -> TextOf:
    """Return the function that writes the actions of a data set as texts.

    Args:
        recording: Data set of an environment whose module has a function `action_text(action, context, options)`.

    Raises:
        UserError: The environment is not known or has no such function.
    """
    if recording.environment is None:
        raise UserError(f"{recording.folder} does not name its environment; record it with `pr2l collect`")
    module = registry.load("environments", recording.environment)
    if not hasattr(module, "action_text"):
        raise UserError(
            f"{recording.environment} does not write its actions as texts; the environments phone, android and miniwob "
            "do, and any other whose module has a function action_text(action, context, options)"
        )
    options = parse_options(module.Defaults, recording.environment_options or {}, "environment_options", warn=False)
    return lambda action, context: str(module.action_text(action, context, options))


def candidates(recording: Recording, count: int) -> Candidates:
    """Choose the candidates of each step of a data set.

    Args:
        recording: Data set with Discrete or MultiDiscrete actions.
        count: N, number of candidates of a step.

    Raises:
        UserError: The actions are of another kind, or the environment does not write them as texts.
    """
    text_of = text_form(recording)
    episodes = [recording.episode(number) for number in range(recording.episodes)]
    if not all(isinstance(episode.actions, np.ndarray) for episode in episodes):
        raise UserError(f"candidates need Discrete or MultiDiscrete actions, not {recording.action_space}")
    recorded = np.concatenate([episode.actions for episode in episodes])
    contexts = [context for episode in episodes for context in episode.contexts[:-1]]
    own = [text_of(action, context) for action, context in zip(recorded, contexts, strict=True)]
    frames = [thumbnails(recording.frames(number)[:-1]) for number in range(recording.episodes)]
    actions, texts = [], []
    for step, order in enumerate(nearest_steps(np.concatenate(frames), own)):
        chosen = {own[step]: step}
        for other in order:
            if len(chosen) == count:
                break
            if text := text_of(recorded[other], contexts[step]):
                chosen.setdefault(text, other)
        fill = count - len(chosen)
        actions.append(recorded[[*chosen.values(), *[step] * fill]])
        texts.append([*chosen, *[own[step]] * fill])
    return Candidates(np.stack(actions).astype(np.int64).reshape(len(recorded), count, -1), texts)


def nearest_steps(pictures: npt.NDArray[np.float64], texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield for each step the nearest step of each different action, the nearest first; of equally near ones the first.

    Args:
        pictures: Whole numbers [steps, P], the thumbnail of each step.
        texts: Action of each step; "" = malformed, which is left out.
    """
    steps = len(pictures)
    usable = np.array([step for step in range(steps) if texts[step]], int)
    _, action_of = np.unique([texts[step] for step in usable], return_inverse=True)
    order = np.argsort(action_of, kind="stable")
    usable, starts = usable[order], np.flatnonzero(np.diff(action_of[order], prepend=-1))
    norms = (pictures**2).sum(axis=1)
    for start in range(0, steps, CHUNK):
        rows = slice(start, start + CHUNK)
        distances = norms[rows, None] + norms[usable] - 2 * pictures[rows] @ pictures[usable].T
        # Distance and step in one number, exact in float64, so that the smallest one says both.
        both = np.minimum.reduceat(distances * steps + usable, starts, axis=1) if len(usable) else distances
        yield from (np.sort(both, axis=1) % steps).astype(int).tolist()


def thumbnails(frames: Frames) -> npt.NDArray[np.float64]:
    """Return frames reduced to SIDE pixels on their longer side, float64 [B, P] of whole numbers.

    Args:
        frames: uint8 [B, H, W, 3].
    """
    height, width = frames.shape[1:3]
    scale = min(SIDE / max(height, width), 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small).reshape(len(frames), -1).astype(np.float64)

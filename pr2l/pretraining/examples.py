"""Training examples: random labelled frames, and questions about them in chosen proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from pr2l.core.types import Frames, Labels, Scene
from pr2l.data import questions
from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import Question, View


@dataclass(frozen=True)
class FrameBatch:
    """Frames with their labels and scenes.

    Args:
        frames: uint8 [B, H, W, 3].
        labels: B lists.
        scenes: B.
        rng: For whatever else is drawn for this batch.
    """

    frames: Frames
    labels: list[Labels]
    scenes: list[Scene]
    rng: np.random.Generator

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def views(self) -> list[View]:
        """What each frame shows."""
        height, width = self.size
        return [View.of(labels, width, height, scene) for labels, scene in zip(self.labels, self.scenes, strict=True)]


def draw_frames(sets: Sequence[LabelledFrames], count: int, rng: np.random.Generator) -> FrameBatch:
    """Draw frames, each of all sets with equal probability; half are mirrored, so left and right are balanced."""
    lengths = np.array([len(frame_set) for frame_set in sets])
    frames, labels, scenes = [], [], []
    for number in rng.choice(len(sets), size=count, p=lengths / lengths.sum()):
        row = int(rng.integers(lengths[number]))
        frame, frame_labels = sets[number].frames[row], sets[number].labels[row]
        if rng.random() < 0.5:
            frame, frame_labels = mirrored(frame, frame_labels)
        frames.append(frame)
        labels.append(frame_labels)
        scenes.append(sets[number].scene(row))
    return FrameBatch(np.stack(frames), labels, scenes, rng)


def mirrored(frame: Frames, labels: Labels) -> tuple[Frames, Labels]:
    """Flip a frame uint8 [H, W, 3] and its labels' boxes horizontally."""
    width = frame.shape[1]
    boxes = [(width - x1, y0, width - x0, y1) for x0, y0, x1, y1 in (label["box"] for label in labels)]
    return frame[:, ::-1], [{**label, "box": box} for label, box in zip(labels, boxes, strict=True)]


class QuestionMix(BaseModel):
    """Shares, in 0..1, of the kinds of questions about a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    found: float = 0.35  # of all questions, if the room is known: whether a thing would be found in it
    whole: float = 0.25  # of the others: about the whole frame
    repeats: float = 0.3  # of the others, if a name is there more than once, which is rare: how many there are
    absent: float = 0.35  # of the others: about a name that is not there
    # Of the questions about one name. Direction is learned late and suddenly, distance slowest of all.
    presence: float = 0.2
    direction: float = 0.25
    distance: float = 0.35
    count: float = 0.2


def draw_questions(
    view: View, names: Sequence[str], count: int, rng: np.random.Generator, mix: QuestionMix | None = None
) -> list[Question]:
    """Draw up to `count` questions about one frame; fewer if it shows too little to ask about.

    Args:
        view: What the frame shows.
        names: Every name that can be asked about.
        count: Questions at most.
        rng: Source of randomness.
        mix: Shares of the kinds; None = the defaults.
    """
    mix = mix or QuestionMix()
    whole = questions.overall(view)
    visible = sorted({label["name"] for label in view.things} - view.unclear)
    absent = [name for name in names if name not in visible and name not in view.unclear]
    repeated = [name for name in visible if len(view.of_name(name)) > 1]
    kept = list(view.scene.get("kept", ()))
    drawn = []
    for _ in range(count):
        if kept and rng.random() < mix.found:
            drawn.append(questions.found(view, _choice(kept, rng))[rng.integers(2)])
        elif whole and rng.random() < mix.whole:
            drawn.append(whole[rng.integers(len(whole))])
        elif repeated and rng.random() < mix.repeats:
            about = questions.about(view, _choice(repeated, rng))
            drawn += [question for question in about if question.kind == "count"]
        elif pool := visible if visible and (rng.random() >= mix.absent or not absent) else absent:
            about = questions.about(view, _choice(pool, rng))
            shares = np.array([getattr(mix, question.kind) for question in about])
            drawn.append(about[rng.choice(len(about), p=shares / shares.sum())])
    return drawn


def _choice(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]

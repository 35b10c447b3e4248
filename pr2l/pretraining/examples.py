"""Training examples: random labelled frames, and random questions about them in given proportions."""

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
    """Batch of B frames with labels and scenes.

    Args:
        frames: uint8 [B, H, W, 3].
        labels: Labels of each frame, B lists.
        scenes: Scene of each frame, B of them.
        rng: Random generator for further draws for this batch, such as the questions.
    """

    frames: Frames
    labels: list[Labels]
    scenes: list[Scene]
    rng: np.random.Generator

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def views(self) -> list[View]:
        """Return a view of each frame, from which questions are made."""
        height, width = self.size
        return [View.of(labels, width, height, scene) for labels, scene in zip(self.labels, self.scenes, strict=True)]


def draw_frames(sets: Sequence[LabelledFrames], count: int, rng: np.random.Generator) -> FrameBatch:
    """Draw random frames, all frames of all sets with equal probability.

    Each frame is mirrored with probability 0.5, so that left and right are balanced.

    Args:
        sets: Sets of labelled frames of the same size.
        count: Number of frames.
        rng: Random generator, which the batch keeps.
    """
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
    """Flip a frame and the bounding boxes of its labels horizontally.

    Args:
        frame: uint8 [H, W, 3].
        labels: Labels of the frame.

    Returns:
        The flipped frame, a view of the same memory, and new labels.
    """
    width = frame.shape[1]
    boxes = [(width - x1, y0, width - x0, y1) for x0, y0, x1, y1 in (label["box"] for label in labels)]
    return frame[:, ::-1], [{**label, "box": box} for label, box in zip(labels, boxes, strict=True)]


class QuestionMix(BaseModel):
    """Proportions of the kinds of questions about a frame, each in 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    found: float = 0.35  # fraction of all questions: would such a room have the object? Only if the room is known
    whole: float = 0.25  # fraction of the remaining questions: about the whole frame
    repeats: float = 0.3  # fraction of the remaining questions: how many? Only if a name is repeated, which is rare
    absent: float = 0.35  # fraction of the remaining questions: about a name that is not in the frame
    presence: float = 0.2  # weight of presence among the questions about one name
    direction: float = 0.25  # weight of direction, which the model learns late and suddenly
    distance: float = 0.35  # weight of distance, which the model learns most slowly
    count: float = 0.2  # weight of count among the questions about one name


def draw_questions(
    view: View, names: Sequence[str], count: int, rng: np.random.Generator, mix: QuestionMix | None = None
) -> list[Question]:
    """Draw random questions about one frame.

    Args:
        view: View of the frame.
        names: All names that a question can be about.
        count: Maximum number of questions; a frame that shows too little gives fewer.
        rng: Random generator.
        mix: Proportions of the kinds of questions; None = the defaults.
    """
    mix = mix or QuestionMix()
    overall = questions.overall(view)
    visible = sorted({label["name"] for label in view.things} - view.unclear)
    absent = [name for name in names if name not in visible and name not in view.unclear]
    repeated = [name for name in visible if len(view.of_name(name)) > 1]
    household = list(view.scene.get("kept", ()))
    samples = []
    for _ in range(count):
        if household and rng.random() < mix.found:
            samples.append(questions.found(view, _choice(household, rng))[rng.integers(2)])
        elif overall and rng.random() < mix.whole:
            samples.append(overall[rng.integers(len(overall))])
        elif repeated and rng.random() < mix.repeats:
            about = questions.about(view, _choice(repeated, rng))
            samples += [question for question in about if question.kind == "count"]
        elif pool := visible if visible and (rng.random() >= mix.absent or not absent) else absent:
            about = questions.about(view, _choice(pool, rng))
            shares = np.array([getattr(mix, question.kind) for question in about])
            samples.append(about[rng.choice(len(about), p=shares / shares.sum())])
    return samples


def _choice(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]

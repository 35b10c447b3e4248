"""What training a VLM from scratch and fine-tuning one share: what is asked, the course of the steps, checkpoints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pr2l.core.types import Frames, Labels, Scene
from pr2l.data import questions
from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import Question, View

CHECKPOINT_EVERY = 100  # steps
CHECKPOINT = "checkpoint.safetensors"


# What is asked.


@dataclass(frozen=True)
class Batch:
    frames: Frames  # uint8 [B, H, W, 3]
    labels: list[Labels]
    scenes: list[Scene]
    rng: np.random.Generator

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def views(self) -> list[View]:
        height, width = self.size
        return [View.of(*each) for each in zip(self.labels, repeat(width), repeat(height), self.scenes, strict=False)]


def draw(sets: Sequence[LabelledFrames], size: int, rng: np.random.Generator) -> Batch:
    """Random frames of all sets, half of them mirrored: then left is right, and every sprite counts twice."""
    lengths = np.array([len(part) for part in sets])
    chosen = rng.choice(len(sets), size=size, p=lengths / lengths.sum())
    frames, labels, scenes = [], [], []
    for part in chosen:
        row = int(rng.integers(lengths[part]))
        frame, frame_labels = sets[part].frames[row], sets[part].labels[row]
        if rng.random() < 0.5:
            frame, frame_labels = mirrored(frame, frame_labels)
        frames.append(frame)
        labels.append(frame_labels)
        scenes.append(sets[part].scene(row))
    return Batch(np.stack(frames), labels, scenes, rng)


def mirrored(frame: Frames, labels: Labels) -> tuple[Frames, Labels]:
    """The frame [H, W, 3] seen in a mirror, and its labels' boxes with it."""
    width = frame.shape[1]
    boxes = [(width - x1, y0, width - x0, y1) for x0, y0, x1, y1 in (label["box"] for label in labels)]
    return frame[:, ::-1], [{**label, "box": box} for label, box in zip(labels, boxes, strict=True)]


class Mix(BaseModel):
    """What is asked about a frame, as shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    found: float = 0.35  # of all questions, where the room is known: whether a thing would be found there
    whole: float = 0.25  # of the rest: about the whole frame
    repeats: float = 0.3  # of the rest, where a name is there more than once: how many there are; it is rarely so
    absent: float = 0.35  # of the rest: about a name that is not there
    # Of the questions about one name. Direction is learned late and suddenly, distance slowest of all.
    presence: float = 0.2
    direction: float = 0.25
    distance: float = 0.35
    count: float = 0.2


def pick_questions(
    view: View, names: Sequence[str], count: int, rng: np.random.Generator, mix: Mix | None = None
) -> list[Question]:
    """Up to `count` questions about one frame. mix: None = Mix()."""
    mix = mix or Mix()
    whole = questions.overall(view)
    seen = sorted({label["name"] for label in view.things} - view.unclear)
    absent = [name for name in names if name not in seen and name not in view.unclear]
    repeated = [name for name in seen if len(view.of_name(name)) > 1]
    picked = []
    kept = list(view.scene.get("kept", ()))
    for _ in range(count):
        if kept and rng.random() < mix.found:
            picked.append(questions.found(view, _one_of(kept, rng))[rng.integers(2)])
        elif whole and rng.random() < mix.whole:
            picked.append(whole[rng.integers(len(whole))])
        elif repeated and rng.random() < mix.repeats:
            picked += [one for one in questions.about(view, _one_of(repeated, rng)) if one.kind == "count"]
        elif pool := seen if seen and (rng.random() >= mix.absent or not absent) else absent:
            options = questions.about(view, _one_of(pool, rng))
            shares = np.array([getattr(mix, option.kind) for option in options])
            picked.append(options[rng.choice(len(options), p=shares / shares.sum())])
    return picked


def _one_of(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


# The course of the steps.


@dataclass(frozen=True)
class Course:
    """Some steps; the learning rate rises for a tenth of them, then falls along a cosine to zero."""

    name: str
    steps: int
    rate: float

    def rate_at(self, step: int) -> float:
        rise = max(1, self.steps // 10)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


Report = Callable[[Course, int, dict[str, float]], None]  # (course, steps done, metrics)


def run(
    course: Course,
    first: int,
    step: Callable[[int], dict[str, float]],
    save: Callable[[int], None],
    report: Report,
) -> None:
    """The steps from `first` on, with checkpoints on the way; Ctrl-C saves one more and passes on.

    step: does the step of that number and returns its metrics. save: keeps the state after so many steps.
    """
    done = first
    try:
        for number in range(first, course.steps):
            metrics = step(number)
            done = number + 1
            report(course, done, metrics)
            if done % CHECKPOINT_EVERY == 0 or done == course.steps:
                save(done)
    except KeyboardInterrupt:
        save(done)
        raise


def update(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], loss: Tensor, rate: float) -> None:
    """One step of the optimizer down the loss, its gradient no longer than 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


# Checkpoints: safetensors and JSON.


def save(folder: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, at: Sequence[int]) -> None:
    """Replaces the checkpoint of the folder. at: the numbers that say where the training is."""
    entries = {
        f"optimizer/{index}/{name}": entry
        for index, state in optimizer.state_dict()["state"].items()
        for name, entry in state.items()
    }
    unfinished = folder / "checkpoint.part"
    # Copies: tied weights share memory, which safetensors refuses.
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in {**tensors, **entries}.items()},
        unfinished,
        metadata={"at": json.dumps(list(at))},
    )
    os.replace(unfinished, folder / CHECKPOINT)


def restore(folder: Path, optimizer: torch.optim.Optimizer) -> tuple[list[int], dict[str, Tensor]] | None:
    """(at, tensors) of the folder's checkpoint, the optimizer set to it; None without a checkpoint."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    tensors = load_file(path)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, entry = name.split("/")
            state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()["at"]), tensors


def below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors whose names begin with "<part>/", without that."""
    start = f"{part}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}

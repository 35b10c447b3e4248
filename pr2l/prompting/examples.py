"""Labelled frames for prompt evaluation: whether the target of a frame's context is present, where, and how far away.

They come from a simulator with labels, from a data set of `pr2l collect --labels`, or from a folder of pictures with a
table, labels.csv:

    file,target,present,direction,distance,group
    0001.png,spider,yes,far left,near,walk 1
    0002.png,spider,no,,,walk 1

`file` and `present` are required. Frames of one `group`, such as a walk, are similar, so statistics do not treat
them as independent. Every other column fills the prompt slot with the same name.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pr2l.core import digest, registry
from pr2l.core.errors import UserError, did_you_mean
from pr2l.core.images import read_image
from pr2l.core.io import DamagedFile
from pr2l.core.prompt import task_contexts
from pr2l.core.types import Context, Contexts, Frames, Labels
from pr2l.data.labelled_frames import Progress, Source, load_or_play
from pr2l.data.manifest import LABELS
from pr2l.data.questions import DIRECTIONS, DISTANCES, View, direction, distance
from pr2l.data.recording import Recording

GROUP = 20  # maximum number of frames per played episode: many short episodes are more diverse than a few long ones
FEWEST_GROUPS = 10  # minimum number of played episodes, for any number of frames
TABLE = "labels.csv"
_COLUMNS = ("file", "present", "direction", "distance", "group")
Words = npt.NDArray[np.str_]
Annotation = tuple[Context, bool, str, str]  # a context, whether its target is present, direction, distance


@dataclass(frozen=True)
class Examples:
    """N labelled frames.

    Attributes:
        frames: uint8 [N, H, W, 3]; or [N, K, H, W, 3], each frame after the K - 1 frames before it in its episode.
        contexts: N contexts.
        present: bool [N], whether the frame shows the target of its context.
        direction: [N] direction of the nearest target, in words of data/questions.py; "" = absent or unknown.
        distance: [N] distance of the nearest target, in the same way.
        groups: int [N] group of each frame. Frames of one group, such as an episode, are similar.
    """

    frames: Frames
    contexts: Contexts
    present: npt.NDArray[np.bool_]
    direction: Words
    distance: Words
    groups: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.contexts)

    @cached_property
    def digest(self) -> str:
        """Digest of frames, contexts, labels and groups."""
        words = [self.contexts, *(values.tolist() for values in (self.present, self.direction, self.distance))]
        pixels = sha256(self.frames.tobytes()).hexdigest()
        return digest.of_json([self.frames.shape, pixels, *words, self.groups.tolist()])

    @property
    def frame_history(self) -> int:
        """K, number of frames of an example."""
        return 1 if self.frames.ndim == 4 else self.frames.shape[1]

    def last_frames(self, count: int) -> Frames:
        """Return the last frames of each example, as an encoder takes them.

        Args:
            count: Number of frames of a prompt.

        Returns:
            uint8 [N, H, W, 3], or [N, count, H, W, 3] if count is greater than 1.

        Raises:
            UserError: If the examples have fewer frames.
        """
        if count > self.frame_history:
            raise UserError(
                f"the prompt takes the last {count} frames of an episode, and the examples have {self.frame_history};"
                f" play or read them with frame_history={count}, or use a prompt with one image"
            )
        if self.frame_history == 1:
            return self.frames
        return self.frames[:, -1] if count == 1 else self.frames[:, -count:]

    def labels(self) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
        """Return for "presence", "direction" and "distance" the known values [n] and their rows [n]."""
        values_of = {"presence": self.present, "direction": self.direction, "distance": self.distance}
        rows = {"presence": np.arange(len(self))}
        rows |= {name: np.flatnonzero(values_of[name] != "") for name in ("direction", "distance")}
        return {name: (values[rows[name]], rows[name]) for name, values in values_of.items()}

    def spread(self, count: int) -> Examples:
        """Return at most `count` of the examples, evenly spread.

        Args:
            count: Largest number of examples, at least 1.
        """
        rows = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return Examples(
            frames=self.frames[rows],
            contexts=[self.contexts[row] for row in rows],
            present=self.present[rows],
            direction=self.direction[rows],
            distance=self.distance[rows],
            groups=self.groups[rows],
        )


def play(source: Source, folder: Path, progress: Progress = lambda count: None, frame_history: int = 1) -> Examples:
    """Play one task in a simulator, or read the frames of an earlier call; each episode is a group.

    Args:
        source: Environment, exactly one task, number of frames, and seed.
        folder: Folder in which played frames are stored.
        progress: Called with the number of frames so far.
        frame_history: K, number of frames of an example.

    Raises:
        UserError: If no context of the task names a target.
    """
    [task] = source.tasks
    contexts = task_contexts(registry.load("environments", source.environment).TASKS[task]) or []
    _by_target(contexts)  # raises before anything is played
    most = min(GROUP, max(1, source.frames // FEWEST_GROUPS))
    limited = source.model_copy(update={"episode_frames": most})
    source_frames = load_or_play(limited, folder, progress, frame_history)
    return of_labels(
        source_frames.frames, source_frames.labels, np.array(source_frames.episodes), contexts, source.seed
    )


def of_labels(
    frames: Frames, labels: Sequence[Labels], groups: npt.NDArray[np.int64], contexts: Sequence[Context], seed: int
) -> Examples:
    """Choose a context for each frame so that presence is balanced, overall and for each target.

    About half of the frames show their target, and each target is present about as often as absent, so that its name
    alone carries no information. A frame is dropped if it would disturb the balance, or if all its possible targets
    are too small to recognise.

    Args:
        frames: uint8 [N, H, W, 3] or [N, K, H, W, 3], as in Examples.
        labels: N lists of labels from the simulator, of the last frame.
        groups: [N] group of each frame.
        contexts: Contexts to choose from.
        seed: Seed of the random choices.

    Raises:
        UserError: If no context names a target.
    """
    rng, surplus = np.random.default_rng(seed), Counter[str]()  # how much more often a name was present than absent
    by_target = _by_target(contexts)
    rows: list[int] = []
    annotations: list[Annotation] = []
    for row, (frame, frame_labels) in enumerate(zip(frames, labels, strict=True)):
        height, width = frame.shape[-3:-1]
        view = View.of(frame_labels, width, height)
        clear = [name for name in by_target if view.of_name(name) and name not in view.unclear]
        absent = [name for name in by_target if not view.of_name(name) and name not in view.unclear]
        balance = surplus.total()
        if clear and (not absent or balance < 0 or (balance == 0 and rng.random() < 0.5)):
            name = clear[rng.integers(len(clear))]
            nearest = min(view.of_name(name), key=lambda label: float(label["distance"]))
            annotations.append((by_target[name], True, direction(nearest, view.width), distance(nearest)))
            surplus[name] += 1
        elif absent and balance >= 0:
            name = max(rng.permutation(absent).tolist(), key=lambda name: surplus[name])
            annotations.append((by_target[name], False, "", ""))
            surplus[name] -= 1
        else:
            continue
        rows.append(row)
    return _examples(frames[rows], annotations, groups[rows])


def from_table(folder: Path) -> Examples:
    """Read pictures from a folder with labels.csv. A picture is a single frame, without frames before it.

    Args:
        folder: Folder with the table and the pictures, which have the same size.

    Raises:
        UserError: If the table or a picture is invalid.
    """
    try:
        with (folder / TABLE).open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
            rows = list(csv.DictReader(file, restval=""))
    except UnicodeDecodeError as error:
        raise UserError(f"{folder / TABLE} is not in UTF-8; save it again as CSV UTF-8") from error
    except csv.Error as error:  # such as a field of more than 128 kB, where a quotation mark is missing
        raise UserError(f"{folder / TABLE} cannot be read as CSV: {error}; save it again as CSV UTF-8") from error
    if not rows or not {"file", "present"} <= rows[0].keys():
        raise UserError(f"{folder / TABLE} needs the columns `file` and `present`, and a line for each image")
    annotations = []
    for line, row in enumerate(rows, start=2):
        present = _word(row, "present", ("yes", "no"), line)
        if present == "":
            raise UserError(f"{TABLE}, line {line}: `present` is empty; write yes or no")
        where = [_word(row, "direction", DIRECTIONS, line), _word(row, "distance", DISTANCES, line)]
        context = {key: value or "" for key, value in row.items() if key not in (*_COLUMNS, None)}
        annotations.append((context, present == "yes", *(where if present == "yes" else ("", ""))))
    groups = np.unique([row.get("group") or f"line {line}" for line, row in enumerate(rows)], return_inverse=True)[1]
    return _examples(_pictures([folder / row["file"] for row in rows]), annotations, groups)


def from_recording(
    folder: Path, contexts: Sequence[Context], count: int, seed: int, frame_history: int = 1
) -> Examples:
    """Take examples from a data set of `pr2l collect --labels`; each episode is a group.

    Args:
        folder: Folder of the data set.
        contexts: Contexts to choose from, as for of_labels.
        count: Number of frames to read, evenly spread. of_labels drops some of them.
        seed: Seed of the random choices.
        frame_history: K, number of frames of an example.

    Raises:
        UserError: If the data set has no labels, they are damaged, or their number differs from that of the frames.
    """
    recording = Recording(folder)
    if not (folder / LABELS).is_file():
        raise UserError(f"{folder} has no labels ({LABELS}); record it again with `pr2l collect --labels`")
    # A line is written before its episode. After an interruption the file may have one more, possibly incomplete, line.
    try:
        lines = (folder / LABELS).read_text(encoding="utf-8").splitlines()[: len(recording.contexts)]
        labels = [frame_labels for line in lines for frame_labels in json.loads(line)]
    except (ValueError, TypeError, RecursionError) as error:  # no UTF-8, no JSON, or a line that is no list
        raise DamagedFile(folder / LABELS, str(error), "Collect the data set again with --labels.") from error
    if len(labels) != len(recording):
        raise UserError(
            f"{folder / LABELS} has labels of {len(labels)} frames, but the data set has {len(recording)} frames"
        )
    rows = recording.spread(count)
    groups = np.searchsorted(recording.starts, rows, side="right") - 1
    frames, _ = recording.sample(count, frame_history)
    return of_labels(frames, [labels[row] for row in rows], groups, contexts, seed)


def _by_target(contexts: Sequence[Context]) -> dict[str, Context]:
    context_of = {context["target"]: context for context in contexts if "target" in context}
    if not context_of:
        raise UserError(
            "no context of the task names a target; use your own images and a table of labels with data=FOLDER"
        )
    return context_of


def _word(row: dict[str, str], column: str, allowed: Sequence[str], line: int) -> str:
    word = (row.get(column) or "").strip()
    if word and word not in allowed:
        hint = did_you_mean(word, allowed)
        raise UserError(f"{TABLE}, line {line}: {column} is {word!r}; allowed: {', '.join(allowed)}.{hint}")
    return word


def _pictures(files: Sequence[Path]) -> Frames:
    pictures = []
    for file in files:
        pictures.append(read_image(file, f"{file} (named in {TABLE})"))
        if pictures[-1].shape != pictures[0].shape:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (pictures[0].shape, pictures[-1].shape)]
            raise UserError(f"{file} is {sizes[1]} and {files[0]} is {sizes[0]}; all images must have the same size")
    return np.stack(pictures)


def _examples(frames: Frames, annotations: Sequence[Annotation], groups: npt.NDArray[np.int64]) -> Examples:
    if not annotations:
        raise UserError(
            "the target is neither clearly present nor clearly absent in any frame; use more frames or other frames"
        )
    contexts, present, directions, distances = zip(*annotations, strict=True)
    arrays = (np.array(present), np.array(directions), np.array(distances))
    return Examples(frames, list(contexts), *arrays, groups.astype(np.int64))

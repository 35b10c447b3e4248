"""Reads the episodes of a Minari data set, from `pr2l collect` or any other data set with uint8 frames."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.frame_history import last_frames
from pr2l.core.types import Context, Contexts, Frames, Labels
from pr2l.data.manifest import LABELS, Manifest
from pr2l.data.space_arrays import read

FILE = "main_data.hdf5"  # of Minari, below the folder `data`


@dataclass(frozen=True, eq=False)
class Episode:
    """Recorded episode of n steps, without its frames.

    Args:
        actions: The n executed actions, in the layout of `space_arrays`.
        expert_actions: The n actions that the policy chose before noise, in the same layout; None = recorded without
            noise.
        rewards: float64 [n].
        terminated: bool [n], True in the last row if the environment terminated the episode.
        truncated: bool [n], True in the last row if the episode was truncated, such as by a time limit.
        proprio: float32 [n + 1, P]; None = the environment has no proprio.
        contexts: The contexts of the n + 1 observations.
    """

    actions: Any
    expert_actions: Any | None
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    proprio: npt.NDArray[np.float32] | None
    contexts: Contexts


class Recording:
    """Reader of the episodes of a data set.

    The length of a recording is the number of its frames. Rows are the numbers of the frames:

        row            0    1    2    3  |  4    5    6  |        an episode of n actions has n + 1 frames
        observation   o0   o1   o2   o3  | o0   o1   o2  |
        action        a0   a1   a2       | a0   a1       |

    Args:
        folder: The folder that contains Minari's folder `data`.

    Attributes:
        observation_space: Dict with `frame` and perhaps `proprio`; a Box space of frames becomes Dict(frame).
        action_space: The environment's action space.
        starts: int64 [episodes + 1], the first row of each episode, then the number of all rows.
        contexts: The context at the start of each episode; {} if none was recorded.
        successes: The environment's verdict on each episode; None if none was recorded.
        environment, task: The names of environment and task; None if the metadata lack them.
        environment_options: The environment's options; None if the metadata lack them.
        key: JSON values that identify the data set in the key of a store.

    Raises:
        UserError: If the folder has no data set with a complete episode, `pr2l collect` has not recorded all episodes,
            or the frames are not uint8 [H, W, 3].
        DamagedFile: If a file differs from what `pr2l collect` wrote.
    """

    def __init__(self, folder: Path) -> None:
        manifest = Manifest.read(folder)
        if manifest is not None:
            manifest.check_complete(folder)
        if not (folder / "data").is_dir():
            raise UserError(f"{folder} is not a data set: it has no folder `data`; record one with `pr2l collect`")
        self.folder = folder
        digests = {
            path.relative_to(folder).as_posix(): digest.of_file(path) for path in (folder / "data").glob("*.hdf5")
        }
        if manifest is not None:  # before Minari reads the files, which may be damaged
            manifest.check_files(folder, digests)
        self.storage = _open_storage(folder)
        self.action_space = self.storage.action_space
        self._bare_frames = isinstance(self.storage.observation_space, spaces.Box)
        self.observation_space = _with_frame(self.storage.observation_space, folder)
        count = int(self.storage.total_episodes)
        if not count:
            raise UserError(f"{folder} has no complete episode; record episodes into another folder")
        with _damage_explained(folder):
            metadata = list(self.storage.get_episode_metadata(range(count)))
            contexts = [episode.get("context") for episode in metadata]
            successes = [episode.get("success") for episode in metadata]
            self.successes = [None if success is None else bool(success) for success in successes]
            self.contexts: Contexts = [dict(context) if isinstance(context, dict) else {} for context in contexts]
            self.starts = np.cumsum([0, *(int(episode["total_steps"]) + 1 for episode in metadata)])
        self.environment, self.task = _played(self.storage.metadata)
        self.environment_options: dict[str, Any] | None = self.storage.metadata.get("environment_options")
        name = self.storage.metadata.get("dataset_id", folder.name)
        contents = {"name": name, "episodes": len(metadata), "frames": len(self)}
        self.key = {**contents, "sha256": digest.of_json(digests)}
        next(self.batches(0, 1))  # check the dtype of the frames now rather than during training

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.starts) - 1

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of a frame: height and width in pixels, and 3 channels."""
        height, width, channels = self.observation_space["frame"].shape or (0, 0, 0)
        return height, width, channels

    def episode(self, number: int) -> Episode:
        """Read an episode without its frames.

        Args:
            number: Number of the episode, from 0.

        Raises:
            UserError: If an array does not fit its space, or the arrays differ in length.
        """
        with _damage_explained(self.folder), h5py.File(self.folder / "data" / FILE) as file:
            group = file[f"episode_{number}"]
            steps = int(self.starts[number + 1] - self.starts[number]) - 1
            rewards = group["rewards"][()].astype(np.float64)
            terminated, truncated = (group[key][()].astype(bool) for key in ("terminations", "truncations"))
            actions = read(self.action_space, group["actions"], "action")
            choice = group.get("infos/choice")
            expert_actions = None if choice is None else read(self.action_space, choice, "infos['choice']")
            proprio = None
            if "proprio" in self.observation_space.spaces:
                proprio = read(self.observation_space["proprio"], group["observations/proprio"], "proprio")
        lengths = {len(rewards), len(terminated), len(truncated)}
        if lengths != {steps} or terminated[:-1].any() or truncated[:-1].any():
            raise UserError(
                f"episode {number} of {self.folder} must have {steps} steps, of which only the last one ends it; "
                "record it again"
            )
        if not terminated[-1]:
            truncated[-1] = True  # the recording stopped
        return Episode(actions, expert_actions, rewards, terminated, truncated, proprio, self.contexts_of(number))

    def contexts_of(self, number: int) -> Contexts:
        """Read the contexts of the n + 1 observations of an episode.

        Args:
            number: Number of the episode, from 0.

        Returns:
            The stored context of each observation; if there are none, the episode's context n + 1 times.
        """
        count = int(self.starts[number + 1] - self.starts[number])
        with _damage_explained(self.folder), h5py.File(self.folder / "data" / FILE) as file:
            stored = file.get(f"episode_{number}/infos/context")
            # Other programs may store other data under this name; `pr2l collect` stores JSON texts.
            if not isinstance(stored, h5py.Dataset) or h5py.check_string_dtype(stored.dtype) is None:
                return [self.contexts[number]] * count
            return [json.loads(text) for text in stored[()]]

    def all_contexts(self) -> list[Context]:
        """Return all distinct contexts of the data set, in the order of their first use."""
        different: dict[str, Context] = {}
        for number in range(self.episodes):
            for context in self.contexts_of(number):
                different.setdefault(json.dumps(context, sort_keys=True), context)
        return list(different.values())

    def infos(self, number: int, key: str) -> Any:
        """Read an entry of the infos that `collect(infos=...)` stored.

        Args:
            number: Number of the episode, from 0.
            key: Key of the entry.

        Returns:
            An array [n + 1, ...], or a list of n + 1 JSON values.

        Raises:
            UserError: If the episode has no such entry.
        """
        with _damage_explained(self.folder), h5py.File(self.folder / "data" / FILE) as file:
            stored = file.get(f"episode_{number}/infos/{key}")
            if stored is None:
                names = ", ".join(file.get(f"episode_{number}/infos", {})) or "none"
                raise UserError(f"episode {number} of {self.folder} has no infos[{key!r}]; it has: {names}")
            values = stored[()]
            return [json.loads(text) for text in values] if h5py.check_string_dtype(stored.dtype) else values

    def labels(self, start: int = 0, near: float = 1.0) -> Iterator[Labels]:
        """Yield the simulator's labels of the rows from `start` to the end, as the environment gave them.

        Args:
            start: The first row.
            near: NEAR of the environment's module, the unit of the stored distances.

        Raises:
            UserError: The episodes were recorded without labels.
        """
        path = self.folder / LABELS
        if not path.is_file():
            raise UserError(f"{self.folder} has no labels; record the episodes again with `pr2l collect --labels`")
        first = self.episode_of(start)
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(islice(lines, first, None), first):
                for labels in json.loads(line)[max(start - int(self.starts[number]), 0) :]:
                    yield [{**label, "distance": label["distance"] * near} for label in labels]

    def batches(self, start: int, size: int, frame_history: int = 1) -> Iterator[tuple[Frames, Contexts]]:
        """Yield the rows from `start` to the end in batches: frames and contexts.

        Args:
            start: The first row.
            size: Number of rows of a batch; the last batch may be smaller.
            frame_history: K, number of frames per row: the row's frame and the K - 1 frames before it in its episode.

        Yields:
            Frames, uint8 [B, H, W, 3] or [B, K, H, W, 3] as `last_frames` returns them, and their B contexts.
        """
        frames: list[Frames] = []
        contexts: Contexts = []
        first = self.episode_of(start)
        for number in range(first, self.episodes):
            episode_frames, episode_contexts = self.frames(number), self.contexts_of(number)
            for row in range(max(start - int(self.starts[number]), 0), len(episode_frames)):
                frames.append(last_frames(episode_frames, [row], frame_history)[0])
                contexts.append(episode_contexts[row])
                if len(frames) == size:
                    yield np.stack(frames), contexts
                    frames, contexts = [], []
        if frames:
            yield np.stack(frames), contexts

    def sample(self, count: int, frame_history: int = 1) -> tuple[Frames, Contexts]:
        """Read rows that are evenly spread over the data set: frames and contexts, as in `batches`.

        Args:
            count: Number of rows; a smaller data set returns all of its rows.
            frame_history: As in `batches`.
        """
        frames: list[Frames] = []
        contexts: Contexts = []
        for number, rows in groupby(map(int, self.spread(count)), key=self.episode_of):
            places, episode_contexts = [row - int(self.starts[number]) for row in rows], self.contexts_of(number)
            frames.append(last_frames(self.frames(number), places, frame_history))
            contexts += [episode_contexts[place] for place in places]
        return np.concatenate(frames), contexts

    def spread(self, count: int) -> npt.NDArray[np.int_]:
        """Return `count` rows that are evenly spread over the data set, or all rows if there are fewer.

        Args:
            count: Number of rows, at least 1.

        Returns:
            int64 [rows], ascending, with the first and the last row if `count` is 2 or more.
        """
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)

    def episode_of(self, row: int) -> int:
        """Return the number of the episode that contains a row.

        Args:
            row: Index of an observation among those of all episodes, from 0.
        """
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def frames(self, number: int) -> Frames:
        """Read the frames of an episode.

        Args:
            number: Number of the episode, from 0.

        Returns:
            uint8 [n + 1, H, W, 3].

        Raises:
            UserError: The frames do not fit the observation space.
        """
        with _damage_explained(self.folder):
            (episode,) = self.storage.get_episodes([number])
            observations = episode["observations"]
            frames = np.asarray(observations if self._bare_frames else observations["frame"])
        expected = (int(self.starts[number + 1] - self.starts[number]), *self.frame_shape)
        if frames.dtype != np.uint8 or frames.shape != expected:
            raise UserError(
                f"the frames of episode {number} of {self.folder} are {frames.dtype} {list(frames.shape)}; "
                f"frames must be uint8 {list(expected)}, RGB from 0 to 255. Convert frames of floats from 0 to 1 with "
                "(frames * 255).round().astype(numpy.uint8), and record them in a space of uint8"
            )
        return frames


@contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    """Raise UserError in place of the errors of Minari and HDF5, which have all types if a file is damaged.

    `pr2l collect` stores digests, so that only a data set of another program or of an earlier version gets here.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder} is not a data set that Minari can read: {type(error).__name__}: {error}. Record it again, or "
            "copy it again from where it comes from"
        ) from error


def _open_storage(folder: Path) -> MinariStorage:
    with _damage_explained(folder):
        storage = minari.MinariDataset(folder / "data").storage
    if storage.FORMAT != "hdf5":
        raise UserError(f"{folder} is in Minari's format {storage.FORMAT!r}; convert it to 'hdf5'")
    return storage


def _with_frame(space: spaces.Space[Any], folder: Path) -> spaces.Dict:
    """Return the observation space as a Dict with `frame`; UserError if the frames are not uint8 [H, W, 3]."""
    if isinstance(space, spaces.Box):
        space = spaces.Dict(frame=space)
    if not isinstance(space, spaces.Dict) or "frame" not in space.spaces:
        raise UserError(
            f"the observation space of {folder} is {space}; recorded observations must be frames, Box uint8 "
            "[H, W, 3], or a Dict whose 'frame' is one"
        )
    frame = space["frame"]
    if frame.dtype != np.uint8 or frame.shape is None or len(frame.shape) != 3 or frame.shape[-1] != 3:
        raise UserError(
            f"the frames of {folder} are {frame.dtype} {list(frame.shape or ())}; frames must be uint8 [H, W, 3], RGB "
            "from 0 to 255. Convert frames of floats from 0 to 1 with (frames * 255).round().astype(numpy.uint8), "
            "and record them in a space of uint8"
        )
    return space


def _played(metadata: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return environment and task of a data set; earlier versions of `collect` name them only in the description."""
    if "environment" in metadata:
        return metadata["environment"], metadata["task"]
    described = re.search(r" plays ([\w-]+)/([\w-]+), \w+ episodes from seed ", metadata.get("description", ""))
    return (described[1], described[2]) if described else (None, None)

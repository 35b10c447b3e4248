"""Appends episodes to a Minari data set, so that the finished ones stay readable whenever the process is killed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from pr2l.core.disk import full_disk_explained
from pr2l.core.io import DamagedFile, write_text
from pr2l.data.atomic_file import AtomicFile
from pr2l.data.manifest import LABELS
from pr2l.data.recording import FILE
from pr2l.data.space_arrays import check_supported, write

COMMIT_EVERY = 1.0  # seconds between commits: the most work that a kill loses besides the running episode
COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations", "infos")  # of an EpisodeBuffer


class EpisodeWriter:
    """Writer of the episodes of a data set.

    Args:
        folder: The folder of the data set; `new_storage` has made its files.
        command: The command that continues the data set, for the error of a full disk.

    Attributes:
        storage: Minari's reader of the data set.
        seeds: The seeds of the recorded episodes, in their order.

    Raises:
        DamagedFile: The data set cannot be read.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self.storage = MinariStorage.read(folder / "data")
        self._folder, self._command = folder, command
        self._file = AtomicFile(folder / "data" / FILE)
        self._read_episodes()
        self._labels: list[str] = []  # lines that are not yet written
        self._last_commit, self._committed = time.monotonic(), len(self.seeds)
        _keep_lines(folder / LABELS, len(self.seeds))
        if self.storage.total_episodes != len(self.seeds):  # the process was killed between the two files
            self._write_metadata()

    def append(self, episode: EpisodeBuffer, metadata: dict[str, Any], labels: Any | None = None) -> None:
        """Append an episode, and commit if the last commit is COMMIT_EVERY seconds ago.

        Args:
            episode: The episode, with its seed.
            metadata: HDF5 attributes of the episode.
            labels: The labels of its frames, as JSON values; None = labels are not stored.

        Raises:
            DiskFull: The disk has too little space. The episodes of earlier commits stay.
        """
        number, steps = len(self.seeds), len(episode.rewards)
        with h5py.File(self._file, "r+") as file:
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "seed": episode.seed, "total_steps": steps, **metadata})
            for name in COLUMNS:
                if (values := getattr(episode, name)) is not None:
                    write(group, name, values)
        self.seeds.append(episode.seed)
        self._steps += steps
        self._labels += [] if labels is None else [json.dumps(labels) + "\n"]
        if time.monotonic() - self._last_commit >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Write the appended episodes to the disk.

        Raises:
            DiskFull: The disk has too little space. The episodes of earlier commits stay.
        """
        if not self._file.pending:
            return
        needed = self._file.pending + sum(map(len, self._labels))
        next_step = f"free some space; {self._committed:,} episodes are kept. To continue:\n{self._command}"
        with full_disk_explained(self._folder, "the next episodes", needed, next_step):
            try:
                if self._labels:
                    with (self._folder / LABELS).open("a", encoding="utf-8") as file:
                        file.writelines(self._labels)
                self._file.commit()
                self._write_metadata()
                self._committed = len(self.seeds)
            except BaseException:
                self._file.discard()
                self._read_episodes()
                raise
            finally:
                self._labels.clear()
                self._last_commit = time.monotonic()

    def _read_episodes(self) -> None:
        """Read the seeds and the total number of steps of the episodes on the disk."""
        self.seeds: list[int] = []
        self._steps = 0
        path = self._folder / "data" / FILE
        try:
            with h5py.File(path) as file:
                for number in range(len(file)):
                    attributes = file[f"episode_{number}"].attrs
                    self.seeds.append(int(attributes["seed"]))
                    self._steps += int(attributes["total_steps"])
        except (OSError, KeyError) as error:
            raise DamagedFile(path, str(error), f"Delete {self._folder} and collect it again.") from error

    def _write_metadata(self) -> None:
        """Write Minari's metadata.json; Minari itself does not write it atomically."""
        path = self.storage.data_path
        counts = {"total_episodes": len(self.seeds), "total_steps": self._steps}
        values = {**MinariStorage.read_raw_metadata(path), **counts, "dataset_size": float(self.storage.get_size())}
        write_text(path / "metadata.json", json.dumps(values))


def new_storage(folder: Path, env: gym.Env[Any, Any], metadata: dict[str, Any]) -> None:
    """Make the files of a data set for the spaces of an environment, if it has none.

    Args:
        folder: The folder of the data set; Minari's files are in its subfolder `data`.
        env: The environment.
        metadata: Metadata of the data set, besides the dataset id and the version of Minari.

    Raises:
        UserError: If the data set cannot hold elements of the spaces.
    """
    check_supported(env.observation_space, "observation space")
    check_supported(env.action_space, "action space")
    if (folder / "data").exists():
        return
    partial = folder / ".partial-data"
    shutil.rmtree(partial, ignore_errors=True)
    storage = MinariStorage.new(partial, env.observation_space, env.action_space, jpeg_encoding=False)
    with h5py.File(partial / FILE, "w", track_order=True):
        pass  # a valid file without episodes
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__, **metadata})
    partial.rename(folder / "data")


def _keep_lines(path: Path, count: int) -> None:
    """Remove all but the first lines of a file; lines are written before their episodes."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(lines) > count:
            write_text(path, "".join(lines[:count]))

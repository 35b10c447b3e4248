"""Part files: the episodes of a data set while `pr2l collect` records it.

    parts/00000000-3-8c736521fb1e7d3a.hdf5    number of the part, number of its episodes, digest of the file
    parts/00000001-4-d0b1f2a95c4e6637.hdf5

A part has the episodes that ended within about a second, in Minari's layout: the groups episode_0, episode_1, ... Its
data set `labels` has one line of labels.jsonl for each episode, if labels are stored.

A part gets its name when it is complete on the disk, and does not change afterwards. So a process that is killed leaves
all parts readable. A damaged part can be deleted, because `pr2l collect` records episodes again that no part has.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from minari.data_collector import EpisodeBuffer

from pr2l.core import digest
from pr2l.core.disk import full_disk_explained
from pr2l.core.io import DamagedFile, sync
from pr2l.core.signals import not_interrupted
from pr2l.data.space_arrays import write

FOLDER = "parts"  # in the folder of the data set
COMMIT_EVERY = 1.0  # seconds between parts: the most work that a kill loses besides the running episode
COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations", "infos")  # of an EpisodeBuffer


class EpisodeWriter:
    """Writer of the episodes of a data set to part files.

    Args:
        folder: The folder of the data set.
        command: The command that continues the data set, for the error of a full disk.

    Attributes:
        seeds: The seeds of the recorded episodes, in their order.

    Raises:
        DamagedFile: A part differs from what was written.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self._folder, self._command = folder, command
        self.seeds: list[int] = []
        for path in part_files(folder):
            self.seeds += _seeds(path)
        self._batch: list[tuple[EpisodeBuffer, dict[str, Any], Any]] = []  # episodes that are not yet written
        self._last_commit = time.monotonic()

    @not_interrupted()
    def append(self, episode: EpisodeBuffer, metadata: dict[str, Any], labels: Any | None = None) -> None:
        """Append an episode, and commit if the last commit is COMMIT_EVERY seconds ago.

        Args:
            episode: The episode, with its seed.
            metadata: HDF5 attributes of the episode.
            labels: The labels of its frames, as JSON values; None = labels are not stored.

        Raises:
            DiskFull: The disk has too little space. The episodes of earlier commits stay.
        """
        self._batch.append((episode, metadata, labels))
        self.seeds.append(int(episode.seed))
        if time.monotonic() - self._last_commit >= COMMIT_EVERY:
            self.commit()

    @not_interrupted()
    def commit(self) -> None:
        """Write the appended episodes to a new part.

        Raises:
            DiskFull: The disk has too little space. The episodes of earlier commits stay.
        """
        if not self._batch:
            return
        content, committed = _content(self._batch), len(self.seeds) - len(self._batch)
        next_step = f"free some space; {committed:,} episodes are kept. To continue:\n{self._command}"
        try:
            with (
                full_disk_explained(self._folder, "the next episodes", len(content), next_step),
                new_part(self._folder, len(self._batch)) as path,
            ):
                path.write_bytes(content)
        except BaseException:
            del self.seeds[committed:]
            raise
        finally:
            self._batch, self._last_commit = [], time.monotonic()


@contextmanager
def new_part(folder: Path, episodes: int) -> Iterator[Path]:
    """Make a part: yield the path to which the block writes it, and give it its name if the block has succeeded.

    Args:
        folder: The folder of the data set.
        episodes: Number of episodes of the part.
    """
    parts = folder / FOLDER
    parts.mkdir(exist_ok=True)
    partial = parts / ".partial.hdf5"
    try:
        yield partial
        sync(partial)
        number = max((int(path.name.split("-")[0]) for path in part_files(folder)), default=-1) + 1
        partial.rename(parts / f"{number:08d}-{episodes}-{digest.of_file(partial)[: digest.DIGITS]}.hdf5")
    finally:
        partial.unlink(missing_ok=True)
    for path in (parts, folder):
        sync(path)


def part_files(folder: Path) -> list[Path]:
    """Return the parts of a data set in their order.

    Args:
        folder: Folder of the data set; without parts the list is empty.
    """
    return sorted((folder / FOLDER).glob("[0-9]*.hdf5"))


def count_episodes(folder: Path) -> int:
    """Return the number of episodes in the parts of a data set.

    Args:
        folder: Folder of the data set. The file names hold the counts, so no part is opened.
    """
    return sum(int(path.name.split("-")[1]) for path in part_files(folder))


def episode_groups(file: h5py.File) -> list[h5py.Group]:
    """Return the episodes of an HDF5 file in Minari's layout, in their order.

    Args:
        file: Open file with groups `episode_0`, `episode_1` and so on, without gaps.
    """
    count = sum(name.startswith("episode_") for name in file)
    return [file[f"episode_{number}"] for number in range(count)]


def _content(batch: list[tuple[EpisodeBuffer, dict[str, Any], Any]]) -> bytes:
    """Return the content of a part; it is made in memory, where an error of the disk cannot occur inside of HDF5."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for number, (episode, metadata, _) in enumerate(batch):
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "seed": episode.seed, "total_steps": len(episode.rewards), **metadata})
            for name in COLUMNS:
                if (values := getattr(episode, name)) is not None:
                    write(group, name, values)
        if lines := [json.dumps(labels) + "\n" for _, _, labels in batch if labels is not None]:
            write(file, "labels", lines)
    return buffer.getvalue()


def _seeds(path: Path) -> list[int]:
    """Return the seeds of the episodes of a part; DamagedFile if the part does not have its digest."""
    if not path.stem.endswith(digest.of_file(path)[: digest.DIGITS]):
        problem = "its content differs from what `pr2l collect` wrote"
        raise DamagedFile(path, problem, "Delete this file; `pr2l collect` records its episodes again.")
    with h5py.File(path) as file:
        return [int(group.attrs["seed"]) for group in episode_groups(file)]

"""Makes a Minari data set of part files and, to extend it, a part file of a Minari data set.

    incomplete    collect.json, parts/                                      pr2l/data/parts.py
    complete      collect.json, data/main_data.hdf5, data/metadata.json     and labels.jsonl, if labels are stored

collect.json says which of the two counts (`Manifest.is_complete`); files of the other kind are those of a process that
was killed, and are written again or removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
from minari.dataset.minari_storage import MinariStorage

from pr2l.core.disk import DiskFull, full_disk_explained, in_units
from pr2l.core.io import sync
from pr2l.data.manifest import LABELS
from pr2l.data.parts import FOLDER, episode_groups, new_part, part_files
from pr2l.data.recording import FILE
from pr2l.data.space_arrays import write


def merge(folder: Path, env: gym.Env[Any, Any], metadata: dict[str, Any], command: str) -> None:
    """Write the files of a complete data set; the parts stay.

    Args:
        folder: The folder of the data set.
        env: An environment with the spaces of the data set.
        metadata: Metadata of the data set, besides the dataset id and the version of Minari.
        command: The command that continues the data set, for the error of a full disk.

    Raises:
        DiskFull: The disk has too little space for a copy of all episodes.
    """
    partial, data = folder / ".partial-data", folder / "data"
    for path in (partial, data):  # of a killed process, and of the data set before it was extended
        shutil.rmtree(path, ignore_errors=True)
    what, size = "the merged episodes", sum(path.stat().st_size for path in part_files(folder))
    kept = f"all episodes are kept in {folder / FOLDER}. To continue:\n{command}"
    if (missing := size - shutil.disk_usage(folder).free) > 0:
        raise DiskFull(folder, what, size, f"free {in_units(missing)} or more; {kept}")
    try:
        with full_disk_explained(folder, what, size, f"free some space; {kept}"):
            _write(folder, partial, env, metadata)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(data)
    sync(folder)


def _write(folder: Path, partial: Path, env: gym.Env[Any, Any], metadata: dict[str, Any]) -> None:
    storage = MinariStorage.new(partial, env.observation_space, env.action_space, jpeg_encoding=False)
    episodes, steps = _copy_episodes(part_files(folder), partial)
    labels = partial / LABELS
    if labels.stat().st_size:
        sync(labels)
        labels.replace(folder / LABELS)
    else:
        labels.unlink()
    identity = {"dataset_id": folder.name, "minari_version": minari.__version__}
    counts = {"total_episodes": episodes, "total_steps": steps, "dataset_size": float(storage.get_size())}
    storage.update_metadata({**identity, **metadata, **counts})
    for path in (*partial.iterdir(), partial):
        sync(path)


def _copy_episodes(parts: list[Path], partial: Path) -> tuple[int, int]:
    """Copy the episodes of parts to main_data.hdf5 and labels.jsonl; returns the numbers of episodes and steps."""
    episodes, steps = 0, 0
    with (
        (partial / LABELS).open("w", encoding="utf-8") as labels,
        (partial / FILE).open("w+b") as raw,  # a file of Python's: HDF5's own files hide the error of a full disk
        h5py.File(raw, "w", track_order=True) as file,
    ):
        for path in parts:
            with h5py.File(path) as part:
                for group in episode_groups(part):
                    part.copy(group, file, f"episode_{episodes}")
                    file[f"episode_{episodes}"].attrs.modify("id", episodes)
                    episodes, steps = episodes + 1, steps + int(group.attrs["total_steps"])
                labels.writelines(part["labels"].asstr()[()] if "labels" in part else [])
    return episodes, steps


def unmerge(folder: Path, episodes: int, command: str) -> None:
    """Copy the episodes of a complete data set to its first part, so that others can be added.

    Args:
        folder: The folder of the data set.
        episodes: Number of its episodes.
        command: The command that extends the data set, for the error of a full disk.

    Raises:
        DiskFull: The disk has too little space for a copy of all episodes.
    """
    data, labels = folder / "data" / FILE, folder / LABELS
    next_step = f"free some space; all episodes are kept. To continue:\n{command}"
    size = data.stat().st_size
    with full_disk_explained(folder, "a copy of the episodes", size, next_step), new_part(folder, episodes) as path:
        shutil.copyfile(data, path)
        if labels.is_file():
            with path.open("r+b") as raw, h5py.File(raw, "r+") as file:
                write(file, "labels", labels.read_text(encoding="utf-8").splitlines(keepends=True))

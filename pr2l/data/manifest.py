"""The file collect.json of a data set: how it is collected, how many episodes it will have, and digests of its files.

A data set without this file is from an earlier version or from another program; nothing is known about it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from pr2l.core import digest
from pr2l.core.disk import full_disk_explained
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, read_json, write_json
from pr2l.data.parts import count_episodes

NAME = "collect.json"
LABELS = "labels.jsonl"  # in the folder of the data set: the simulator's labels, if they are stored
FLAGS = {"policy": "random", "split": "train", "seed": 0, "noise": 0.0}  # settings of flags, and their defaults


@dataclass(frozen=True)
class Manifest:
    """Settings and state of a data set.

    Args:
        settings: Everything that determines the episodes, as JSON values: the arguments of `collect`, with all options
            of the environment. "given_options" are those that the user gave.
        wanted: Number of episodes to record; None = all demonstrations.
        recorded: Number of recorded episodes of a complete data set. Episodes whose simulator failed are left out.
        files: Path below the folder -> SHA-256 of each file of a complete data set; {} = the data set is incomplete.
    """

    settings: dict[str, Any]
    wanted: int | None
    recorded: int = 0
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return bool(self.files)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the manifest of a data set, None if it has none.

        Args:
            folder: Folder of the data set, which contains collect.json.

        Raises:
            DamagedFile: The file is damaged.
        """
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            return cls(**read_json(path, _if_changed(folder)))
        except TypeError as error:  # other keys
            raise DamagedFile(path, str(error), _if_changed(folder)) from error

    def write(self, folder: Path) -> None:
        """Write the manifest to the folder of its data set.

        Args:
            folder: An existing folder; its collect.json is replaced.

        Raises:
            DiskFull: The disk has too little space.
        """
        values = asdict(self)
        next_step = f"free some space, or name a folder on another disk. To continue:\n{self.command(folder)}"
        with full_disk_explained(folder, "the settings of the data set", len(json.dumps(values)), next_step):
            write_json(folder / NAME, values)

    def completed(self, folder: Path, recorded: int) -> Manifest:
        """Return the manifest of the complete data set, with the digests of its files.

        Args:
            folder: Folder of the data set; its HDF5 files, metadata.json and labels are read whole for the digests.
            recorded: Number of episodes in these files.
        """
        files = [*sorted((folder / "data").glob("*.hdf5")), folder / "data" / "metadata.json", folder / LABELS]
        digests = {path.relative_to(folder).as_posix(): digest.of_file(path) for path in files if path.is_file()}
        return replace(self, recorded=recorded, files=digests)

    def check_settings(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Check that the data set has the settings of a new call of `collect`.

        Args:
            settings: Settings of the call; each is compared, except "given_options".
            folder: Folder of the data set, for the error message.

        Raises:
            UserError: A setting differs; the error names both values and the command that continues the data set.
        """
        different = [
            f"{name} is {json.dumps(self.settings.get(name))} there and {json.dumps(settings[name])} here"
            for name in settings
            if name != "given_options" and self.settings.get(name) != settings[name]
        ]
        if different:
            raise UserError(
                f"{folder} is a data set of other settings: {'; '.join(different)}. Name another folder with --output,"
                f" or continue it with its own settings:\n{self.command(folder)}"
            )

    def check_complete(self, folder: Path) -> None:
        """Check that the data set is complete.

        Args:
            folder: Folder of the data set, whose recorded parts are counted for the error message.

        Raises:
            UserError: It is incomplete; the error has the command that completes it.
        """
        if self.is_complete:
            return
        recorded = count_episodes(folder)
        keep = f"\nTo keep these {recorded:,} episodes only, add: --episodes {recorded}" if recorded else ""
        wanted = "all" if self.wanted is None else f"{self.wanted:,}"
        raise UserError(
            f"{folder} is incomplete: it has {recorded:,} of {wanted} episodes, because `pr2l collect` was stopped. To "
            f"record the others:\n{self.command(folder)}{keep}"
        )

    def check_files(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Compare the files of a complete data set with those that were written.

        Args:
            folder: The folder of the data set.
            digests: Path below the folder -> SHA-256 of files that were read already.

        Raises:
            DamagedFile: A file is missing or differs.
        """
        for name, written in self.files.items():
            path = folder / name
            if not path.is_file():
                raise DamagedFile(path, "it is missing", _if_changed(folder))
            if written != (digests.get(name) or digest.of_file(path)):
                raise DamagedFile(path, "its content differs from what `pr2l collect` wrote", _if_changed(folder))

    def command(self, folder: Path) -> str:
        """Return the `pr2l collect` command that continues the data set.

        Args:
            folder: Folder of the data set; below the current directory the command has the relative path.

        Returns:
            One line for a POSIX shell, with quotes where needed.
        """
        settings = self.settings
        words = ["pr2l", "collect", settings["environment"], settings["task"]]
        words += [f"{key}={json.dumps(value)}" for key, value in settings["given_options"].items()]
        words += ["--output", str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)]
        flags = {name: settings[name] for name, default in FLAGS.items() if settings[name] != default}
        if settings["demonstrations"] is not None:
            flags = {**flags, "policy": None, "from": settings["demonstrations"]}
        for name, value in {**flags, "episodes": self.wanted}.items():
            words += [] if value is None else [f"--{name}", str(value)]
        words += ["--labels"] * settings["labels"]
        for key in settings["infos"]:
            words += ["--info", key]
        return shlex.join(words)


def _if_changed(folder: Path) -> str:
    return f"Delete {folder} and collect it again; if you changed it on purpose, delete {folder / NAME}."

"""One headless ViZDoom engine: start, restart an episode, advance, close. It does not depend on tasks.

On Linux the engine's temporary folder and shared memory are unlinked as soon as the engine has opened them, so that the
kernel frees them when the process ends. The engine ends with the Python process (launcher.py). On other systems both
are removed by `close`, at garbage collection or at interpreter exit, but not after a SIGKILL.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import UserError

try:
    import vizdoom
except ImportError as error:
    raise ImportError("the Doom environment needs ViZDoom: pip install vizdoom") from error

ON_LINUX = sys.platform == "linux"
FOLDER_PREFIX = "pr2l-doom-"
SHARED_MEMORY = Path("/dev/shm")
BYTES_PER_PIXEL = 4  # of the screen and the labels in shared memory
STATE_BYTES = 128_000  # of everything else there; 45 kB were measured
SCENARIOS = Path(vizdoom.scenarios_path)


@dataclass(frozen=True)
class Settings:
    """Settings of an engine."""

    wad: Path  # the map file
    buttons: tuple[str, ...]  # ViZDoom button names
    size: str  # "WxH" in pixels, one of ViZDoom's screen resolutions
    skill: int = 3  # difficulty, 1 (easy) to 5
    first_tic: int = 1  # game tics (1/35 s) skipped at the start of an episode
    weapon: bool = True  # draw the player's weapon
    labels: bool = False  # provide the labels buffer and the map's geometry, which costs time


@dataclass(frozen=True)
class Pose:
    """Position and heading of the player: map units, and degrees (0 = east, counter-clockwise)."""

    x: float
    y: float
    angle: float


class Engine:
    """Running ViZDoom engine.

    Args:
        settings: The map, the buttons and the rendering.
        folder: A folder made by `temporary_folder`, which may contain the map file; the engine removes it.

    Attributes:
        frame: The current frame, uint8 [H, W, 3].

    Raises:
        UserError: If too little shared memory is free.
        RuntimeError: If the engine does not start; the message names the likely reasons.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._game = _configure(settings, folder)
        self._close = weakref.finalize(self, _shut, self._game, folder)
        try:
            _check_shared_memory(settings)
            self._game.init()
        except UserError:
            self._close()
            raise
        except Exception as error:
            self._close()
            raise RuntimeError(
                f"the ViZDoom engine did not start ({error}). The folder for temporary files, {folder.parent} "
                "(TMPDIR sets another), must allow programs to run, and /dev/shm must have some megabytes free."
            ) from error
        if ON_LINUX:
            _unlink(folder, self._game.get_instance_id())
        width, height = (int(side) for side in settings.size.split("x"))
        self.frame: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
        self._state: Any = None

    def restart(self, seed: int, map_name: str) -> None:
        """Begin an episode, which the seed and the actions determine.

        Args:
            seed: The seed of the engine, 0..2**32-1.
            map_name: The name of a map in the map file, such as "MAP01".
        """
        self._game.set_seed(seed)
        self._game.set_doom_map(map_name)  # in a running engine this loads the map; new_episode would do it twice
        self._read_state()

    def advance(self, pressed: Sequence[bool], tics: int) -> float:
        """Hold buttons for a number of game tics.

        Args:
            pressed: For each button of the settings, whether it is held.
            tics: The number of tics of 1/35 s.

        Returns:
            The points that the map's script has awarded.
        """
        points: float = self._game.make_action(list(pressed), tics)
        self._read_state()
        return points

    def _read_state(self) -> None:
        # ViZDoom has no state after the last tic of an episode, so keep the previous one.
        state = self._game.get_state()
        if state is not None:
            self._state, self.frame = state, state.screen_buffer

    @property
    def finished(self) -> bool:
        """Whether the player is dead or has left the map."""
        return bool(self._game.is_episode_finished())

    @property
    def dead(self) -> bool:
        """Whether the player is dead."""
        return bool(self._game.is_player_dead())

    @property
    def health(self) -> float:
        """The player's health points."""
        return self._variable("HEALTH")

    @property
    def ammunition(self) -> float:
        """Shots left in the selected weapon; negative for a weapon that needs no ammunition."""
        return self._variable("SELECTED_WEAPON_AMMO")

    @property
    def pose(self) -> Pose:
        """The player's position and heading."""
        return Pose(self._variable("POSITION_X"), self._variable("POSITION_Y"), self._variable("ANGLE"))

    def _variable(self, name: str) -> float:
        return float(self._game.get_game_variable(getattr(vizdoom.GameVariable, name)))

    @property
    def objects(self) -> list[Any]:
        """All actors on the map as vizdoom.Object: id, name ("Dead..." for a corpse), position, velocity."""
        return list(self._state.objects)

    @property
    def sectors(self) -> list[Any]:
        """The map's geometry as vizdoom.Sector. Needs Settings.labels."""
        return list(self._state.sectors)

    @property
    def labels(self) -> list[Any]:
        """All visible actors as vizdoom.Label; `value` marks each in `labels_buffer`. Needs Settings.labels."""
        return list(self._state.labels)

    @property
    def labels_buffer(self) -> NDArray[np.uint8]:
        """The label value of the actor drawn at each pixel, uint8 [H, W]. Needs Settings.labels."""
        buffer: NDArray[np.uint8] = self._state.labels_buffer
        return buffer

    def close(self) -> None:
        """End the engine process; a second call has no effect."""
        self._close()


def temporary_folder() -> Path:
    """Make a temporary folder for an engine.

    On Linux this also removes folders and shared memory of programs that were killed while their engines started.

    Raises:
        UserError: If no program may run in the folder for temporary files. ViZDoom would crash this process (SIGSEGV).
    """
    place = tempfile.gettempdir()
    if ON_LINUX and os.statvfs(place).f_flag & os.ST_NOEXEC:
        raise UserError(
            f"{place}, the folder for temporary files, is mounted noexec, so ViZDoom cannot start its engine; set "
            "TMPDIR to another folder"
        )
    for folder in Path(place).glob(f"{FOLDER_PREFIX}*") if ON_LINUX else ():
        with suppress(OSError):  # another program may be removing it too
            if _is_old(folder):
                shutil.rmtree(folder)
    if ON_LINUX:
        _remove_old_memory()
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


def _check_shared_memory(settings: Settings) -> None:
    """Raise UserError if an engine's shared memory does not fit; ViZDoom would kill this process (SIGBUS)."""
    if not (ON_LINUX and SHARED_MEMORY.is_dir()):
        return
    width, height = (int(side) for side in settings.size.split("x"))
    needed, free = width * height * BYTES_PER_PIXEL + STATE_BYTES, shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise UserError(
            f"a ViZDoom engine needs {needed / 1e6:.1f} MB in {SHARED_MEMORY}, and {free / 1e6:.1f} MB are free; use "
            "fewer environments (num_envs), or enlarge it, e.g. docker run --shm-size=2g"
        )


def _remove_old_memory() -> None:
    """Remove the shared memory that a program left when it was killed while its engine started."""
    old = []
    for memory in SHARED_MEMORY.glob("ViZDoom*"):
        with suppress(OSError):
            if _is_old(memory) and memory.stat().st_uid == os.getuid():
                old.append(memory)
    maps = _memory_maps() if old else ""
    for memory in old:
        if str(memory) not in maps:
            memory.unlink(missing_ok=True)


def _memory_maps() -> str:
    """Return the memory maps of all readable processes as one text."""
    texts = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            texts.append(maps.read_text())
    return "\n".join(texts)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > 3600


def _configure(settings: Settings, folder: Path) -> vizdoom.DoomGame:
    game = vizdoom.DoomGame()
    game.set_doom_scenario_path(str(settings.wad))
    # The engine saves its settings on exit, when the folder may be gone.
    game.set_doom_config_path(os.devnull if ON_LINUX else str(folder / "vizdoom.ini"))
    game.set_doom_skill(settings.skill)
    game.set_episode_start_time(settings.first_tic)
    game.set_episode_timeout(0)
    game.set_window_visible(False)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{settings.size.upper()}"))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_hud(False)
    game.set_render_screen_flashes(False)
    game.set_render_weapon(settings.weapon)
    game.set_labels_buffer_enabled(settings.labels)
    game.set_objects_info_enabled(True)
    game.set_sectors_info_enabled(settings.labels)
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in settings.buttons])
    if ON_LINUX:
        game.set_vizdoom_path(str(_launch_script(folder)))
    return game


def _launch_script(folder: Path) -> Path:
    """Write the script that ViZDoom starts as its engine, since ViZDoom starts one file, with its own arguments."""
    engine = Path(vizdoom.__file__).with_name("vizdoom")
    launcher = Path(__file__).with_name("launcher.py")
    words = [sys.executable, "-IS", str(launcher), str(os.getpid()), str(folder), str(engine)]
    script = folder / "engine"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o700)
    return script


def _unlink(folder: Path, instance: str) -> None:
    """Remove the names of files and shared memory that both processes hold open; the kernel frees them at their end."""
    shutil.rmtree(folder)
    for memory in SHARED_MEMORY.glob(f"ViZDoom*{instance}"):
        memory.unlink()


def _shut(game: vizdoom.DoomGame, folder: Path) -> None:
    game.close()
    shutil.rmtree(folder, ignore_errors=True)

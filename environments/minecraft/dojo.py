"""MineDojo's environment, made so that its traps are shut; Python 3.9, numpy and minedojo only.

- A step without an answer looks like the end of an episode, with the observation before: here it raises.
- A programmatic task cannot be made twice in a process, nor with an option that its specification sets: it is made
  as its meta task, from a copy.
- A meta task refuses options that its siblings take: it is asked which it knows.
- Two mobs are counted under names that Minecraft's statistics do not have: KILLED.
- Mobs are summoned from a generator that is seeded when the environment is made: `seed_mobs`.
- Instances that start together may choose the same port: the system chooses one.
- Logs go into the working folder: into a temporary one instead.
"""

from __future__ import annotations

import os
import socket
import tempfile
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from .labels import RAYS
from .spaces import DEGREES
from .tasks import SPAWN_RANGE, TASKS, Task

KILLED = {"zombie_pigman": "pig_zombie", "mooshroom": "mushroom_cow"}  # mob -> its name among the kills, if another
SCRATCH = Path(tempfile.gettempdir()) / "pr2l-minecraft"  # for Minecraft's logs, and the locks of ports in use
_LOCKS: list[Any] = []  # open files, whose locks last as long as this process


def make(task: str, options: dict[str, Any], *, lidar: bool) -> Any:
    """MineDojo's environment for a row of TASKS or an id of its own; starts nothing. ValueError for an unknown id."""
    from minedojo.sim.wrappers import ARNNWrapper
    from minedojo.tasks import MetaTaskName2Class, _meta_task_make

    ours = {
        "image_size": tuple(options["image_size"]),
        "world_seed": options["world_seed"],
        "seed": 0,
        "use_voxel": True,
        "voxel_size": None,  # MineDojo's 3 x 3 x 3
        "use_lidar": lidar,
        "lidar_rays": RAYS,
    }
    meta, specification = _of_row(TASKS[task]) if task in TASKS else _of_minedojo(task)
    known = signature(MetaTaskName2Class[meta].__init__).parameters
    wanted = {name: value for name, value in {**specification, **ours}.items() if name in known}
    if meta == "combat":
        wanted["target_names"] = KILLED.get(wanted["target_names"], wanted["target_names"])
    SCRATCH.mkdir(exist_ok=True)
    os.chdir(SCRATCH)
    env = ARNNWrapper(_meta_task_make(meta, **wanted), cam_interval=DEGREES)  # as minedojo.make does in the end
    if task in TASKS:
        _stay_at_spawn(env)
    _raise_when_lost(env.unwrapped._bridge_env)
    return env


def seed_mobs(env: Any, seed: int) -> None:
    """Where the next reset summons the task's mobs; nothing for a task without any."""
    holder = _layer(env, "_mob_spawn_range_space")
    if holder is not None:
        holder._mob_spawn_range_space.seed(seed % 2**31)


def claim(ports: list[int]) -> int | None:
    """The first of some ports where a Malmo server runs that no other environment of ours uses; None for no ports.

    It is ours until this process ends, however it does. Raises ValueError where there is none.
    """
    import fcntl

    from minedojo.sim.bridge.mc_instance import InstanceManager

    for port in ports:
        if not InstanceManager._is_port_taken(port):
            raise ValueError(f"nothing listens on port {port} of existing_ports: start Malmo there first")
        lock = open(SCRATCH / f"{port}.lock", "w")  # noqa: SIM115  # open as long as this process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            _LOCKS.append(lock)
            return port
    if ports:
        raise ValueError(f"existing_ports {ports} are all in use: give as many as there are environments")
    return None


def attach(port: int | None) -> None:
    """Right before the first reset, which takes the first free instance. port: of a running Malmo; None = start one."""
    from minedojo.sim.bridge.mc_instance import InstanceManager

    if port is None:
        InstanceManager._get_valid_port = _free_port
    else:
        InstanceManager.add_existing_instance(port)


def _of_row(row: Task) -> tuple[str, dict[str, Any]]:
    """The meta task and its arguments."""
    from minedojo.sim import InventoryItem

    arguments = {
        "target_names": row.goal,
        "target_quantities": 1,
        "reward_weights": 1,
        "initial_inventory": [InventoryItem(slot=slot, name=name) for slot, name in row.inventory.items()],
        "initial_mobs": list(row.mobs),
        "initial_mob_spawn_range_low": (-SPAWN_RANGE, 1, -SPAWN_RANGE),
        "initial_mob_spawn_range_high": (SPAWN_RANGE, 1, SPAWN_RANGE),
        "specified_biome": row.biome,
        "initial_weather": "clear",
        "start_at_night": row.night,
        "always_night": row.night,
        "allow_mob_spawn": False,
    }
    return row.meta, arguments


def _of_minedojo(task: str) -> tuple[str, dict[str, Any]]:
    from minedojo.sim import InventoryItem
    from minedojo.tasks import ALL_CREATIVE_TASK_IDS, ALL_TASKS_SPECS
    from omegaconf import OmegaConf

    if task in (*ALL_CREATIVE_TASK_IDS, "open-ended"):
        return task.split(":")[0], {}  # creative tasks differ in nothing but their text
    if task not in ALL_TASKS_SPECS:
        close = get_close_matches(task, [*TASKS, *ALL_TASKS_SPECS, *ALL_CREATIVE_TASK_IDS], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{task!r} is neither one of {', '.join(TASKS)} nor a task of MineDojo.{hint} `python -c 'import minedojo; "
            "print(*minedojo.tasks.ALL_TASK_IDS)'` in its interpreter lists them."
        )
    arguments = {
        name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in ALL_TASKS_SPECS[task].items()
    }
    slots = arguments.get("initial_inventory")
    if slots:
        arguments["initial_inventory"] = [InventoryItem(slot=slot, **item) for slot, item in slots.items()]
    return arguments.pop("__cls__"), arguments


def _stay_at_spawn(env: Any) -> None:
    """Takes the random teleport out of every reset, as MineCLIP does; a harvest has no option for that."""
    fast = _layer(env, "_reset_cmds")
    fast._reset_cmds = [command for command in fast._reset_cmds if not command.startswith("/spreadplayers")]


def _raise_when_lost(bridge: Any) -> None:
    """No mission of MineDojo's has a rule by which it ends, so one that does was lost."""
    answered = bridge.step

    def step(actions: list[str]) -> Any:
        answer = answered(actions)
        if not answer.step_success or bridge.is_terminated:
            raise RuntimeError("Minecraft gave no answer to a step, or ended its mission by itself")
        return answer

    bridge.step = step


def _layer(env: Any, attribute: str) -> Any:
    """The first of the wrappers around Minecraft that has an attribute of its own; None if none has."""
    while env is not None and attribute not in vars(env):
        env = vars(env).get("env")
    return env


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])

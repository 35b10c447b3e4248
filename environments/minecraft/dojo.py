"""MineDojo's environment with workarounds for its defects; Python 3.9, numpy and minedojo only.

- MineDojo treats a step without an answer as the end of the episode, with the previous observation. Here it raises.
- MineDojo can make a programmatic task only once per process, and rejects options that the task's specification sets.
  Here the task is made as its meta task, from a copy of the specification.
- Meta tasks accept different options. Here only options in the signature are passed.
- MineDojo counts kills of two mobs under names that Minecraft's statistics lack, see KILLED.
- MineDojo seeds the generator that places mobs only when it makes the environment, see `seed_mobs`.
- Instances that start at the same time may choose the same port. Here the system chooses a free port.
- MineDojo writes logs into the working folder. Here they go to a temporary folder.
"""

from __future__ import annotations

import os
import socket
from inspect import signature
from typing import Any

from ..base import UserError, did_you_mean
from ..isolation import scratch
from .labels import RAYS
from .spaces import DEGREES
from .tasks import PAPER_TASKS, SPAWN_RANGE, Task

KILLED = {"zombie_pigman": "pig_zombie", "mooshroom": "mushroom_cow"}  # mob -> name in the kill statistics
SIMULATOR = "minecraft"  # name of the scratch folder
_LOCKS: list[int] = []  # open files: their locks last until this process ends


def make(task: str, options: dict[str, Any], *, lidar: bool) -> Any:
    """Make MineDojo's environment of a task without starting Minecraft.

    This changes the working folder of the process to the user's scratch folder.

    Args:
        task: A key of PAPER_TASKS, or a task id of MineDojo.
        options: The options of environment.py's Defaults; "image_size" and "world_seed" are used.
        lidar: Whether observations have "rays", the lidar.

    Raises:
        UserError: If the task is unknown.
    """
    from minedojo.sim.wrappers import ARNNWrapper
    from minedojo.tasks import MetaTaskName2Class, _meta_task_make

    settings = {
        "image_size": tuple(options["image_size"]),
        "world_seed": options["world_seed"],
        "seed": 0,
        "use_voxel": True,
        "voxel_size": None,  # MineDojo's default, 3 x 3 x 3
        "use_lidar": lidar,
        "lidar_rays": RAYS,
    }
    meta, specification = _of_row(PAPER_TASKS[task]) if task in PAPER_TASKS else _of_minedojo(task)
    parameters = signature(MetaTaskName2Class[meta].__init__).parameters
    arguments = {name: value for name, value in {**specification, **settings}.items() if name in parameters}
    if meta == "combat":
        arguments["target_names"] = KILLED.get(arguments["target_names"], arguments["target_names"])
    os.chdir(scratch.folder(SIMULATOR))
    env = ARNNWrapper(_meta_task_make(meta, **arguments), cam_interval=DEGREES)  # as minedojo.make does
    if task in PAPER_TASKS:
        _stay_at_spawn(env)
    _raise_at_mission_end(env.unwrapped._bridge_env)
    return env


def seed_mobs(env: Any, seed: int) -> None:
    """Seed the positions of the mobs of the next reset; no effect for a task without mobs.

    Args:
        env: An environment made by `make`.
        seed: The seed, 0 or more; the lower 31 bits are used.
    """
    holder = _layer(env, "_mob_spawn_range_space")
    if holder is not None:
        holder._mob_spawn_range_space.seed(seed % 2**31)


def claim(ports: list[int]) -> int | None:
    """Reserve the first port that no other environment uses, until this process ends.

    Args:
        ports: The ports of running Malmo servers.

    Returns:
        The port; None if the list is empty.

    Raises:
        UserError: If a port has no server, or all are in use.
    """
    import fcntl

    from minedojo.sim.bridge.mc_instance import InstanceManager

    for port in ports:
        if not InstanceManager._is_port_taken(port):
            raise UserError(f"no server listens on port {port} of existing_ports; start Malmo there first")
        lock = scratch.open_lock(SIMULATOR, str(port))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            _LOCKS.append(lock)
            return port
    if ports:
        raise UserError(f"existing_ports {ports} are all in use; list one port per environment")
    return None


def attach(port: int | None) -> None:
    """Choose the Minecraft instance of the first reset, which must be the next call.

    Args:
        port: The port of a running Malmo server; None = start Minecraft.
    """
    from minedojo.sim.bridge.mc_instance import InstanceManager

    if port is None:
        InstanceManager._get_valid_port = _free_port
    else:
        InstanceManager.add_existing_instance(port)


def _of_row(row: Task) -> tuple[str, dict[str, Any]]:
    """Return the meta task and its arguments for a row of PAPER_TASKS."""
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
        return task.split(":")[0], {}  # creative tasks differ only in their text
    if task not in ALL_TASKS_SPECS:
        hint = did_you_mean(task, [*PAPER_TASKS, *ALL_TASKS_SPECS, *ALL_CREATIVE_TASK_IDS])
        raise UserError(
            f"{task!r} is neither one of {', '.join(PAPER_TASKS)} nor a task of MineDojo.{hint} `python -c 'import "
            "minedojo; print(*minedojo.tasks.ALL_TASK_IDS)'` in its interpreter lists them."
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
    """Remove the random teleport from every reset, as MineCLIP does; harvest tasks have no option for it."""
    fast = _layer(env, "_reset_cmds")
    fast._reset_cmds = [command for command in fast._reset_cmds if not command.startswith("/spreadplayers")]


def _raise_at_mission_end(bridge: Any) -> None:
    """Make steps raise an error when a mission ends: no rule of MineDojo ends one, so the connection was lost."""
    bridge_step = bridge.step

    def step(actions: list[str]) -> Any:
        answer = bridge_step(actions)
        if not answer.step_success or bridge.is_terminated:
            raise RuntimeError("Minecraft did not answer a step, or ended its mission")
        return answer

    bridge.step = step


def _layer(env: Any, attribute: str) -> Any:
    """Return the outermost wrapper that defines an attribute itself, or None."""
    while env is not None and attribute not in vars(env):
        env = vars(env).get("env")
    return env


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])

"""Demonstrations, such as those of people, whose actions are played and recorded in place of a policy's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pr2l.core.errors import UserError
from pr2l.training.recorder import Recorder


def check_demonstrations(module: Any, environment: str, path: Path, policy: str, noise: float) -> None:
    """Raise UserError for demonstrations that cannot be played.

    Args:
        module: The module of the environment.
        environment: The name of the environment.
        path: The file of the demonstrations.
        policy: The policy, which demonstrations replace.
        noise: The probability of random actions, which demonstrations do not have.
    """
    if not hasattr(module, "demonstrations"):
        raise UserError(f"{environment} cannot read demonstrations: it has no function `demonstrations`")
    if noise or policy != "random":
        raise UserError("--from replays demonstrations without changes; leave out --noise and --policy")
    if not path.is_file():
        raise UserError(f"there is no file {path}")


def play_demonstrations(
    env: Recorder, module: Any, path: Path, episodes: int | None, seed: int, present: Collection[int]
) -> Counter[str]:
    """Play demonstrations until enough are recorded.

    Args:
        env: The recorder of the episodes.
        module: The module of the environment.
        path: The file of the demonstrations.
        episodes: Number of episodes to record, with those in `present`; None = all.
        seed: The seed of the first demonstration; later ones add 1.
        present: Seeds of the demonstrations that are recorded already.

    Returns:
        The reasons for which demonstrations are left out, with the number of demonstrations.

    Raises:
        UserError: If no demonstration could be recorded.
    """
    omissions: Counter[str] = Counter()
    episode_count = 0
    for number, demonstration in enumerate(_read_demonstrations(module, path)):
        if episode_count == episodes:
            break
        problem = ""
        if seed + number not in present:
            problem = demonstration.problem or _play_demonstration(env, module, demonstration, seed + number)
        omissions.update([problem] if problem else [])
        episode_count += not problem
    if not episode_count:
        reason = f"the first one because {next(iter(omissions))}" if omissions else "it has none"
        raise UserError(f"no demonstration of {path} could be recorded: {reason}")
    return omissions


def _read_demonstrations(module: Any, path: Path) -> Iterator[Any]:
    try:
        yield from module.demonstrations(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def _play_demonstration(env: Recorder, module: Any, demonstration: Any, seed: int) -> str:
    """Play one demonstration; returns "", or the reason if the demonstration cannot be recorded."""
    env.reset(seed=seed)
    try:
        env.begin(*module.begin(env, demonstration.start))
    except (ValueError, RuntimeError) as error:  # the simulator lacks its scene, or failed
        return str(error)
    for action in demonstration.actions:
        _, _, terminated, truncated, info = env.step(action)
        if "cut" in info:
            return f"the simulator failed: {info['cut']}"
        if terminated or truncated:
            return ""
    return "its actions do not end the episode"

"""Episodes on disk: a policy plays a task; frames, actions, rewards and contexts become a Minari data set.

Nothing is downloaded or asked of the network; `minari.MinariDataset(folder / "data")` reads it back, as does
`minari.load_dataset(folder.name)` with MINARI_DATASETS_PATH set to the folder's parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from pydantic import ValidationError
from rich.progress import track

from pr2l import registry
from pr2l.errors import UnknownName, UserError, explain

Observation: TypeAlias = dict[str, np.ndarray]
Act: TypeAlias = Callable[[Observation, dict[str, Any]], int]
"""A policy: (observation, info) -> action."""


def collect(
    environment: str,
    task: str,
    folder: Path,
    *,
    policy: Literal["random", "oracle"] = "random",
    episodes: int = 100,
    options: Mapping[str, Any] | None = None,
    split: Literal["train", "evaluation"] = "train",
    seed: int = 0,
) -> minari.MinariDataset:
    """Plays episodes with the seeds seed, seed + 1, ... and writes each below `folder` when it ends.

    options: values for the environment's Defaults; None = all defaults. Frames are stored without loss. Each
    episode's metadata has `context`, `success`, `return` and `seed`. Ctrl-C keeps what is whole.
    Raises UserError where the folder exists already, or where a name or an option is wrong.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; collect writes a new data set, so name another folder")
    env, act = _player(environment, task, policy, options or {}, split, seed)
    try:
        description = f"{environment}/{task}, {split} episodes from seed {seed}, played by {policy}"
        storage = _new_storage(folder, env, description, dict(options or {}))
        for index in track(range(episodes), f"{policy} plays {environment}/{task}"):
            buffer, metadata = play(env, act, seed + index)
            storage.update_episodes([buffer])
            storage.update_episode_metadata([metadata], [index])
    finally:
        env.close()
    return minari.MinariDataset(storage)


def play(env: gym.Env[Any, Any], act: Act, seed: int) -> tuple[EpisodeBuffer, dict[str, Any]]:
    """One whole episode: N + 1 observations, N actions and rewards; and its context, success and return."""
    observation, info = env.reset(seed=seed)
    context, observations = info["context"], [observation]
    actions: list[np.int64] = []
    rewards: list[float] = []
    terminations: list[bool] = []
    truncations: list[bool] = []
    while not actions or not (terminations[-1] or truncations[-1]):
        actions.append(np.int64(act(observation, info)))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
    buffer = EpisodeBuffer(
        seed=seed,
        observations={key: [row[key] for row in observations] for key in observation},
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
    )
    stored = {f"context/{slot}": text for slot, text in context.items()}
    return buffer, {**stored, "success": bool(info["success"]), "return": sum(rewards)}


def _player(
    environment: str, task: str, policy: str, options: Mapping[str, Any], split: str, seed: int
) -> tuple[gym.Env[Any, Any], Act]:
    """The environment, and the policy as a function of what it returns."""
    module = registry.load("environments", environment)
    if task not in module.TASKS:
        raise UnknownName(f"tasks of {environment}", task, module.TASKS)
    try:
        defaults = module.Defaults(**options)
    except ValidationError as error:
        raise UserError(
            explain(error, f"options of {environment!r}", module.Defaults)
        ) from error
    env = module.make(task, defaults, split=split, labels=policy == "oracle")
    if policy == "random":
        env.action_space.seed(seed)
        return env, lambda observation, info: env.action_space.sample()
    if policy == "oracle":
        decide = module.oracle(task)
        return env, lambda observation, info: decide(env)
    raise UnknownName("policies", policy, ["random", "oracle"])


def _new_storage(
    folder: Path, env: gym.Env[Any, Any], description: str, options: dict[str, Any]
) -> MinariStorage:
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", env.observation_space, env.action_space, jpeg_encoding=False)
    about = {"description": description, "environment_options": options}
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__, **about})
    return storage

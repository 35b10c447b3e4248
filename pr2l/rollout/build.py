"""From a config to the live parts of a run: environments, encoder, model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, Literal

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pr2l.core import prompt, registry
from pr2l.core.config import RunConfig
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.rollout.episodes import SeededEpisodes, interleaved_seed, make_episodes, training_seed
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.rollout.workers import Workers

Split = Literal["train", "evaluation"]


def environments(config: RunConfig, split: Split, *, labels: bool = False, count: int | None = None) -> VecEnv:
    """The config's simulators, in this process or in `config.workers` others, showing frames; the caller closes them.

    labels: put the ground truth into their infos; count: how many, None = num_envs.

    In training, environment i plays its own endless row of episodes; in evaluation the rows interleave, so that
    environment i's n-th episode is number i + n * count of a list that is the same for every run.
    """
    options = config.options("environment")
    count = count or config.num_envs

    def recipe(row: int) -> Callable[[], SeededEpisodes]:
        train = split == "train"
        seed_of = partial(training_seed, config.seed, row) if train else partial(interleaved_seed, row, count)
        where = config.environment, config.task
        return partial(make_episodes, *where, options, split, labels, seed_of, config.isolated, config.timeouts)

    recipes = [recipe(row) for row in range(count)]
    return Workers(recipes, config.workers, config.step_groups) if config.workers else _in_this_process(recipes)


def _in_this_process(recipes: list[Callable[[], SeededEpisodes]]) -> DummyVecEnv:
    made: list[SeededEpisodes] = []
    try:
        for recipe in recipes:
            made.append(recipe())
        return DummyVecEnv([lambda env=env: env for env in made])  # type: ignore[misc]  # env is bound as default
    except BaseException:
        for env in made:
            env.close()
        raise


def encoder(config: RunConfig) -> Encoder:
    """The config's encoder, with a memory if it is costly.

    Loads the VLM if the encoder has one, and makes an environment to ask for its space.
    """
    module = registry.load("environments", config.environment)
    with closing(module.make(config.task, config.options("environment"))) as env:
        height, width, _ = env.observation_space["frame"].shape
    source = EncoderSource(
        vlm=config.vlm,
        vlm_options=config.options("vlm"),
        prompt=prompt.load(config.prompt_name) if config.prompt_name else None,
        contexts=prompt.task_contexts(module.TASKS[config.task]),
        frame_shape=(height, width, 3),
        kinds=module.kinds(config.task),
    )
    made: Encoder = registry.load("encoders", config.encoder).create(source, config.options("encoder"))
    wanted = config.cache_frames and made.costly and not made.needs_labels  # a row's labels are not what it goes by
    return CachedEncoder(made, config.cache_frames) if wanted else made


def model(config: RunConfig, venv: VecEmbed) -> Any:
    """A fresh model of the config's algorithm and network; seeds torch's, NumPy's and Python's generators."""
    algorithm = registry.load("algorithms", config.algorithm)
    network = registry.load("networks", config.network).Network
    defaults = config.options("algorithm")
    return algorithm.create(venv, network, config.options("network"), defaults, seed=config.seed)

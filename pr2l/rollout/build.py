"""From a config to the live parts of a run: environments, encoder, learner."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any, Literal, NamedTuple

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import prompt, registry
from pr2l.core.config import RunConfig
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.environments.isolation.isolated import Timeouts
from pr2l.policies.base import Learner
from pr2l.rollout.contract import check_spaces
from pr2l.rollout.episodes import interleaved_seed, make_episodes, training_seed
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.vec_embed import observation_space
from pr2l.rollout.workers import Workers

Split = Literal["train", "evaluation"]


def environments(config: RunConfig, split: Split, *, labels: bool = False, count: int | None = None) -> VecEnv:
    """Make the environments of a config; the caller closes them.

    In training, environment i plays its own endless list of episodes. In evaluation the environments take turns: the
    n-th episode of environment i is number i + n * count of a list that is the same for every run.

    Args:
        config: The run. With `config.workers` the environments run in so many processes, else in this one.
        split: Whose episodes.
        labels: Whether infos hold the simulator's ground truth.
        count: How many environments; None = `config.num_envs`.

    Returns:
        A VecEnv with observations Dict(frame uint8 [N, H, W, 3], proprio float32 [N, P] if there is any).
    """
    count = count or config.num_envs
    make = partial(
        make_episodes,
        config.environment,
        config.task,
        config.options("environment"),
        split,
        labels,
        isolated=config.isolated,
        timeouts=config.timeouts,
        slots=prompt.load(config.prompt_name).slots if config.prompt_name else (),
        on_bad_value=config.on_bad_value,
    )
    if split == "train":
        factories = [partial(make, partial(training_seed, config.seed, row)) for row in range(count)]
    else:
        factories = [partial(make, partial(interleaved_seed, row, count)) for row in range(count)]
    timeouts = Timeouts(**config.timeouts)
    if config.workers:
        return Workers(factories, config.workers, config.step_groups, timeouts)
    return InProcessVecEnv(factories, timeouts)


def encoder(config: RunConfig, frame_shape: tuple[int, int, int] | None = None) -> Encoder:
    """Make the config's encoder, with a cache if it is costly; loads the VLM if it has one.

    Args:
        config: Its encoder, VLM, prompt and their options are used.
        frame_shape: Height and width of the frames, and 3. None = as the environment says, which is made for it.
    """
    module = registry.load("environments", config.environment)
    if frame_shape is None:
        with closing(module.make(config.task, config.options("environment"))) as env:
            check_spaces(env, f"{config.environment}/{config.task}")
            height, width, _ = env.observation_space["frame"].shape
        frame_shape = (height, width, 3)
    source = EncoderSource(
        vlm=config.vlm,
        vlm_options=config.options("vlm"),
        prompt=prompt.load(config.prompt_name) if config.prompt_name else None,
        contexts=prompt.task_contexts(module.TASKS[config.task]),
        frame_shape=frame_shape,
        kinds=module.kinds(config.task),
    )
    made: Encoder = registry.load("encoders", config.encoder).create(source, config.options("encoder"))
    wanted = config.cache_frames and made.costly and not made.needs_labels  # a row's labels are not what it goes by
    return CachedEncoder(made, config.cache_frames) if wanted else made


class Spaces(NamedTuple):
    """Of one environment, which shows frames."""

    observation_space: spaces.Dict
    action_space: spaces.Space[Any]


def frame_spaces(config: RunConfig) -> Spaces:
    """The spaces of the config's environments, whose simulators are not started for it."""
    module = registry.load("environments", config.environment)
    with closing(module.make(config.task, config.options("environment"))) as env:
        return Spaces(env.observation_space, env.action_space)


def spaces_of(frames: VecEnv) -> Spaces:
    """The spaces of environments that are there."""
    assert isinstance(frames.observation_space, spaces.Dict)
    return Spaces(frames.observation_space, frames.action_space)


def learner(config: RunConfig, encoder: Encoder, frames: Spaces) -> Learner:
    """Create a fresh learner of the config's algorithm and network; seeds torch, NumPy and Python.

    Args:
        config: Its algorithm, network and their options, number of environments and seed are used.
        encoder: Of the tokens that the learner will see.
        frames: The spaces of the environments.
    """
    algorithm = registry.load("algorithms", config.algorithm)
    made: Learner = algorithm.create(
        observation_space(frames.observation_space, encoder),
        frames.action_space,
        config.num_envs,
        registry.load("networks", config.network).Network,
        config.options("network"),
        config.options("algorithm"),
        seed=config.seed,
    )
    return made

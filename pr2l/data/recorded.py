"""What the algorithm of a config learns from, where that is recorded episodes: their spaces, and batches of them.

No simulator is started for it: the spaces are those of the data set, and the tokens are read from its store.
"""

from __future__ import annotations

from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.data.embed import embed_with
from pr2l.data.recording import Recording
from pr2l.data.sources import Episodes, TrajectorySource, TransitionSource
from pr2l.encoders.base import Encoder
from pr2l.policies.base import LearnsFrom
from pr2l.rollout.build import Spaces, frame_spaces

GAMMA = 0.99  # discount of an algorithm without an option `gamma`


def learns_from(config: RunConfig) -> LearnsFrom:
    """What the config's algorithm declares as `Learner.learns_from`."""
    declared: LearnsFrom = registry.load("algorithms", config.algorithm).Learner.learns_from
    return declared


def learns_from_data(config: RunConfig) -> bool:
    """Whether the config's algorithm learns from recorded episodes.

    Raises:
        UserError: If the config names no data set for such an algorithm, or one for another.
    """
    from_data = learns_from(config) != "rollouts"
    if from_data and config.data is None:
        raise UserError(
            f"{config.algorithm} learns from recorded episodes, but the config names none: record some with "
            "`pr2l collect`, and add data=FOLDER"
        )
    if config.data is not None and not from_data:
        raise UserError(f"{config.algorithm} plays its own episodes and does not use data={config.data}: set data=null")
    return from_data


def recording(config: RunConfig) -> Recording:
    """Open the config's data set.

    Raises:
        UserError: If it is of another environment or task, or its spaces differ from those of the environment. The
            spaces are not compared where the environment cannot be made, since its simulator is not installed.
    """
    assert config.data is not None
    data = Recording(config.data)
    recorded, configured = (data.environment, data.task), (config.environment, config.task)
    if data.environment is not None and recorded != configured:
        raise UserError(
            f"the data set {config.data} was recorded in {data.environment}/{data.task}, but the config is for "
            f"{config.environment}/{config.task}; use a config of the recorded task, or collect another data set"
        )
    try:
        environment = frame_spaces(config)
    except (ImportError, ValueError):
        return data
    for name in ("observation_space", "action_space"):
        in_data, in_environment = getattr(data, name), getattr(environment, name)
        if in_data != in_environment:
            raise UserError(
                f"the {name} of the data set {config.data} is {in_data}, but that of the config's environment is "
                f"{in_environment}; use the environment_options that it was collected with, or collect another"
            )
    return data


def recorded_spaces(data: Recording) -> Spaces:
    """The spaces of the environment in which the data set was recorded."""
    return Spaces(data.observation_space, data.action_space)


def batch_source(config: RunConfig, encoder: Encoder, data: Recording) -> TransitionSource | TrajectorySource:
    """The batches that the config's algorithm learns from; frames that are not embedded yet are embedded first.

    Returns, discounts and n-step rewards follow from the algorithm's options `gamma` (0.99 if it has none) and
    `n_step` (1 if it has none). An encoder with something to fit is fitted on the data set.

    Raises:
        UserError: If the data set does not fit the config, or the algorithm learns from preferences, which recorded
            episodes do not have.
    """
    kind, options = learns_from(config), config.options("algorithm")
    if kind not in ("transitions", "trajectories"):
        raise UserError(f"{config.algorithm} learns from {kind}, but {config.data} has transitions and trajectories")
    episodes = Episodes(data, embed_with(encoder, data, config), getattr(options, "gamma", GAMMA))
    if kind == "transitions":
        return TransitionSource(episodes, config.seed, getattr(options, "n_step", 1))
    return TrajectorySource(episodes, config.seed)

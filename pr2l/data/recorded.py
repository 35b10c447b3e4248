"""Data sets and batches for the algorithms that learn from recorded episodes.

These algorithms need no simulator: the spaces come from the data set, and the tokens from its store.
"""

from __future__ import annotations

from pr2l.core import registry
from pr2l.core.config import RunConfig, parse_options
from pr2l.core.errors import UserError
from pr2l.data.action_features import action_features
from pr2l.data.embed import embed_with
from pr2l.data.recording import Recording
from pr2l.data.sources import Episodes, TrajectorySource, TransitionSource
from pr2l.data.text_episodes import TextEpisodes
from pr2l.encoders.base import Encoder
from pr2l.policies.base import LearnsFrom
from pr2l.rollout.build import Spaces, frame_spaces, text_codec

GAMMA = 0.99  # discount of an algorithm without an option `gamma`


def learns_from(config: RunConfig) -> LearnsFrom:
    """Return the `Learner.learns_from` of the config's algorithm, such as "rollouts" or "transitions".

    Args:
        config: The algorithm is used; its module is imported.
    """
    declared: LearnsFrom = registry.load("algorithms", config.algorithm).Learner.learns_from
    return declared


def learns_from_data(config: RunConfig) -> bool:
    """Return whether the config's algorithm learns from recorded episodes only.

    Args:
        config: The algorithm and `data` are used.

    Raises:
        UserError: If such an algorithm has no `data` in the config or has an evaluator, or another algorithm that does
            not take data has `data`.
    """
    from_data = learns_from(config) != "rollouts"
    if from_data and config.data is None:
        raise UserError(
            f"{config.algorithm} learns from recorded episodes, but the config has no `data`; record a data set with "
            "`pr2l collect`, and add data=FOLDER"
        )
    if config.data is not None and not from_data and not takes_data(config):
        raise UserError(
            f"{config.algorithm} learns from its own rollouts and does not use data={config.data}; set data=null"
        )
    if from_data and config.evaluator is not None:
        raise UserError(
            f"{config.algorithm} learns from recorded episodes, and evaluator={config.evaluator} judges rollouts only; "
            f"label the data set with `pr2l evaluator label {config.data} {config.evaluator}`, and set evaluator=null"
        )
    return from_data


def takes_data(config: RunConfig) -> bool:
    """Return whether the config's algorithm learns from rollouts and, if there are any, from recorded episodes too.

    Args:
        config: The algorithm is used; its module is imported.
    """
    return bool(getattr(registry.load("algorithms", config.algorithm).Learner, "takes_data", False))


def recording(config: RunConfig) -> Recording:
    """Open the config's data set.

    Args:
        config: `data`, which must be set, and the environment, the task and the environment's options are used.

    Raises:
        UserError: If the data set was recorded in another environment or task, or its spaces differ from the
            environment's.
    """
    assert config.data is not None
    data = Recording(config.data)
    recorded, configured = (data.environment, data.task), (config.environment, config.task)
    if data.environment is not None and recorded != configured:
        raise UserError(
            f"the data set {config.data} was recorded in {data.environment}/{data.task}, but the config is for "
            f"{config.environment}/{config.task}; use a config of the recorded task, or another data set"
        )
    if not _has_options_of(config, data):
        _check_spaces(config, data)
    return data


def _has_options_of(config: RunConfig, data: Recording) -> bool:
    """Return whether the data set was recorded with the config's environment options, so that its spaces are equal."""
    if data.environment is None or data.environment_options is None:
        return False
    options = config.options("environment")
    try:
        return parse_options(type(options), data.environment_options, "", warn=False) == options
    except UserError:  # options of another version
        return False


def _check_spaces(config: RunConfig, data: Recording) -> None:
    """Raise UserError if the spaces of a data set differ from the environment's.

    The spaces are not compared if the environment cannot be made, for example because its simulator is not installed.
    """
    try:
        # Only the environment knows its spaces with other options, and without this comparison a difference would be
        # found in the evaluation, after the training.
        environment = frame_spaces(config)
    except (ImportError, ValueError):
        return
    for name in ("observation_space", "action_space"):
        in_data, in_environment = getattr(data, name), getattr(environment, name)
        if in_data != in_environment:
            raise UserError(
                f"the {name} of the data set {config.data} is {in_data}, but that of the config's environment is "
                f"{in_environment}; use the environment_options of the data set, or another data set"
            )


def recorded_spaces(data: Recording) -> Spaces:
    """Return the observation and action space of a data set.

    Args:
        data: The data set, whose observations have the key `frame`.
    """
    return Spaces(data.observation_space, data.action_space)


def batch_source(config: RunConfig, encoder: Encoder, data: Recording) -> TransitionSource | TrajectorySource:
    """Return a source of batches for the config's algorithm; frames without embeddings are embedded first.

    The algorithm's options `gamma` (default 0.99) and `n_step` (default 1) determine returns, discounts and n-step
    rewards. With features of actions (`action_features`), they are computed next.

    Args:
        config: The config of the run.
        encoder: The encoder of `config`. It is fitted on the data set if it has a positive `fit_frames`.
        data: The data set.

    Raises:
        UserError: If the data set does not fit the config, or the algorithm learns from other data, such as
            preferences.
    """
    kind = "trajectories" if takes_data(config) else learns_from(config)
    options = config.options("algorithm")
    if kind not in ("transitions", "trajectories"):
        raise UserError(
            f"{config.algorithm} learns from {kind}, but {config.data} has only transitions and trajectories"
        )
    contents = data, embed_with(encoder, data, config, wait=True), getattr(options, "gamma", GAMMA)
    features, codec = action_features(encoder, data, config, wait=True), text_codec(config, encoder)
    episodes = Episodes(*contents, features) if codec is None else TextEpisodes(*contents, codec, features)
    if kind == "transitions":
        return TransitionSource(episodes, config.seed, getattr(options, "n_step", 1))
    return TrajectorySource(episodes, config.seed)

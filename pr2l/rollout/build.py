"""Construction of the parts of a run from its config: environments, encoder and learner."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import prompt, registry
from pr2l.core.answer_cache import CACHE, AnswerCache
from pr2l.core.config import TEXT_POLICY, RunConfig
from pr2l.core.errors import OURS, UserError, code_of
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.action_states import action_states
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.environments.isolation.isolated import Timeouts
from pr2l.policies.base import Learner
from pr2l.policies.common.policy import Policy
from pr2l.rollout.contract import check_spaces
from pr2l.rollout.episodes import interleaved_seed, make_episodes, training_seed
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.vec_embed import VecEmbed, observation_space
from pr2l.rollout.vec_judged import SuccessEvaluator, VecJudged
from pr2l.rollout.vec_text import TextCodec, VecText
from pr2l.rollout.workers import Workers

Split = Literal["train", "evaluation"]


def environments(config: RunConfig, split: Split, *, labels: bool = False, count: int | None = None) -> VecEnv:
    """Make the environments of a config.

    In training, environment i plays its own endless list of episodes. In evaluation the environments take turns: the
    n-th episode of environment i is number i + n * count of a list that is the same for every run. The caller closes
    the environments.

    Args:
        config: The config of the run. `config.workers` is the number of worker processes; 0 = run in this process.
        split: The split whose episodes are played.
        labels: Whether infos contain the simulator's ground truth.
        count: The number of environments; None = `config.num_envs`.

    Returns:
        A VecEnv with observations Dict(frame uint8 [N, H, W, 3], proprio float32 [N, P] if there is any).
    """
    count = count or config.num_envs
    judged = split == "train" and config.evaluator is not None
    slots = {*prompt.load(config.prompt_name).slots} if config.prompt_name else set()
    make = partial(
        make_episodes,
        config.environment,
        config.task,
        config.options("environment"),
        split,
        labels,
        isolated=config.isolated,
        timeouts=config.timeouts,
        slots=slots | prompt.slots(config.instruction, "instruction") if judged else slots,
        on_bad_value=config.on_bad_value,
        record=judged,
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
    """Make the encoder of a config, with a cache if encoding is costly.

    This loads the VLM if the encoder uses one.

    Args:
        config: The config of the run; the encoder, the VLM, the prompt and their options are used.
        frame_shape: The shape of a frame, (H, W, 3). None = read it from the environment, which is made and closed.
    """
    module = registry.load("environments", config.environment)
    source = EncoderSource(
        vlm=config.vlm,
        vlm_options=config.options("vlm"),
        prompt=prompt.load(config.prompt_name) if config.prompt_name else None,
        contexts=prompt.task_contexts(module.TASKS[config.task]),
        frame_shape=frame_shape or frame_spaces(config).frame_shape,
        kinds=module.kinds(config.task),
    )
    encoder_module = registry.load("encoders", config.encoder)
    with code_of(registry.owner("encoders", config.encoder)):
        base_encoder: Encoder = encoder_module.create(source, config.options("encoder"))
    # The key of the cache has no labels.
    cached = config.cache_frames and base_encoder.costly and not base_encoder.needs_labels
    return CachedEncoder(base_encoder, config.cache_frames) if cached else base_encoder


class Spaces(NamedTuple):
    """The spaces of one environment, whose observations contain frames."""

    observation_space: spaces.Dict
    action_space: spaces.Space[Any]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """The shape of a frame, (H, W, 3)."""
        height, width, channels = self.observation_space["frame"].shape or (0, 0, 0)
        return height, width, channels


def frame_spaces(config: RunConfig) -> Spaces:
    """Return the spaces of the config's environments; this makes an environment and closes it, without a reset.

    Args:
        config: The environment, the task and the environment's options are used.

    Raises:
        ContractError: If the spaces violate the contract.
    """
    module = registry.load("environments", config.environment)
    with code_of(registry.owner("environments", config.environment)):
        env = module.make(config.task, config.options("environment"))
    with closing(env):
        check_spaces(env, f"{config.environment}/{config.task}")
        return Spaces(env.observation_space, env.action_space)


def spaces_of(frames: VecEnv) -> Spaces:
    """Return the spaces of existing environments.

    Args:
        frames: Environments whose observations have the key `frame`.
    """
    assert isinstance(frames.observation_space, spaces.Dict)
    return Spaces(frames.observation_space, frames.action_space)


def text_codec(config: RunConfig, encoder: Encoder) -> TextCodec | None:
    """Return the conversion of texts for a policy that writes its actions; None if heads choose the actions.

    Args:
        config: The config of the run; `text_policy` is used.
        encoder: The encoder of the run.

    Raises:
        UserError: If the encoder does not suit.
    """
    options = config.text_options()
    return None if options is None else import_module(TEXT_POLICY).codec(encoder, options)


def embedded(config: RunConfig, frames: VecEnv, encoder: Encoder) -> VecEmbed:
    """Wrap environments for a learner of the config; if it has an evaluator, its verdicts replace the rewards.

    The last frames of terminated episodes are not encoded if the learner declares that it does not read them.

    Args:
        config: The config of the run; the algorithm, `text_policy` and the evaluator are used.
        frames: Environments of the config, of the split "train".
        encoder: The encoder of their frames.
    """
    learner_class = registry.load("algorithms", config.algorithm).Learner
    if config.evaluator is not None:
        frames = VecJudged(frames, evaluator(config), config.instruction)
    return encoded(config, frames, encoder, embed_terminated=getattr(learner_class, "reads_terminated", True))


def encoded(config: RunConfig, frames: VecEnv, encoder: Encoder, *, embed_terminated: bool = False) -> VecEmbed:
    """Wrap environments for a learner of the config that acts and does not learn; the rewards stay.

    Args:
        config: The config of the run; `text_policy` is used.
        frames: Environments of the config.
        encoder: The encoder of their frames.
        embed_terminated: Whether to encode the last frames of terminated episodes.
    """
    if (codec := text_codec(config, encoder)) is not None:
        return VecText(frames, encoder, codec, embed_terminated=embed_terminated)
    return VecEmbed(frames, encoder, embed_terminated=embed_terminated)


def learner_space(config: RunConfig, frames: spaces.Dict, encoder: Encoder) -> spaces.Dict:
    """Return the space of the learner's observations and, if it uses them, of features of actions.

    Args:
        config: The config of the run; `text_policy` and the algorithm's options are used.
        frames: The space of one environment's observations, before encoding.
        encoder: The encoder of the run.

    Raises:
        UserError: The algorithm uses features of actions, and the encoder has no VLM.
    """
    tokens, options = observation_space(frames, encoder), config.options("algorithm")
    codec, states = text_codec(config, encoder), action_states(encoder, options)
    if codec is not None:
        tokens = codec.observation_space(tokens, frames)
    if states is None:
        return tokens
    features = spaces.Box(-np.inf, np.inf, (options.n, states.width), np.float16)
    return spaces.Dict({**tokens.spaces, "action_features": features})


def evaluator(config: RunConfig) -> SuccessEvaluator:
    """Create the evaluator of a config, which must have one; it reads and adds to the answers of `pr2l evaluator`.

    Args:
        config: The evaluator, its options, the instruction and the task are used.

    Raises:
        UserError: The instruction has a slot that the contexts of the task do not fill.
    """
    _check_instruction(config)
    module = registry.load("evaluators", config.evaluator or "")
    with code_of(registry.owner("evaluators", config.evaluator or "")):
        judge: SuccessEvaluator = module.create(config.options("evaluator"), AnswerCache(CACHE))
    return judge


def _check_instruction(config: RunConfig) -> None:
    """Check the slots of the instruction; those of tasks with free texts are checked at each reset."""
    contexts = prompt.task_contexts(registry.load("environments", config.environment).TASKS[config.task])
    slots = prompt.slots(config.instruction, "instruction")
    if contexts and (missing := sorted(slots - contexts[0].keys())):
        names = ", ".join(f"{{{slot}}}" for slot in contexts[0])
        raise UserError(
            f"instruction={config.instruction!r} has the slot {{{missing[0]}}}, but the contexts of "
            f"{config.environment}/{config.task} have {names}; write the task in words with these slots, e.g. "
            f"instruction='find the {names}'"
        )


def learner(config: RunConfig, encoder: Encoder, frames: Spaces) -> Learner:
    """Create an untrained learner with the config's algorithm and network.

    This seeds torch, NumPy and Python's random module.

    Args:
        config: The config of the run; algorithm, network, their options, number of environments and seed are used.
        encoder: The encoder that makes the learner's tokens.
        frames: The spaces of the environments, before encoding.
    """
    algorithm = registry.load("algorithms", config.algorithm)
    network = registry.load("networks", config.network).Network
    policy = {} if config.text_policy is None else {"policy": text_policy(config, encoder, frames.action_space)}
    owners = {registry.owner("algorithms", config.algorithm), registry.owner("networks", config.network)} - {OURS}
    with code_of(" or ".join(sorted(owners)) or OURS):
        fresh_learner: Learner = algorithm.create(
            learner_space(config, frames.observation_space, encoder),
            frames.action_space,
            config.num_envs,
            network,
            config.options("network"),
            config.options("algorithm"),
            seed=config.seed,
            **policy,
        )
    return fresh_learner


def text_policy(config: RunConfig, encoder: Encoder, action_space: spaces.Space[Any]) -> Policy:
    """Create the policy that writes actions, of a config with `text_policy`.

    Args:
        config: The config of the run.
        encoder: The encoder of the run, whose VLM the policy adapts in a copy.
        action_space: The action space of the environment.

    Raises:
        UserError: If the environment takes no texts, the algorithm cannot train such a policy, or the encoder does not
            suit.
    """
    if not isinstance(action_space, spaces.Text):
        raise UserError(
            f"text_policy writes actions as texts, but the actions of {config.environment} are {action_space}; add "
            "environment_options.actions=text, or set text_policy=null"
        )
    if not getattr(registry.load("algorithms", config.algorithm).Learner, "takes_policy", False):
        raise UserError(
            f"{config.algorithm} cannot train a policy that writes its actions; use algorithm=filtered_bc, "
            "digirl, digirl_online or digiq, or set text_policy=null"
        )
    policy: Policy = import_module(TEXT_POLICY).create(encoder, config.text_options(), config.seed)
    return policy

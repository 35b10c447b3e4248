"""Wrapper that encodes the frames of vectorized environments, so that the VLM is a part of the environment.

In a policy's features extractor the VLM would run again for every minibatch of every epoch. Here it runs once per
vector step, on one batch:

    rows 0 .. N-1   the current frames of the N environments, under their current contexts
    rows N ..       the last frames of the episodes that just ended, under the contexts of those episodes; if nobody
                    reads their tokens, not those of terminated episodes

`Workers.step_groups` steps environments in worker processes in groups, and each group is one batch: the VLM encodes it
while the next group is simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, compress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from pr2l.core.errors import UserError, code_of, owner_of_object
from pr2l.core.frame_history import FrameHistory
from pr2l.core.types import Frames, Tokens
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import uncached
from pr2l.rollout.contract import BadValueError, ContractCheck, ContractError, check_spaces, describe
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.external import Arranged, Arrangement, Context, ContextOf
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.worker_process import is_wrapped

HALF_MAX = float(np.finfo(np.float16).max)


def embed_env(
    env: gym.Env[Any, Any] | VecEnv,
    encoder: Encoder,
    *,
    frame: str | Sequence[str] | None = None,
    proprio: str | None = None,
    context: Context | ContextOf | None = None,
) -> VecEmbed:
    """Wrap a Gymnasium environment or a VecEnv so that its observations are tokens.

    Args:
        env: The environment. Its observation is an image, uint8 [H, W, 3], or a Dict with an image.
        encoder: The encoder of the image, such as a prompted VLM.
        frame: The key of the image in a Dict; several keys = the frame has these cameras' images side by side, for a
            prompt with `cameras`; None = "frame", or else the only image.
        proprio: The key of a vector that policies get beside the tokens; None = "proprio" if there is one.
        context: The texts for the prompt's slots: a dict that holds for every episode, or a function that returns it
            from the environment's own observation and info; None = `info["context"]` if there is one, else an empty
            context.

    Returns:
        A VecEnv for any algorithm of Stable-Baselines3 with a policy for Dict observations.

    Raises:
        ContractError: If the image is not uint8 [H, W, 3]; the message says how to convert it.
        UserError: If the observations lack one of the keys.
    """
    if isinstance(env, VecEnv):
        return VecEmbed(VecArranged(env, Arrangement(env.observation_space, frame, proprio, context)), encoder)
    arranged = Arranged(env, frame, proprio, context)
    checked: Any = ContractCheck(arranged, labels=encoder.needs_labels, success=False)
    monitored = checked if is_wrapped(env, Monitor) or is_wrapped(env, SeededEpisodes) else Monitor(checked)
    return VecEmbed(DummyVecEnv([lambda: monitored]), encoder)


class VecArranged(VecEnvWrapper):
    """Wrapper that converts observations and infos of a VecEnv to those of the environment contract.

    Args:
        venv: Any VecEnv.
        arrangement: The mapping from its observations and infos to those of the contract.

    Raises:
        ContractError: If the spaces violate the contract; or, from `reset` and `step`, if a reward or a number of an
            observation is NaN or infinite.
    """

    def __init__(self, venv: VecEnv, arrangement: Arrangement) -> None:
        self._arrangement = arrangement
        self._histories = [FrameHistory(1) for _ in range(venv.num_envs)]
        super().__init__(venv, observation_space=arrangement.observation_space())
        check_spaces(self, type(venv.unwrapped).__name__)

    def keep_frames(self, count: int) -> None:
        """Add `info["frame_history"]` to each info, as `ContractCheck.keep_frames` does.

        Args:
            count: Number of frames, from the next reset on; 1 = add no history.
        """
        self._histories = [FrameHistory(count) for _ in range(self.num_envs)]

    def reset(self) -> VecEnvObs:
        observations: Any = self.venv.reset()
        infos = reset_infos(self.venv)
        self.reset_infos = [self._first_info(row, _row(observations, row), info) for row, info in enumerate(infos)]
        return self._check_finite(self._arrangement.observation(observations, (self.num_envs,)))

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        arranged: list[dict[str, Any]] = []
        for row, (done, info) in enumerate(zip(dones, infos, strict=True)):
            observation: Any = _row(observations, row)
            if not done:
                arranged.append(self._info(row, observation, info))
                continue
            end = info["terminal_observation"]
            last = self._check_finite(self._arrangement.observation(end))
            arranged.append(self._info(row, end, {**info, "terminal_observation": last}))
            self.reset_infos[row] = self._first_info(row, observation, reset_infos(self.venv)[row])
        self._check_finite({"reward": np.asarray(rewards)})
        observation = self._check_finite(self._arrangement.observation(observations, (self.num_envs,)))
        return observation, rewards, dones, arranged

    def _check_finite(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays whose numbers are all finite; raise BadValueError otherwise."""
        for key, value in values.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                name = type(self.venv.unwrapped).__name__
                raise BadValueError(f"{name}: {key} is {describe(value)}; it must be finite in every environment")
        return values

    def _first_info(self, row: int, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        """Return the info of the first observation of an episode."""
        self._histories[row].clear()
        return self._info(row, observation, info)

    def _info(self, row: int, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        arranged = self._arrangement.info(observation, info)
        if self._histories[row].count > 1:
            frame = self._arrangement.observation(observation)["frame"]
            arranged["frame_history"] = self._histories[row].add(frame)
        return arranged


class VecEmbed(VecEnvWrapper):
    """Wrapper that replaces frames by the tokens of an encoder.

    Observations are Dict(tokens float16 [N, T, D], mask uint8 [N, T] (1 = real, 0 = padding), and proprio float32
    [N, P] if the environments have one). When an episode ends, its info has the last frame as "terminal_frame", and
    "terminal_observation" has tokens too. Without `embed_terminated`, the info of an episode that was not truncated has
    no "terminal_observation": on-policy algorithms read it only to bootstrap from the value of a truncated episode.

    Args:
        venv: Environments with observations Dict(frame uint8 [H, W, 3], proprio). Every info, also that of a reset, has
            "context", and "labels" if the encoder needs them.
        encoder: The encoder of the frames.
        embed_terminated: Whether to encode the last frames of terminated episodes too, which off-policy algorithms
            store.

    Attributes:
        frames: The frames of the last step, uint8 [N, H, W, 3].
        contexts: The contexts of these frames.
        answers: The texts that the VLM generated for these frames; empty if it generates none.
        clipped: The number of entries of tokens that were clipped to the range of float16; a caller may set it to 0.
    """

    def __init__(self, venv: VecEnv, encoder: Encoder, *, embed_terminated: bool = True) -> None:
        self.encoder, self.embed_terminated = encoder, embed_terminated
        self.frames: np.ndarray = np.empty(0)
        self.contexts: list[dict[str, str]] = []
        self.answers: list[str] = []
        self.clipped = 0
        super().__init__(venv, observation_space=observation_space(venv.observation_space, encoder))
        keep_frames(venv, encoder.frame_history)

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        return self._embed(observations, reset_infos(self.venv), self.num_envs)

    def environment_actions(self, actions: Any) -> Any:
        """Return the actions that the environments get for those of the policy.

        Args:
            actions: N actions of the policy.
        """
        return actions

    def step_wait(self) -> VecEnvStepReturn:
        steps, embedded = [], []
        for rows, step in step_groups(self.venv):
            steps.append(self._embed_step(rows, *step))
            embedded.append((self.frames, self.contexts, self.answers))
        self.frames, self.contexts, self.answers = (_concatenate(parts) for parts in zip(*embedded, strict=True))
        observation, rewards, dones, infos = (_concatenate(parts) for parts in zip(*steps, strict=True))
        return observation, rewards, dones, infos

    @property
    def running(self) -> frozenset[int]:
        """Numbers of the environments whose steps were sent and not received."""
        running: frozenset[int] = self._in_process().running
        return running

    def send(self, rows: Sequence[int], actions: Sequence[Any] | np.ndarray) -> None:
        """Start steps of some environments, see `InProcessVecEnv.send`.

        Args:
            rows: Numbers of environments that are not running.
            actions: Their actions.

        Raises:
            UserError: If the environments can only be stepped together.
        """
        self._in_process().send(rows, actions)

    def receive(self, most: int | None = None) -> tuple[list[int], VecEnvStepReturn]:
        """Wait for the steps of some environments, see `InProcessVecEnv.receive`, and encode their frames.

        `frames`, `contexts` and `answers` are then those of the returned rows.

        Args:
            most: Maximum number of steps to return, at least 1; None = all environments.
        """
        rows, step = self._in_process().receive(most)
        return rows, self._embed_step(rows, *step)

    def _in_process(self) -> Any:
        """Return the environments, which have `running`, `send` and `receive`."""
        # `receive` of the type: a wrapper without it forwards the attribute, and would not see these steps.
        if isinstance(self.venv.unwrapped, InProcessVecEnv) and hasattr(type(self.venv), "receive"):
            return self.venv
        raise UserError(
            f"{type(self.venv.unwrapped).__name__} steps all environments together, which"
            " algorithm_options.asynchronous=true does not allow; use workers=0, and isolated=true for simulators in"
            " processes of their own"
        )

    def _embed_step(
        self, rows: Sequence[int], observations: Any, rewards: Any, dones: Any, infos: Any
    ) -> VecEnvStepReturn:
        """Return the step of some rows, with tokens instead of frames."""
        # After the automatic reset the observation is the new episode's, but the info is still the old one's.
        all_resets = reset_infos(self.venv)
        resets = [all_resets[row] for row in rows]
        current = [reset if done else info for reset, done, info in zip(resets, dones, infos, strict=True)]
        ended = [infos[row] for row in np.flatnonzero(dones)]
        last = [info.pop("terminal_observation") for info in ended]
        for info, end in zip(ended, last, strict=True):
            info["terminal_frame"] = end["frame"]
        read = [self.embed_terminated or info.get("TimeLimit.truncated", False) for info in ended]
        ended, last = [*compress(ended, read)], [*compress(last, read)]
        batch = {key: np.concatenate([observations[key], *(end[key][None] for end in last)]) for key in observations}
        embedded = self._embed(batch, [*current, *ended], len(rows))
        for place, info in enumerate(ended, start=len(rows)):
            info["terminal_observation"] = {key: part[place] for key, part in embedded.items()}
        return {key: part[: len(rows)] for key, part in embedded.items()}, rewards, dones, infos

    def states(self) -> list[dict[str, Any]]:
        """Return the running episodes as JSON values, for `restore`."""
        return self.venv.env_method("state")

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Replay the running episode of every environment up to the saved step.

        The caller continues with `step`, not with `reset`.

        Args:
            states: The result of `states`, one per environment.
        """
        restored = [self.venv.env_method("restore", state, indices=row)[0] for row, state in enumerate(states)]
        self.frames = np.stack([observation["frame"] for observation, _ in restored])
        self.contexts = [info["context"] for _, info in restored]

    def metrics(self) -> dict[str, float]:
        """Return the encoder's metrics and, if any entry was clipped, "tokens/clipped"."""
        return self.encoder.metrics() | ({"tokens/clipped": self.clipped} if self.clipped else {})

    def _embed(self, observations: Any, infos: list[dict[str, Any]], count: int) -> dict[str, np.ndarray]:
        """Encode a batch whose first `count` rows are the environments' current observations."""
        contexts = [info["context"] for info in infos]
        labels = [info["labels"] for info in infos] if self.encoder.needs_labels else None
        frames = encoder_frames(observations, infos, self.encoder.frame_history)
        owner = owner_of_object(uncached(self.encoder), "encoder")
        with torch.no_grad(), code_of(owner):
            tokens = self.encoder.encode(frames, contexts, labels)
        self.frames, self.contexts = observations["frame"][:count], contexts[:count]
        self.answers = self.encoder.answers()[:count]
        half = in_half(tokens)
        self.clipped += half.clipped
        embedded = {"tokens": half.values, "mask": half.mask}
        return embedded | ({"proprio": observations["proprio"]} if "proprio" in observations else {})


def step_groups(venv: Any) -> Iterable[tuple[range, VecEnvStepReturn]]:
    """Return the steps of groups of environments, each as soon as it is done, see `Workers.step_groups`.

    Args:
        venv: Environments after `step_async`; those of a VecEnv without groups are one group.
    """
    if hasattr(type(venv), "step_groups"):  # of the type, because a wrapper forwards attributes
        groups: Iterable[tuple[range, VecEnvStepReturn]] = venv.step_groups()
        return groups
    return [(range(venv.num_envs), venv.step_wait())]


def keep_frames(venv: VecEnv, count: int) -> None:
    """Have environments add the last frames of the episode to their infos, from the next reset on.

    Args:
        venv: Environments, each in a `ContractCheck`, or in a `VecArranged`.
        count: Number of frames; 1 = change nothing.

    Raises:
        UserError: If the environments are in neither.
    """
    if count == 1:
        return
    if isinstance(venv, VecArranged):
        venv.keep_frames(count)
        return
    try:
        venv.env_method("keep_frames", count)
    except AttributeError as error:
        raise UserError(
            f"the prompt takes the last {count} frames, which the environments of your VecEnv do not keep; use"
            " pr2l.rollout.embed_env or pr2l.wrap instead of VecEmbed"
        ) from error


def encoder_frames(observations: Any, infos: Sequence[dict[str, Any]], count: int) -> Frames:
    """Return a batch of frames for an encoder.

    Args:
        observations: Observations of B rows, Dict(frame, ...).
        infos: Their infos, from environments that `keep_frames` has prepared.
        count: K, number of frames per row.

    Returns:
        uint8 [B, H, W, 3], or [B, K, H, W, 3] if K > 1.
    """
    frames: Frames = observations["frame"]
    return frames if count == 1 else np.stack([info["frame_history"] for info in infos])


def reset_infos(venv: VecEnv) -> list[dict[str, Any]]:
    """Return the infos of each environment's last reset.

    Every VecEnvWrapper has its own empty `reset_infos`, which hides the one of the wrapped VecEnv. So this takes the
    outermost one that is not empty.

    Args:
        venv: Environments, with or without wrappers, after a reset.

    Returns:
        One info per environment.
    """
    while isinstance(venv, VecEnvWrapper) and not any(venv.reset_infos):
        venv = venv.venv
    return venv.reset_infos


class HalfTokens(NamedTuple):
    """Tokens in half precision.

    Attributes:
        values: float16 [B, T, D], 0 where masked.
        mask: uint8 [B, T], 1 = real, 0 = padding.
        clipped: The number of entries that were clipped, because they were infinite or their magnitude exceeded 65504.
    """

    values: np.ndarray
    mask: np.ndarray
    clipped: int


def in_half(tokens: Tokens) -> HalfTokens:
    """Convert tokens to half precision, the format of policies and stored data.

    Entries beyond the range of float16 are clipped.

    Args:
        tokens: Values [B, T, D] and mask [B, T] of any device and dtype.

    Raises:
        FloatingPointError: If an entry is NaN.
    """
    values = tokens.values.float().masked_fill(~tokens.mask[..., None], 0.0).cpu().numpy()
    if np.isnan(values).any():
        raise FloatingPointError(
            "the encoder returned NaN; with a VLM in half precision, try vlm_options.dtype=float32"
        )
    # Some VLMs have single states beyond what half precision can hold.
    clipped = np.clip(values, -HALF_MAX, HALF_MAX)
    count = int(np.count_nonzero(clipped != values))
    return HalfTokens(clipped.astype(np.float16), tokens.mask.cpu().numpy().astype(np.uint8), count)


def _row(observations: Any, row: int) -> Any:
    in_parts = isinstance(observations, dict)
    return {key: part[row] for key, part in observations.items()} if in_parts else observations[row]


def _concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate arrays, lists or dicts of arrays along their rows."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {key: _concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [*chain(*parts)]


def observation_space(frames: spaces.Space[Any], encoder: Encoder) -> spaces.Dict:
    """Return the observation space of VecEmbed for one environment.

    Args:
        frames: The environment's own space, Dict(frame, proprio if there is one).
        encoder: The encoder of the frames.

    Raises:
        ContractError: If the environment's space has no "frame".
    """
    if not isinstance(frames, spaces.Dict) or "frame" not in frames.spaces:
        raise ContractError(f"VecEmbed needs observations Dict(frame, proprio), not {frames}; see embed_env")
    shape = (encoder.tokens, encoder.width)
    parts: dict[str, spaces.Space[Any]] = {
        "tokens": spaces.Box(-HALF_MAX, HALF_MAX, shape, np.float16),
        "mask": spaces.Box(0, 1, (encoder.tokens,), np.uint8),
    }
    if "proprio" in frames.spaces:
        parts["proprio"] = frames.spaces["proprio"]
    return spaces.Dict(parts)

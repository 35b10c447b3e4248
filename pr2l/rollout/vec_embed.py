"""Frames in, tokens out: the VLM as a part of the environment.

Inside a policy's features extractor the VLM would run again for every minibatch of every epoch. Here it runs
once per vector step, on one batch:

    rows 0 .. N-1   the frames that the N environments show now, under the contexts they are in now
    rows N ..       the last frames of the episodes that just ended, under the contexts of those episodes

Simulators in worker processes come in groups (`Workers.step_groups`), and each group is such a batch: while the VLM
is busy with it, the next group is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder

HALF_MAX = float(np.finfo(np.float16).max)


class VecEmbed(VecEnvWrapper):
    """Observations Dict(tokens float16 [T, D], mask uint8 [T] (1 = real), proprio float32 [P] if given).

    venv: gives Dict(frame uint8 [H, W, 3], proprio), and infos with "context" (and "labels" if the encoder
    needs them), at reset too. After each step `frames` [N, H, W, 3], `contexts` and `answers` (of a VLM that
    was asked) tell what was embedded; an ended episode's last frame is in its info as "terminal_frame".
    """

    def __init__(self, venv: VecEnv, encoder: Encoder) -> None:
        self.encoder = encoder
        self.frames: np.ndarray = np.empty(0)
        self.contexts: list[dict[str, str]] = []
        self.answers: list[str] = []
        super().__init__(venv, observation_space=observation_space(venv.observation_space, encoder))

    def reset(self) -> VecEnvObs:
        shown = self.venv.reset()
        return self._embed(shown, self._reset_infos(), self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        venv: Any = self.venv
        in_groups = hasattr(type(venv), "step_groups")  # the type's own, as a wrapper would lend that of what it wraps
        steps, seen = [], []
        for rows, step in venv.step_groups() if in_groups else [(range(self.num_envs), venv.step_wait())]:
            steps.append(self._embed_step(rows, *step))
            seen.append((self.frames, self.contexts, self.answers))
        self.frames, self.contexts, self.answers = (_together(parts) for parts in zip(*seen, strict=True))
        observation, rewards, dones, infos = (_together(parts) for parts in zip(*steps, strict=True))
        return observation, rewards, dones, infos

    def _embed_step(self, rows: range, shown: Any, rewards: Any, dones: Any, infos: Any) -> VecEnvStepReturn:
        """The step of some rows, which come consecutively, with tokens in the place of frames."""
        ended = np.flatnonzero(dones)
        # After the automatic reset an environment shows the new episode, but its info tells of the old one.
        resets = self._reset_infos()[rows.start : rows.stop]
        now = [reset if done else info for reset, done, info in zip(resets, dones, infos, strict=True)]
        last = [infos[row]["terminal_observation"] for row in ended]
        both = {key: np.concatenate([shown[key], *(each[key][None] for each in last)]) for key in shown}
        embedded = self._embed(both, [*now, *(infos[row] for row in ended)], len(rows))
        for place, row in enumerate(ended, start=len(rows)):
            infos[row]["terminal_frame"] = last[place - len(rows)]["frame"]
            infos[row]["terminal_observation"] = {key: part[place] for key, part in embedded.items()}
        return {key: part[: len(rows)] for key, part in embedded.items()}, rewards, dones, infos

    def states(self) -> list[dict[str, Any]]:
        """The running episodes as JSON values, for `restore`."""
        return self.venv.env_method("state")

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Brings every environment back into the middle of its episode, without a reset after it."""
        shown = [self.venv.env_method("restore", each, indices=row)[0] for row, each in enumerate(states)]
        self.frames = np.stack([observation["frame"] for observation, _ in shown])
        self.contexts = [info["context"] for _, info in shown]

    def _reset_infos(self) -> list[dict[str, Any]]:
        # A VecEnvWrapper has an empty reset_infos of its own, which hides the environment's.
        return self.unwrapped.reset_infos

    def _embed(self, shown: Any, infos: list[dict[str, Any]], count: int) -> dict[str, np.ndarray]:
        """Embeds a batch, the first `count` rows of which environments show now."""
        contexts = [info["context"] for info in infos]
        labels = [info["labels"] for info in infos] if self.encoder.needs_labels else None
        with torch.no_grad():
            tokens = self.encoder.encode(shown["frame"], contexts, labels)
        self.frames, self.contexts = shown["frame"][:count], contexts[:count]
        self.answers = self.encoder.answers()[:count]
        values, mask = in_half(tokens)
        embedded = {"tokens": values, "mask": mask}
        return embedded | ({"proprio": shown["proprio"]} if "proprio" in shown else {})


def in_half(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """What policies see and stores keep: float16 [B, T, D], zero where masked, and the mask as uint8 [B, T].

    Raises FloatingPointError for NaN.
    """
    values = tokens.values.float().masked_fill(~tokens.mask[..., None], 0.0).cpu().numpy()
    if np.isnan(values).any():
        raise FloatingPointError(
            "the encoder gave NaN; with a VLM in half precision try vlm_options.dtype=float32"
        )
    # Some VLMs have single states beyond what half precision can hold.
    half = np.clip(values, -HALF_MAX, HALF_MAX).astype(np.float16)
    return half, tokens.mask.cpu().numpy().astype(np.uint8)


def _together(parts: Sequence[Any]) -> Any:
    """Arrays, lists or dicts of arrays for some rows each, as one for all rows."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {key: _together([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [*chain(*parts)]


def observation_space(frames: spaces.Space[Any], encoder: Encoder) -> spaces.Dict:
    """The space of VecEmbed over an environment whose space is `frames`."""
    if not isinstance(frames, spaces.Dict) or "frame" not in frames.spaces:
        raise ValueError(f"an environment must show Dict(frame, proprio), not {frames}")
    shape = (encoder.tokens, encoder.width)
    parts: dict[str, spaces.Space[Any]] = {
        "tokens": spaces.Box(-HALF_MAX, HALF_MAX, shape, np.float16),
        "mask": spaces.Box(0, 1, (encoder.tokens,), np.uint8),
    }
    if "proprio" in frames.spaces:
        parts["proprio"] = frames.spaces["proprio"]
    return spaces.Dict(parts)

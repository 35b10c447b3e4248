"""Wrapper of vectorized environments for agents that read the frames themselves, without an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from pr2l.core.types import Contexts, Frames, Labels
from pr2l.rollout.vec_embed import reset_infos


class VecFrames(VecEnvWrapper):
    """Wrapper that keeps the current frames, contexts and labels; observations and infos are those of the environments.

    When an episode ends, its info has the last frame as "terminal_frame".

    Args:
        venv: Environments with observations Dict(frame uint8 [H, W, 3], ...), whose infos, also those of a reset, have
            "context".

    Attributes:
        frames: The frames of the last step, uint8 [N, H, W, 3].
        contexts: The contexts of these frames.
        labels: The labels of these frames; None if an environment has none.
        answers: What the agent wrote about these frames, for videos; the agent sets it.
    """

    def __init__(self, venv: VecEnv) -> None:
        self.frames: Frames = np.empty(0, np.uint8)
        self.contexts: Contexts = []
        self.labels: list[Labels] | None = None
        self.answers: list[str] = []
        super().__init__(venv)

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._keep(observations, reset_infos(self.venv))
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        for row in np.flatnonzero(dones):
            infos[row]["terminal_frame"] = infos[row]["terminal_observation"]["frame"]
        # After the automatic reset the observation is the new episode's, but the info is still the old one's.
        resets = reset_infos(self.venv)
        self._keep(observations, [resets[row] if done else infos[row] for row, done in enumerate(dones)])
        return observations, rewards, dones, infos

    def _keep(self, observations: Any, infos: list[dict[str, Any]]) -> None:
        self.frames = observations["frame"]
        self.contexts = [info["context"] for info in infos]
        self.labels = [info["labels"] for info in infos] if all("labels" in info for info in infos) else None
        self.answers = []

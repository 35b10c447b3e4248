"""Wrapper that replaces the rewards of vectorized environments by the verdicts of a success evaluator.

At the end of an episode, the evaluator reads its instruction, frames and actions. The reward of the last step is 1 if
it gives a probability of success of 0.5 or more, else 0; all other rewards are 0. The environment's own verdict stays
in the infos, so the errors of the evaluator can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from pr2l.core.types import THRESHOLD, Frame
from pr2l.rollout.episodes import Record
from pr2l.rollout.vec_embed import step_groups


class SuccessEvaluator(Protocol):
    """Judge of episodes, see `pr2l.agents.evaluators.base.Evaluator`."""

    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        """Return the probability of success; None = the evaluator abstains."""
        ...


class VecJudged(VecEnvWrapper):
    """Wrapper that gives the reward 1 for episodes that an evaluator calls a success.

    An abstention, or an episode that a failure of the simulator cut, gets the reward 0. The "episode" of the last info
    has the new return as "r", and, unless the episode was cut, "abstained", 1.0 or 0.0, and "agrees": whether reward
    and success of the environment are equal, as 1.0 or 0.0.

    Args:
        venv: Environments that are SeededEpisodes with `record`.
        evaluator: The evaluator.
        instruction: The task for the evaluator, with slots that the context at the start of an episode fills.
    """

    def __init__(self, venv: VecEnv, evaluator: SuccessEvaluator, instruction: str) -> None:
        super().__init__(venv)
        self.evaluator, self.instruction = evaluator, instruction

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        return self._judge(self.venv.step_wait())

    def step_groups(self) -> Iterator[tuple[range, VecEnvStepReturn]]:
        """Yield the step of each group of environments, as `Workers.step_groups` does."""
        for rows, step in step_groups(self.venv):
            yield rows, self._judge(step)

    def receive(self, most: int | None = None) -> tuple[list[int], VecEnvStepReturn]:
        """Return the steps of some environments, as `InProcessVecEnv.receive` does."""
        venv: Any = self.venv
        rows, step = venv.receive(most)
        return rows, self._judge(step)

    def _judge(self, step: VecEnvStepReturn) -> VecEnvStepReturn:
        observations, rewards, dones, infos = step
        rewards = np.zeros_like(rewards)
        for row in np.flatnonzero(dones):
            rewards[row] = infos[row]["episode"]["r"] = self._reward(infos[row])
        return observations, rewards, dones, infos

    def _reward(self, info: dict[str, Any]) -> float:
        """Return the reward of an episode, and add the entries of the class's description to its info."""
        record: Record = info.pop("record")
        if "cut" in info:
            return 0.0
        task, success = self.instruction.format_map(record.context), info["success"]
        probability = self.evaluator.score(task, record.frames, record.actions, success)
        reward = float(probability is not None and probability >= THRESHOLD)
        info["episode"] |= {"abstained": float(probability is None), "agrees": float(bool(reward) == success)}
        return reward

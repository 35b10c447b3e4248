"""Environment that violates the environment contract in a given way at a given step.

Tests use it in this process, in worker processes and isolated. Episodes last 6 steps of reward 1.
"""

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict

FRAME, PROPRIO = (6, 8, 3), (2,)


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Task:
    id, prompt, horizon = "broken", None, 6
    reward = success = "there is none"
    contexts = ({},)


TASKS = {"broken": Task()}


def kinds(task):
    return ()


def make(task, options=None, *, split="train", labels=False):
    return Broken()


def replaced(**changes):
    return lambda observation, reward, terminated, truncated, info: tuple(
        changes.get(name, value)
        for name, value in zip(
            ("observation", "reward", "terminated", "truncated", "info"),
            (observation, reward, terminated, truncated, info),
            strict=True,
        )
    )


def with_frame(change):
    return lambda observation, *rest: ({**observation, "frame": change(observation["frame"])}, *rest)


def with_proprio(value):
    return lambda observation, *rest: ({**observation, "proprio": value}, *rest)


def with_info(**changes):
    return lambda *result: (*result[:4], {**result[4], **changes})


# Name of the violation -> function that changes the result of step, and a part of the error message.
WRONG = {
    "float frame": (with_frame(lambda f: f.astype(np.float32) / 255), "float32 [6, 8, 3] with values from 0 to"),
    "rgba frame": (with_frame(lambda f: np.concatenate([f, f[..., :1]], axis=2)), "frame is uint8 [6, 8, 4]"),
    "gray frame": (with_frame(lambda f: f[..., 0].copy()), "frame is uint8 [6, 8]"),
    "channels first": (with_frame(lambda f: f.transpose(2, 0, 1).copy()), "frame is uint8 [3, 6, 8]"),
    "int64 frame": (with_frame(lambda f: f.astype(np.int64)), "frame is int64 [6, 8, 3]"),
    "negative pixels": (with_frame(lambda f: f.astype(np.int16) - 40), "frame is int16 [6, 8, 3] with values from -40"),
    "no frame": (with_frame(lambda f: None), "frame is None"),
    "listed frame": (with_frame(lambda f: f.tolist()), "frame is a list"),
    "another shape": (with_frame(lambda f: np.zeros((12, 16, 3), np.uint8)), "frame is uint8 [12, 16, 3]"),
    "no observation": (replaced(observation=None), "the observation is None"),
    "other keys": (replaced(observation={"image": 1}), "the observation is a dict of ['image']"),
    "proprio shape": (with_proprio(np.zeros(3, np.float32)), "proprio is float32 [3]"),
    "proprio dtype": (with_proprio(np.zeros(2)), "proprio is float64 [2]"),
    "proprio NaN": (with_proprio(np.array([0, np.nan], np.float32)), "proprio is float32 [2] with 1 NaN"),
    "proprio inf": (with_proprio(np.array([0, np.inf], np.float32)), "and 1 infinite"),
    "context": (with_info(context={"target": 3}), "info['context'] is {'target': 3}"),
    "no context": (with_info(context=None), "info['context'] is None"),
    "success text": (with_info(success="yes"), "info['success'] is 'yes'"),
    "success number": (with_info(success=1.0), "info['success'] is 1.0"),
    "no success": (lambda *result: (*result[:4], {"context": {}}), "info has no 'success'"),
    "measures": (with_info(measures={"gap": "far"}), "info['measures']['gap'] is 'far'"),
    "no info": (replaced(info=None), "info is None"),
    "four values": (lambda *result: result[:4], "step returned 4 values"),
    "nothing": (lambda *result: None, "step returned None"),
    "text reward": (replaced(reward="1.0"), "the reward is '1.0'"),
    "no reward": (replaced(reward=None), "the reward is None"),
    "several rewards": (replaced(reward=np.ones(2)), "the reward is float64 [2]"),
    "NaN reward": (replaced(reward=float("nan")), "the reward is nan"),
    "infinite reward": (replaced(reward=np.float32(np.inf)), "the reward is inf"),
    "done text": (replaced(terminated="no"), "terminated is 'no'"),
}
BAD_VALUES = ("proprio NaN", "proprio inf", "NaN reward", "infinite reward")
WRONG_RESETS = {
    "nothing": (lambda *result: None, "reset returned None"),
    "alone": (lambda *result: result[0], "reset returned a dict"),
    "four": (lambda *result: (*result, 0.0, False), "reset returned 4 values"),
    "frame": (lambda observation, info: ({**observation, "frame": None}, info), "frame is None"),
}


def broken_episodes():
    """Return the environment with episodes of seed 7."""
    from pr2l.rollout.episodes import SeededEpisodes  # only here, because an isolated worker does not need it

    return SeededEpisodes(Broken(), lambda number: 7, "toys/broken")


class Broken(gym.Env):
    def __init__(self):
        self.action_space = gym.spaces.Discrete(3)
        self.observation_space = gym.spaces.Dict(
            frame=gym.spaces.Box(0, 255, FRAME, np.uint8), proprio=gym.spaces.Box(-1, 1, PROPRIO, np.float32)
        )
        self.break_at("", 0)

    def break_at(self, wrong, step):
        """Violate the contract as in WRONG at a step, or as in WRONG_RESETS at the reset, step 0; "" = never."""
        self.wrong, self.at = wrong, step

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        result = self._observation(), {"context": {}}
        return WRONG_RESETS[self.wrong][0](*result) if self.wrong and not self.at else result

    def step(self, action):
        self.steps += 1
        if self.wrong == "own error" and self.steps == self.at:
            raise ZeroDivisionError("a mistake in the simulator's own code")
        result = self._observation(), 1.0, self.steps == 6, False, {"context": {}, "success": False, "measures": {}}
        return WRONG[self.wrong][0](*result) if self.wrong and self.steps == self.at else result

    def _observation(self):
        return {"frame": np.arange(144, dtype=np.uint8).reshape(FRAME), "proprio": np.zeros(2, np.float32)}

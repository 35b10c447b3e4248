"""The learning state of an on-policy Stable-Baselines3 model as tensors and JSON values, without pickle.

It is taken between an update and the next rollout, when the rollout buffer holds nothing that is still needed; a
model that takes it back collects and learns bit for bit what the first one would have.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from .state import Tensors, below, copies, optimizer_tensors, restore_optimizer
from .tokens import Observation, TokenHandles

Values = dict[str, Any]

# Plain attributes that learn(reset_num_timesteps=False) goes on from.
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")


def state(model: OnPolicyAlgorithm) -> tuple[Tensors, Values]:
    """Copies: later training does not change them. The values survive a round trip through JSON unchanged."""
    tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
    tensors |= optimizer_tensors(model.policy.optimizer)
    tensors |= {f"observation/{key}": torch.from_numpy(part) for key, part in _observation(model).items()}
    tensors["episode_starts"] = torch.from_numpy(np.asarray(model._last_episode_starts))
    tensors |= _lstm_tensors(model) | _random_tensors()
    values = {
        "counters": {name: getattr(model, name) for name in COUNTERS},
        "param_groups": model.policy.optimizer.state_dict()["param_groups"],
        "episodes": list(model.ep_info_buffer or []),
        "successes": [bool(success) for success in model.ep_success_buffer or []],
        "random": _random_values(model),
    }
    return copies(tensors), values


def restore(model: OnPolicyAlgorithm, tensors: Tensors, values: Values) -> None:
    """Puts back what `state` took from a model of the same policy, spaces and number of environments.

    The random generators of torch, NumPy and Python are process-wide and change with it, so nothing random
    may happen between this and `learn`. The simulators' state is not here. Raises RuntimeError for a policy
    of another shape.
    """
    model.policy.load_state_dict(below(tensors, "policy"))
    restore_optimizer(model.policy.optimizer, tensors, values["param_groups"])
    observation = {key: part.numpy() for key, part in below(tensors, "observation").items()}
    model._last_obs = model.env.to_handles(observation) if isinstance(model.env, TokenHandles) else observation
    model._last_episode_starts = tensors["episode_starts"].numpy()
    _restore_lstm(model, tensors)
    for name in COUNTERS:
        setattr(model, name, values["counters"][name])
    model.ep_info_buffer = deque(values["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(values["successes"], maxlen=model._stats_window_size)
    _restore_random(model, tensors, values["random"])


def _observation(model: OnPolicyAlgorithm) -> Observation:
    """What the environments show, tokens rather than handles."""
    if not isinstance(model._last_obs, dict):
        raise ValueError("the model has no Dict observation yet; take its state while it learns")
    return model.env.to_tokens(model._last_obs) if isinstance(model.env, TokenHandles) else model._last_obs


def _lstm_tensors(model: OnPolicyAlgorithm) -> Tensors:
    states: RNNStates | None = getattr(model, "_last_lstm_states", None)
    if states is None:
        return {}
    pairs = {"pi": states.pi, "vf": states.vf}
    return {f"lstm/{head}/{i}": tensor for head, pair in pairs.items() for i, tensor in enumerate(pair)}


def _restore_lstm(model: OnPolicyAlgorithm, tensors: Tensors) -> None:
    lstm = {name: tensor.to(model.device) for name, tensor in below(tensors, "lstm").items()}
    if lstm:
        pi, vf = ((lstm[f"{head}/0"], lstm[f"{head}/1"]) for head in ("pi", "vf"))
        model._last_lstm_states = RNNStates(pi, vf)  # type: ignore[attr-defined]  # RecurrentPPO has it


def _random_tensors() -> Tensors:
    """torch's process-wide generators, one per device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    devices = {f"random/cuda/{index}": generator for index, generator in enumerate(cuda)}
    return {"random/torch": torch.get_rng_state()} | devices


def _random_values(model: OnPolicyAlgorithm) -> Values:
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].tolist()  # 624 words
    return {
        "python": [version, list(words), gauss],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def _restore_random(model: OnPolicyAlgorithm, tensors: Tensors, values: Values) -> None:
    torch.set_rng_state(tensors["random/torch"])
    cuda = [tensor for name, tensor in sorted(tensors.items()) if name.startswith("random/cuda/")]
    if cuda and len(cuda) == torch.cuda.device_count():  # elsewhere the run goes on, but not bit for bit
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(values["numpy"])
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    model.action_space.np_random.bit_generator.state = values["action_space"]


def rollout_bytes(observation_space: spaces.Dict, num_envs: int, defaults: Any) -> dict[str, int]:
    """Memory of a rollout's observations at its peak, by the device that it is on ("cpu" or "cuda").

    That is twice what the rollout buffer holds, as SB3 flattens a copy. defaults: has n_steps.
    """
    return {"cpu": 2 * num_envs * defaults.n_steps * sum(part_bytes(observation_space).values())}


def part_bytes(observation_space: spaces.Dict) -> dict[str, int]:
    """Memory of one observation's parts."""
    parts = observation_space.spaces.items()
    return {key: int(np.prod(part.shape or ())) * np.dtype(part.dtype).itemsize for key, part in parts}


class UpdateThreads(BaseCallback):
    """Holds torch to `count` threads (0 = as it is) while the policy is updated; the encoder keeps them all."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.others = count, torch.get_num_threads()

    def _on_rollout_end(self) -> None:
        torch.set_num_threads(self.count or self.others)

    def _on_rollout_start(self) -> None:
        torch.set_num_threads(self.others)

    def _on_training_end(self) -> None:
        torch.set_num_threads(self.others)

    def _on_step(self) -> bool:
        return True

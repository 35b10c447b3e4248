"""Token table: a rollout's tokens are stored once, and Stable-Baselines3's buffer holds 8-byte handles to them.

SB3's rollout buffer copies every observation into the buffer, the whole buffer once more for an update, and every
minibatch of every epoch to the policy's device. With handles it copies row numbers of a table on that device, from
which the network reads the tokens. With N environments and rollouts of n steps:

    row     0         1 .. N   N + 1 .. 2N   ...   (n - 1)N + 1 .. nN   nN + 1 .. (n + 1)N
    holds   padding   step 0   step 1        ...   step n - 1           step n

An update reads the steps 0 .. n - 1, and the next rollout begins with the observations of step n, so there is room for
n + 1 steps. Step n + 1 overwrites step 0, which only the update before it could read. Row 0 stays zero: RecurrentPPO
pads its shorter sequences with zeros.

Only rollouts use the table. Last observations of truncated episodes, which SB3 reads at once, and the observations
given to `act` reach the network as tokens; so evaluation, in any number of environments, needs no room.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

HANDLES = 2**24  # SB3 passes observations to the network as float32, which holds integers exactly up to here

Observation = dict[str, np.ndarray]


class TokenTable:
    """The newest vector steps of token observations, and row 0, which is padding.

    A copy is the same table, so that a copied policy reads the same rows; a pickle is an empty table, so that a saved
    policy holds no rollout.

    Args:
        steps: Vector steps that there is room for.
        num_envs: Observations of a vector step.
        shape: (T, D) of the tokens.
        dtype: Of the tokens.
        device: Where they are stored.

    Raises:
        ValueError: More rows than handles.
    """

    def __init__(
        self, steps: int, num_envs: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._made_from = (steps, num_envs, shape, dtype, device)
        rows = 1 + steps * num_envs
        if rows > HANDLES:
            raise ValueError(
                f"{steps - 1:,} steps in {num_envs:,} environments need {rows:,} handles, but Stable-Baselines3 can "
                f"tell only {HANDLES:,} apart; take fewer n_steps or num_envs, or algorithm_options.handles=false"
            )
        self.shape = shape
        self._tokens = torch.zeros(rows, *shape, dtype=dtype, device=device)
        self._mask = torch.zeros(rows, shape[0], dtype=torch.uint8, device=device)
        self._next = 0

    @classmethod
    def of(cls, observation_space: spaces.Dict, steps: int, num_envs: int, device: torch.device) -> TokenTable:
        """A table for the tokens of an observation space; ValueError if it has none."""
        shape = token_shape(observation_space)
        dtype = torch.from_numpy(np.empty(0, observation_space["tokens"].dtype)).dtype
        return cls(steps, num_envs, shape, dtype, device)

    @property
    def nbytes(self) -> int:
        return self._tokens.nbytes + self._mask.nbytes

    def put(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Store a vector step.

        Args:
            tokens: [N, T, D].
            mask: [N, T].

        Returns:
            Handles int64 [N], valid until `steps` more vector steps were stored.
        """
        steps, num_envs, *_ = self._made_from
        first = 1 + self._next * num_envs
        self._tokens[first : first + num_envs] = torch.from_numpy(tokens)
        self._mask[first : first + num_envs] = torch.from_numpy(mask)
        self._next = (self._next + 1) % steps
        return np.arange(first, first + num_envs)

    def gather(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, T, D] and mask uint8 [B, T] of handles int64 [B]."""
        return self._tokens[ids], self._mask[ids]

    def to_tokens(self, observation: Observation) -> Observation:
        """The inverse of `TokenHandles.to_handles`; tokens and mask are copies."""
        others = dict(observation)
        tokens, mask = self.gather(torch.from_numpy(others.pop("handle")[:, 0]))
        return {"tokens": tokens.cpu().numpy(), "mask": mask.cpu().numpy(), **others}

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenTable:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, self._made_from


class Handles(spaces.Box):
    """The space of one handle, int64 [1]; a network finds the table in it."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(0, HANDLES - 1, (1,), np.int64)
        self.table = table


class TokenHandles(VecEnvWrapper):
    """Observations Dict(handle int64 [1], and what else there is) in place of Dict(tokens, mask, ...).

    A "terminal_observation" in an info stays as it is.

    Args:
        venv: Shows tokens and mask.
        table: Where they are kept; its rows are for as many environments.
    """

    def __init__(self, venv: VecEnv, table: TokenTable) -> None:
        space = venv.observation_space
        assert isinstance(space, spaces.Dict)
        self.table = table
        super().__init__(venv, handle_space(space, table))

    def reset(self) -> VecEnvObs:
        return self.to_handles(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        observation, rewards, dones, infos = self.venv.step_wait()
        return self.to_handles(observation), rewards, dones, infos

    def to_handles(self, observation: Any) -> Observation:
        """Put a vector step's tokens into the table."""
        others = dict(observation)
        return {"handle": self.table.put(others.pop("tokens"), others.pop("mask"))[:, None], **others}


def handle_space(observation_space: spaces.Dict, table: TokenTable) -> spaces.Dict:
    """The observation space with handles of the table in place of tokens and mask."""
    others = {key: space for key, space in observation_space.items() if key not in ("tokens", "mask")}
    return spaces.Dict({"handle": Handles(table), **others})


def token_shape(observation_space: spaces.Dict) -> tuple[int, int]:
    """(T, D) of the tokens of an observation space; ValueError if it has none."""
    tokens, mask, handles = (observation_space.spaces.get(key) for key in ("tokens", "mask", "handle"))
    if isinstance(handles, Handles):
        return handles.table.shape
    if tokens is None or mask is None or tokens.shape is None or len(tokens.shape) != 2:
        raise ValueError(
            f"a network needs a Dict observation with tokens [T, D] and mask [T], not {observation_space}; "
            "wrap the environments in VecEmbed, whose encoder makes tokens"
        )
    return tokens.shape[0], tokens.shape[1]

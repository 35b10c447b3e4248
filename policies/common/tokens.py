"""Table that stores the tokens of a rollout once; Stable-Baselines3's rollout buffer holds 8-byte handles to them.

SB3 copies every observation into the rollout buffer, the whole buffer once more for an update, and every minibatch of
every epoch to the policy's device. With handles, SB3 copies row numbers of a table on that device instead, and the
network reads the tokens from the table. With N environments and rollouts of n steps:

    row     0         1 .. N   N + 1 .. 2N   ...   (n - 1)N + 1 .. nN   nN + 1 .. (n + 1)N
    holds   padding   step 0   step 1        ...   step n - 1           step n

An update reads the steps 0 .. n - 1, and the next rollout begins with the observations of step n, so the table has
room for n + 1 steps. Step n + 1 overwrites step 0, which only the previous update reads. Row 0 stays zero, because
RecurrentPPO pads shorter sequences with zeros.

Only rollouts use the table. The network receives tokens, not handles, for the observations passed to `act` and for the
last observations of truncated episodes, which SB3 reads at once. So evaluation needs no room in the table, for any
number of environments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ..base import UserError

HANDLES = 2**24  # SB3 passes observations to the network as float32, which represents integers exactly up to 2**24

Observation = dict[str, np.ndarray]


class TokenTable:
    """Ring buffer of token observations, with a row 0 of padding.

    `copy.deepcopy` returns the same table, so that a copied policy reads the same rows. Unpickling returns an empty
    table, so that a saved policy contains no rollout.

    Args:
        steps: Capacity in vector steps (one step of all environments).
        num_envs: Number of environments, that is, observations per vector step.
        shape: Shape (T, D) of the tokens of one observation.
        dtype: Data type of the tokens.
        device: Device that stores the tokens.

    Raises:
        UserError: The table needs more than HANDLES rows.
    """

    def __init__(
        self, steps: int, num_envs: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._arguments = (steps, num_envs, shape, dtype, device)
        rows = 1 + steps * num_envs
        if rows > HANDLES:
            raise UserError(
                f"n_steps={steps - 1} with num_envs={num_envs} needs {rows:,} handles; the maximum is {HANDLES:,}. Use "
                "fewer n_steps or num_envs, or algorithm_options.handles=false"
            )
        self.shape = shape
        self._tokens = torch.zeros(rows, *shape, dtype=dtype, device=device)
        self._mask = torch.zeros(rows, shape[0], dtype=torch.uint8, device=device)
        self._next = 0

    @classmethod
    def of(cls, observation_space: spaces.Dict, steps: int, num_envs: int, device: torch.device) -> TokenTable:
        """Create a table for the tokens of an observation space.

        Args:
            observation_space: Dict with `tokens` [T, D] and `mask` [T].
            steps: Capacity in vector steps.
            num_envs: Number of environments.
            device: Device that stores the tokens.

        Raises:
            UserError: The space has no tokens, or the table needs more than HANDLES rows.
        """
        shape = token_shape(observation_space)
        dtype = torch.from_numpy(np.empty(0, observation_space["tokens"].dtype)).dtype
        return cls(steps, num_envs, shape, dtype, device)

    @property
    def nbytes(self) -> int:
        """Memory of tokens and mask in bytes."""
        return self._tokens.nbytes + self._mask.nbytes

    def put(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Store the observations of one vector step.

        Args:
            tokens: [N, T, D], one row per environment.
            mask: [N, T], 1 = real token.

        Returns:
            Handles int64 [N], valid until `steps` more vector steps are stored.
        """
        steps, num_envs, *_ = self._arguments
        first = 1 + self._next * num_envs
        self._tokens[first : first + num_envs] = without_padding(torch.from_numpy(tokens), torch.from_numpy(mask))
        self._mask[first : first + num_envs] = torch.from_numpy(mask)
        self._next = (self._next + 1) % steps
        return np.arange(first, first + num_envs)

    def gather(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens [B, T, D] and the mask uint8 [B, T] of handles int64 [B].

        Args:
            ids: Handles from `put`, on the table's device or the CPU; 0 = a row of zeros.

        Returns:
            Copies, on the table's device; padded slots of the tokens are zero.
        """
        return self._tokens[ids], self._mask[ids]

    def to_tokens(self, observation: Observation) -> Observation:
        """Replace the handles in an observation by copies of tokens and mask.

        Args:
            observation: Arrays [B, ...] with "handle" int64 [B, 1].

        Returns:
            The observation with "tokens" [B, T, D] and "mask" uint8 [B, T] in place of "handle".
        """
        entries = dict(observation)
        tokens, mask = self.gather(torch.from_numpy(entries.pop("handle")[:, 0]))
        return {"tokens": tokens.cpu().numpy(), "mask": mask.cpu().numpy(), **entries}

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenTable:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, self._arguments


def without_padding(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Set padded slots to zero; they may hold any number, even NaN.

    Args:
        tokens: [B, T, D].
        mask: [B, T], 1 = real token, 0 = padding.

    Returns:
        A copy.
    """
    return tokens.masked_fill(mask[..., None] <= 0.5, 0.0)  # NaN * 0 would be NaN


class Handles(spaces.Box):
    """Space of one handle, int64 [1], with the table that the handle refers to."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(0, HANDLES - 1, (1,), np.int64)
        self.table = table


class TokenHandles(VecEnvWrapper):
    """Wrapper that stores tokens and mask in a table and returns `handle` int64 [1] in their place.

    It leaves the other keys, and "terminal_observation" in an info, unchanged.

    Args:
        venv: Vector environment with `tokens` and `mask` in its observations.
        table: Table for the same number of environments.
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
        """Store the tokens of a vector step in the table and replace them by handles.

        Args:
            observation: Arrays [N, ...] with "tokens" and "mask", one row per environment.

        Returns:
            The observation with "handle" int64 [N, 1] in place of "tokens" and "mask".
        """
        entries = dict(observation)
        return {"handle": self.table.put(entries.pop("tokens"), entries.pop("mask"))[:, None], **entries}


def handle_space(observation_space: spaces.Dict, table: TokenTable) -> spaces.Dict:
    """Return an observation space with a handle in place of tokens and mask.

    Args:
        observation_space: Dict with `tokens` and `mask`.
        table: Table that the handles refer to.
    """
    subspaces = {key: space for key, space in observation_space.items() if key not in ("tokens", "mask")}
    return spaces.Dict({"handle": Handles(table), **subspaces})


def token_shape(observation_space: spaces.Dict) -> tuple[int, int]:
    """Return the shape (T, D) of the tokens of an observation space, or of its table of handles.

    Args:
        observation_space: Dict with `tokens` [T, D] and `mask` [T], or with a `handle`.

    Raises:
        UserError: The space has no tokens.
    """
    tokens, mask, handles = (observation_space.spaces.get(key) for key in ("tokens", "mask", "handle"))
    if isinstance(handles, Handles):
        return handles.table.shape
    if tokens is None or mask is None or tokens.shape is None or len(tokens.shape) != 2:
        raise UserError(
            f"a network needs a Dict observation with tokens [T, D] and mask [T], not {observation_space}; "
            "wrap the environments in VecEmbed, which replaces frames by tokens"
        )
    return tokens.shape[0], tokens.shape[1]

"""Distribution over actions with several factors, of which an action's type uses only some.

    factor           0 type   1 cell   2 offset   3 direction   4 word   5 words
    tap                 x        x        x
    swipe               x        x        x            x
    type                x                                          x        x
    back                x

Factor 0 is the type. A table `uses`, bool [types, factors], says which factors each type uses:

    log p(action) = log p(type) + sum of log p(factor) over the factors that the type uses

The factors are independent of each other for one observation. A factor that the type does not use is 0 in a sampled
action, gets no gradient, and has no part in the probability, because the environment ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import log_softmax

from ..base import UserError

FactorTable = tuple[tuple[int, ...], ...]


class FactoredActions:
    """Distributions of the actions for B observations.

    Args:
        logits: Logits [B, n] of the n values of each factor.
        uses: bool [types, factors], from `uses_table`.
    """

    def __init__(self, logits: Sequence[torch.Tensor], uses: torch.Tensor) -> None:
        self.log_probabilities = [log_softmax(factor, dim=-1) for factor in logits]
        self.uses = uses

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of actions.

        Args:
            actions: int64 [B, factors], or [N, B, factors] for N actions of each observation.

        Returns:
            float32 [B] or [N, B].
        """
        columns = zip(self.log_probabilities, actions.unbind(-1), strict=True)
        parts = [
            factor.expand(*values.shape, -1).gather(-1, values[..., None]).squeeze(-1) for factor, values in columns
        ]
        return (torch.stack(parts, dim=-1) * self.uses[actions[..., 0]]).sum(dim=-1)

    def sample(self, count: int, temperature: float = 1.0) -> torch.Tensor:
        """Draw actions with torch's random generator, int64 [count, B, factors].

        Args:
            count: Number of actions of each observation.
            temperature: Divisor of the logits; more than 1 makes the actions more different.
        """
        columns = [
            torch.multinomial((factor / temperature).softmax(dim=-1), count, replacement=True).T
            for factor in self.log_probabilities
        ]
        return self.without_unused(torch.stack(columns, dim=-1))

    def mode(self) -> torch.Tensor:
        """Return the most probable value of each factor, int64 [B, factors]."""
        columns = [factor.argmax(dim=-1) for factor in self.log_probabilities]
        return self.without_unused(torch.stack(columns, dim=-1))

    def entropy(self) -> torch.Tensor:
        """Return the entropies, float32 [B]: that of the type, and of each factor times the probability of its use."""
        probabilities = [factor.exp() for factor in self.log_probabilities]
        parts = [-(p * log).sum(dim=-1) for p, log in zip(probabilities, self.log_probabilities, strict=True)]
        used = probabilities[0] @ self.uses.float()
        return (torch.stack(parts, dim=-1) * used).sum(dim=-1)

    def without_unused(self, actions: torch.Tensor) -> torch.Tensor:
        """Set the factors that the type does not use to 0.

        Args:
            actions: int64 [..., factors].
        """
        return actions * self.uses[actions[..., 0]]


def uses_table(sizes: Sequence[int], factors_of_type: FactorTable) -> torch.Tensor:
    """Return which factors each type uses, bool [types, factors]; every type uses factor 0, which is the type itself.

    Args:
        sizes: Number of values of each factor; that of factor 0 is the number of types.
        factors_of_type: For each type, the factors that it uses besides factor 0; () = every type uses all factors.

    Raises:
        UserError: The table has another number of types, or names a factor that does not exist.
    """
    types, factors = sizes[0], len(sizes)
    if not factors_of_type:
        return torch.ones(types, factors, dtype=torch.bool)
    if len(factors_of_type) != types:
        raise UserError(
            f"algorithm_options.factors_of_type has {len(factors_of_type)} rows for {types} types of action; give one "
            "row for each type, [] for a type that uses no factor, or no rows if every type uses all factors"
        )
    uses = torch.zeros(types, factors, dtype=torch.bool)
    uses[:, 0] = True
    for action_type, used in enumerate(factors_of_type):
        if unknown := [factor for factor in used if not 0 < factor < factors]:
            raise UserError(
                f"algorithm_options.factors_of_type[{action_type}] names factor {unknown[0]}, but the factors besides "
                f"the type are 1 to {factors - 1}"
            )
        uses[action_type, list(used)] = True
    return uses

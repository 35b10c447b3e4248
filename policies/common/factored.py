"""Distribution over actions with several factors, of which an action's type uses only some.

    factor           0 type   1 cell   2 offset   3 direction   4 word   5 words
    tap                 x        x        x
    swipe               x        x        x            x
    type                x                                          x        x
    back                x

Factor 0 is the type. A table `uses`, bool [types, factors], says which factors each type uses. A factor may depend on
the value of another one, its parent, such as the offset inside a cell on the cell:

    log p(action) = log p(type) + sum of log p(factor | value of its parent) over the factors that the type uses

Otherwise the factors are independent of each other for one observation. A factor that the type does not use is 0 in a
sampled action, gets no gradient, and has no part in the probability, because the environment ignores it.

Why parents: a row on a screen may cover the lower part of one cell and the upper part of the next one. Independent
factors that have learned both touches also touch the upper part of the first cell, outside of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn.functional import log_softmax

from ..base import UserError

FactorTable = tuple[tuple[int, ...], ...]
Parents = Mapping[int, int]  # factor -> the factor on whose value it depends


class FactoredActions:
    """Distributions of the actions for B observations.

    Args:
        logits: Logits [B, n] of the n values of each factor; for a factor with a parent, [B, m, n], one row for each of
            the m values of its parent.
        uses: bool [types, factors], from `uses_table`.
        parents: Parents that `check_parents` accepts; None = {}.
    """

    def __init__(self, logits: Sequence[torch.Tensor], uses: torch.Tensor, parents: Parents | None = None) -> None:
        self.log_probabilities = [log_softmax(factor, dim=-1) for factor in logits]
        self.uses, self.parents = uses, parents or {}

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of actions.

        Args:
            actions: int64 [B, factors], or [N, B, factors] for N actions of each observation.

        Returns:
            float32 [B] or [N, B].
        """
        columns = actions.unbind(-1)
        parts = [
            self.conditional(factor, columns).expand(*values.shape, -1).gather(-1, values[..., None]).squeeze(-1)
            for factor, values in enumerate(columns)
        ]
        return torch.stack(parts, dim=-1).masked_fill(~self.uses[actions[..., 0]], 0.0).sum(dim=-1)

    def sample(self, count: int, temperature: float = 1.0) -> torch.Tensor:
        """Draw actions with torch's random generator, int64 [count, B, factors].

        Args:
            count: Number of actions of each observation.
            temperature: Divisor of the logits; more than 1 makes the actions more different.
        """

        def draw(log_probabilities: torch.Tensor) -> torch.Tensor:
            rows = (log_probabilities / temperature).softmax(dim=-1).expand(count, -1, -1)
            return torch.multinomial(rows.flatten(0, 1), 1).view(count, -1)

        return self.choose(draw)

    def mode(self) -> torch.Tensor:
        """Return the most probable value of each factor, after that of its parent, int64 [B, factors]."""
        return self.choose(lambda log_probabilities: log_probabilities.argmax(dim=-1))

    def choose(self, value_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Choose the value of each factor, parents first.

        Args:
            value_of: Function from the log-probabilities [B, n] or [N, B, n] of a factor to values [B] or [N, B].

        Returns:
            int64 [B, factors] or [N, B, factors].
        """
        columns: list[torch.Tensor] = []
        for factor in range(len(self.log_probabilities)):
            columns.append(value_of(self.conditional(factor, columns)))
        return self.without_unused(torch.stack(columns, dim=-1))

    def conditional(self, factor: int, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of a factor: [B, n], or [N, B, n] if it has a parent with values [N, B].

        Args:
            factor: Number of the factor.
            values: int64 [B] or [N, B] for each of the factors before it.
        """
        table = self.log_probabilities[factor]
        if factor not in self.parents:
            return table
        return table[torch.arange(len(table), device=table.device), values[self.parents[factor]]]

    def entropy(self) -> torch.Tensor:
        """Return the entropies, float32 [B]: the sum of those of the factors, each times the probability of its use."""
        probabilities = [factor.exp() for factor in self.log_probabilities]
        parts = [-(p * log).sum(dim=-1) for p, log in zip(probabilities, self.log_probabilities, strict=True)]
        for factor, parent in self.parents.items():
            parts[factor] = (probabilities[parent] * parts[factor]).sum(dim=-1)
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


def check_parents(uses: torch.Tensor, parents: Parents) -> None:
    """Check the parents of factors.

    Args:
        uses: bool [types, factors], from `uses_table`.
        parents: Parents of which each is before its child, has no parent, and is used by all types that use its child.

    Raises:
        UserError: There is another parent, or a child that is no factor.
    """
    factors = uses.shape[1]
    for factor, parent in parents.items():
        name = f"algorithm_options.parents[{factor}] is {parent}"
        if factor >= factors:
            raise UserError(f"{name}, but there are {factors} factors, 0 to {factors - 1}")
        if parent >= factor:
            raise UserError(f"{name}, but a parent comes before its child: 1 to {factor - 1}, or 0 for none")
        if parent in parents:
            raise UserError(f"{name}, which has the parent {parents[parent]} itself; a parent has none")
        if unused := (uses[:, factor] & ~uses[:, parent]).nonzero().flatten().tolist():
            raise UserError(
                f"{name}, but type {unused[0]} uses factor {factor} without {parent}; add {parent} to "
                f"algorithm_options.factors_of_type[{unused[0]}]"
            )

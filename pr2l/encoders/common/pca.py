"""Principal components of tokens, exact, from one pass over any number of batches."""

from __future__ import annotations

import torch

from pr2l.core.errors import UserError


class PCA:
    """One basis per VLM layer, since layers differ in scale by orders and one would own a shared basis.

    transform: [..., L, T, D] -> [..., L, T, components]; the mean over the fitted tokens becomes zero.
    """

    def __init__(self, components: int, layers: int, width: int) -> None:
        if not 0 < components <= width:
            raise UserError(f"encoder_options: pca={components} components of tokens {width} wide; use 1 to {width}")
        self.mean = torch.zeros(layers, width)
        self.basis = torch.zeros(layers, components, width)
        self._count = 0
        self._sum = torch.zeros(layers, width, dtype=torch.float64)
        self._products = torch.zeros(layers, width, width, dtype=torch.float64)

    def update(self, states: torch.Tensor, mask: torch.Tensor) -> None:
        """Takes in the real tokens of states [B, L, T, D] with mask [B, T]."""
        tokens = states.transpose(1, 2)[mask].transpose(0, 1).to("cpu", torch.float64)  # [L, N, D]
        self._count += tokens.shape[1]
        self._sum += tokens.sum(dim=1)
        self._products += tokens.transpose(1, 2) @ tokens

    def finish(self) -> None:
        """Makes the basis from all that `update` saw; UserError for fewer tokens than components."""
        components = self.basis.shape[1]
        if self._count < components:
            raise UserError(f"a PCA with {components} components needs as many tokens; it saw {self._count}")
        mean = self._sum / self._count
        covariance = self._products / self._count - mean[:, :, None] * mean[:, None, :]
        _, vectors = torch.linalg.eigh(covariance)  # columns, by rising eigenvalue
        basis = vectors.flip(-1)[:, :, :components].transpose(1, 2)
        # A vector's sign is free: the largest entry is made positive, so that a refit gives the same basis.
        largest = basis.gather(2, basis.abs().argmax(dim=2, keepdim=True))
        self.mean, self.basis = mean.float(), (basis * largest.sign()).float()

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        mean, basis = self.mean.to(states.device), self.basis.to(states.device)
        return (states.float() - mean[:, None]) @ basis.transpose(1, 2)

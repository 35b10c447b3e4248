"""Exact principal component analysis of tokens, in one pass over any number of batches."""

from __future__ import annotations

import torch
from einops import rearrange

from pr2l.core.errors import UserError


class PCA:
    """Principal component analysis with one basis per VLM layer.

    Layers differ in scale by orders of magnitude. In a common basis, one layer would take up all components.

    Args:
        components: C, number of components.
        layers: L, number of layers.
        width: D, width of a token in one layer.

    Attributes:
        mean: float32 [L, D], the mean of the fitted tokens.
        basis: float32 [L, C, D], components in order of falling variance.

    Raises:
        UserError: components is not in 1 to width.
    """

    def __init__(self, components: int, layers: int, width: int) -> None:
        if not 0 < components <= width:
            raise UserError(f"encoder_options: pca={components}, but tokens have a width of {width}; use 1 to {width}")
        self.mean = torch.zeros(layers, width)
        self.basis = torch.zeros(layers, components, width)
        self._count = 0
        self._sum = torch.zeros(layers, width, dtype=torch.float64)
        self._products = torch.zeros(layers, width, width, dtype=torch.float64)

    def update(self, states: torch.Tensor, mask: torch.Tensor) -> None:
        """Add a batch of tokens to the statistics.

        Args:
            states: [B, L, T, D], on any device.
            mask: bool [B, T]; tokens with False are left out.

        Raises:
            UserError: A token is infinite or NaN.
        """
        tokens = rearrange(states, "b l t d -> b t l d")[mask]
        tokens = rearrange(tokens, "n l d -> l n d").to("cpu", torch.float64)
        finite = tokens.isfinite().all(dim=2)
        if not finite.all():
            layer, token = (~finite).nonzero()[0].tolist()
            raise UserError(
                f"the PCA cannot be fitted: {int((~finite).sum())} of {finite.numel()} numbers in the VLM's states are"
                f" infinite or NaN, the first one in layer number {layer} of vlm_options.layers, token {token}. In half"
                " precision, try vlm_options.dtype=float32; otherwise the weights may be damaged."
            )
        self._count += tokens.shape[1]
        self._sum += tokens.sum(dim=1)
        self._products += tokens.transpose(1, 2) @ tokens

    def finish(self) -> None:
        """Compute the mean and the basis from all batches of `update`.

        Raises:
            UserError: There were fewer tokens than components.
        """
        components = self.basis.shape[1]
        if self._count < components:
            raise UserError(
                f"a PCA with {components} components needs at least {components} tokens, but got {self._count}"
            )
        mean = self._sum / self._count
        covariance = self._products / self._count - mean[:, :, None] * mean[:, None, :]
        _, vectors = torch.linalg.eigh(covariance)  # columns, by rising eigenvalue
        basis = rearrange(vectors.flip(-1)[:, :, :components], "l d c -> l c d")
        # A vector's sign is arbitrary: the largest entry is made positive, so that a refit gives the same basis.
        largest = basis.gather(2, basis.abs().argmax(dim=2, keepdim=True))
        self.mean, self.basis = mean.float(), (basis * largest.sign()).float()

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Project states onto the basis.

        Args:
            states: [..., L, T, D].

        Returns:
            float32 [..., L, T, C], on the device of the states; the mean of the fitted tokens becomes zero.
        """
        mean, basis = self.mean.to(states.device), self.basis.to(states.device)
        return (states.float() - mean[:, None]) @ basis.transpose(1, 2)

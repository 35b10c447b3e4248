"""Base class of policy networks, which read tokens, mask and proprio from the observation."""

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from ..common.tokens import Handles, token_shape, without_padding


class TokenNetwork(BaseFeaturesExtractor):
    """Features extractor over token observations; a subclass implements `summarise`.

    The features are `[summary, proprio]`, float32 [B, summary_size + P]. Proprio does not pass through `summarise`, so
    its scale does not depend on the number of tokens.

    Args:
        observation_space: Dict of `tokens` [T, D], `mask` [T] (1 = real token, 0 = padding) and, if the environment
            has it, `proprio` [P]. If it has `handle` [1], an observation may contain a handle in place of tokens and
            mask (see common/tokens.py).
        summary_size: Width of the summary.
    """

    def __init__(self, observation_space: spaces.Dict, summary_size: int):
        proprio = observation_space.spaces.get("proprio")
        proprio_size = proprio.shape[0] if proprio is not None and proprio.shape else 0
        super().__init__(observation_space, features_dim=summary_size + proprio_size)
        self.token_count, self.token_size = token_shape(observation_space)
        handles = observation_space.spaces.get("handle")
        self.table = handles.table if isinstance(handles, Handles) else None

    def summarise(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Summarise the tokens of each observation.

        Args:
            tokens: float32 [B, T, D], zero at padded slots.
            mask: bool [B, T], True = real token.

        Returns:
            float32 [B, summary_size].
        """
        raise NotImplementedError

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens, mask = self.read(observation)
        return self.features(tokens, mask, observation)

    def read(self, observation: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of an observation, [B, T, D] with zeros at padded slots, and the mask [B, T].

        Args:
            observation: Tensors [B, ...] by key, with tokens and mask, or a handle to them.
        """
        if self.table is not None and "handle" in observation:
            return self.table.gather(observation["handle"][:, 0].long())
        mask = observation["mask"]
        return without_padding(observation["tokens"], mask), mask

    def features(self, tokens: torch.Tensor, mask: torch.Tensor, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the features float32 [B, summary_size + P].

        Args:
            tokens: [B, T, D], zero at padded slots.
            mask: [B, T], 1 = real token.
            observation: Observation whose proprio, if any, joins the summary.
        """
        summary = self.summarise(tokens.float(), mask > 0.5)
        if "proprio" not in observation:
            return summary
        return torch.cat([summary, observation["proprio"].float()], dim=-1)

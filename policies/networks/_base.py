"""What every network shares: read the observation's parts, and append proprio after the summary."""

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor


class TokenNetwork(BaseFeaturesExtractor):
    """A features extractor over token observations; a network file fills in `summarise`.

    The observation is a Dict of `tokens` [T, D], `mask` [T] (1 = real token, 0 = padding) and, if the
    environment has it, `proprio` [P]. The features are `[summary, proprio]`, [B, summary_size + P]:
    proprio does not pass through the network, so it weighs the same whatever the number of tokens.
    """

    def __init__(self, observation_space: spaces.Dict, summary_size: int):
        proprio = observation_space.spaces.get("proprio")
        proprio_size = proprio.shape[0] if proprio is not None and proprio.shape else 0
        super().__init__(observation_space, features_dim=summary_size + proprio_size)
        self.token_count, self.token_size = token_shape(observation_space)

    def summarise(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, summary_size] from float32 tokens [B, T, D], which are zero where the mask [B, T] is False."""
        raise NotImplementedError

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = observation["mask"] > 0.5
        # A padded slot may hold anything, even NaN: masked_fill, because NaN * 0 is NaN.
        tokens = observation["tokens"].float().masked_fill(~mask[..., None], 0.0)
        summary = self.summarise(tokens, mask)
        if "proprio" not in observation:
            return summary
        return torch.cat([summary, observation["proprio"].float()], dim=-1)


def token_shape(observation_space: spaces.Dict) -> tuple[int, int]:
    """(T, D) of the tokens. Raises ValueError when the space is not a token observation."""
    tokens, mask = (observation_space.spaces.get(key) for key in ("tokens", "mask"))
    if tokens is None or mask is None or tokens.shape is None or len(tokens.shape) != 2:
        raise ValueError(
            f"a network needs a Dict observation with tokens [T, D] and mask [T], not {observation_space}; "
            "wrap the environment so that an encoder makes its tokens"
        )
    return tokens.shape[0], tokens.shape[1]

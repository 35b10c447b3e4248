"""A frozen VLM that acts as it is prompted, without training."""

from __future__ import annotations

from pr2l.agents.base import Defaults, VLMAgent

__all__ = ["Defaults", "PromptedAgent"]


class PromptedAgent(VLMAgent):
    """A zero-shot agent: all its behaviour is in the messages. Log-probabilities come without gradients."""

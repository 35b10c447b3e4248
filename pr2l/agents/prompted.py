"""A frozen VLM that acts as its prompt says, without training."""

from __future__ import annotations

from pr2l.agents.base import Defaults, VLMAgent

__all__ = ["Defaults", "PromptedAgent"]


class PromptedAgent(VLMAgent):
    """Zero-shot agent, which the messages alone control. Its VLM is frozen, so `log_prob` carries no gradients."""

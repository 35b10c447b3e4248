"""A VLM that acts and learns: its own weights are frozen, and a LoRA adapter is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from pr2l.agents import base
from pr2l.agents.base import Response, VLMAgent
from pr2l.core.config import Seed
from pr2l.core.errors import UserError
from pr2l.core.messages import Message
from pr2l.vlms.base import VLM
from pr2l.vlms.lora import Lora, add_lora, read_lora, save_lora


class Defaults(base.Defaults):
    """Options of a trainable agent."""

    lora: Lora = Field(default_factory=Lora)
    seed: Seed = 0  # of the adapter's initial weights


class TrainableAgent(VLMAgent):
    """Agent with trainable LoRA weights, which receive the gradients of `log_prob`.

    The adapter is put into `vlm` itself, so it also changes that VLM's hidden states. For frozen hidden states, load
    the VLM a second time. A new adapter does not change the output before it is trained.

    Args:
        vlm: A VLM with all its layers, in this process, with floating-point weights.
        options: None = the defaults.
        adapter: Folder of a saved adapter to continue from; None = a new one with the options `options.lora`.

    Raises:
        UserError: The VLM cannot be trained, no layer matches lora.target_modules, or there is no such adapter.
    """

    def __init__(self, vlm: VLM, options: Defaults | None = None, adapter: str | Path | None = None) -> None:
        options = options or Defaults()
        super().__init__(vlm, options)
        if vlm.options.dtype == "int8":
            raise UserError("a VLM with dtype=int8 cannot be trained; load it with dtype=auto")
        if adapter is None:
            self.adapted = add_lora(vlm.model, options.lora, options.seed)
        else:
            self.adapted = read_lora(vlm.model, Path(adapter))
        self.adapted.eval()

    def parameters(self) -> list[nn.Parameter]:
        """Return the LoRA weights, for an optimizer."""
        return list(self.weights().values())

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the LoRA weights by name, not copies."""
        return {name: weight for name, weight in self.adapted.named_parameters() if weight.requires_grad}

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off, as in torch; `sample` and `generate` never use dropout.

        Args:
            mode: True = training, with the dropout of the adapter's options; False = inference.
        """
        self.adapted.train(mode)

    def sample(
        self,
        messages: Sequence[Sequence[Message]],
        n: int = 1,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
    ) -> list[list[Response]]:
        was_training = self.adapted.training
        self.train(False)
        try:
            return super().sample(messages, n, temperature, seed)
        finally:
            self.train(was_training)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Return a context in which the adapter is off, for the reference policy of a KL penalty or of DPO."""
        with self.adapted.disable_adapter():
            yield

    def save(self, folder: str | Path) -> None:
        """Write the adapter to a folder, as safetensors and JSON in peft's format.

        Args:
            folder: Folder to write to, which `adapter` and peft can read. The VLM's own weights are not written.
        """
        save_lora(self.adapted, Path(folder))

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the LoRA weights by name, on the CPU."""
        return {name: weight.detach().cpu().clone() for name, weight in self.weights().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the LoRA weights.

        Args:
            state: Name -> weight, as `state_dict` returned them.

        Raises:
            UserError: The names or shapes are those of another adapter.
        """
        weights = self.weights()
        different = sorted(set(weights) ^ set(state)) or [
            name for name, weight in weights.items() if weight.shape != state[name].shape
        ]
        if different:
            raise UserError(f"the LoRA weights belong to another adapter: {different[0]} differs in name or shape")
        for name, weight in weights.items():
            weight.copy_(state[name])

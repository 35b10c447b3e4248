"""The unmodified model of a checkpoint, which reads one row at a time through transformers' own code.

    inputs of one row --forward--> states of the input
           |--generate, greedy--> answer, and the states of its tokens

The rows of pr2l are compared with it: in `pr2l vlm check`, and in the tests of docs/vlms.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pr2l.vlms.backends.local import chosen_layers

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Unmodified:
    """A model as transformers loads it.

    Args:
        model: The model, in evaluation mode.
        layers: Indices of the chosen layers in the tuple of hidden states.
        eos: Ids of the tokens that end an answer; () = those of the model's own settings.
    """

    model: Any
    layers: Sequence[int]
    eos: Sequence[int] = ()

    @cached_property
    def is_encoder_decoder(self) -> bool:
        """Whether the language model has an encoder for the input and a decoder for the answer."""
        config = self.model.config
        return bool(config.is_encoder_decoder or config.get_text_config().is_encoder_decoder)

    @torch.no_grad()
    def states(self, inputs: Inputs) -> Tensor:
        """Return the states of the input, float32 [L, T, D], of the encoder in an encoder-decoder.

        Args:
            inputs: Inputs of the model for one row.
        """
        start = {}
        if self.is_encoder_decoder:
            start = {"decoder_input_ids": torch.ones(1, 1, dtype=torch.long, device=inputs["input_ids"].device)}
        out = self.model(**inputs, **start, output_hidden_states=True)
        out = getattr(out, "language_model_outputs", out)  # BLIP-2's are nested
        return self._chosen(out.encoder_hidden_states if self.is_encoder_decoder else out.hidden_states)

    @torch.no_grad()
    def answer(self, inputs: Inputs, new_tokens: int) -> list[int]:
        """Return the ids of the greedy answer.

        Args:
            inputs: Inputs of the model for one row.
            new_tokens: Largest number of tokens, the token that ends the answer included.
        """
        sequence = self._generate(inputs, max_new_tokens=new_tokens)
        return sequence[0, self._start(inputs) :].tolist()

    @torch.no_grad()
    def answer_of_length(self, inputs: Inputs, new_tokens: int) -> tuple[list[int], Tensor]:
        """Return the ids of the greedy answer that does not end before N tokens, and their states.

        `generate` has states of all but its last token, so it generates one token more.

        Args:
            inputs: Inputs of the model for one row.
            new_tokens: N, number of tokens.

        Returns:
            N ids, and float32 [L, N, D].
        """
        number = new_tokens + 1
        settings = {"min_new_tokens": number, "max_new_tokens": number}
        out = self._generate(inputs, **settings, output_hidden_states=True, return_dict_in_generate=True)
        steps = out.decoder_hidden_states if self.is_encoder_decoder else out.hidden_states
        start = self._start(inputs)
        ids = out.sequences[0, start : start + new_tokens].tolist()
        return ids, torch.cat([self._chosen(step)[:, -1:] for step in steps[1:]], dim=1)

    def _generate(self, inputs: Inputs, **settings: Any) -> Any:
        ends = {"eos_token_id": list(self.eos)} if self.eos else {}
        return self.model.generate(**inputs, do_sample=False, **ends, **settings)

    def _start(self, inputs: Inputs) -> int:
        """Return the position of an answer's first token: after the start token, or after the input."""
        return 1 if self.is_encoder_decoder else inputs["input_ids"].shape[1]

    def _chosen(self, states: tuple[Tensor, ...]) -> Tensor:
        return chosen_layers(states, self.layers, states[-1].shape[-1])[0]

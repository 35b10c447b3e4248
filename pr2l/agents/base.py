"""Interface of an agent, and the base class of agents on a VLM.

    messages --VLM.generate--> responses                       generate, sample
    messages, responses --one forward pass--> log-probabilities [B]      log_prob

Messages are in transformers' chat format (pr2l/core/messages.py), with an image in each image part. Letters in shapes:
B conversations, R tokens of the longest response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from pr2l.core.errors import UserError
from pr2l.core.messages import Message, split_images
from pr2l.core.types import Frame
from pr2l.vlms.base import VLM
from pr2l.vlms.token_ids import IGNORE_INDEX


class Defaults(BaseModel):
    """Options of every agent on a VLM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: PositiveInt = 64  # of a response, with its end token; an action in a GUI takes 20 to 40


@dataclass(frozen=True)
class Response:
    """A generated text with its token ids, which cannot be recovered from the text alone.

    Args:
        text: Text without special tokens and surrounding space.
        token_ids: Ids as generated; the last one is the end token, unless max_new_tokens came first.
    """

    text: str
    token_ids: tuple[int, ...]


class TokenLogProbs(NamedTuple):
    """Log-probabilities of the tokens of responses.

    Args:
        values: float32 [B, R], 0 where the mask is False.
        mask: bool [B, R], True for the tokens of a response, its end token included.
    """

    values: Tensor
    mask: Tensor


@runtime_checkable
class Agent(Protocol):
    """Interface of an agent: it generates responses to conversations, and computes their log-probability."""

    def generate(
        self,
        messages: Sequence[Sequence[Message]],
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Generate n responses to each conversation.

        Args:
            messages: B conversations, each of which ends with a user message. An image part is
                {"type": "image", "image": uint8 [H, W, 3]}.
            n: Responses per conversation.
            temperature: Sampling temperature; 0 = greedy.
            seed: Seed of sampling.

        Returns:
            B lists of n texts.
        """
        ...

    def log_prob(
        self,
        messages: Sequence[Sequence[Message]],
        responses: Sequence[str | Response],
        temperature: float = 1.0,
    ) -> Tensor:
        """Compute the log-probability of one response to each conversation.

        Args:
            messages: B conversations, as in `generate`.
            responses: B responses.
            temperature: Divisor of the logits, above 0.

        Returns:
            float32 [B], summed over the tokens of each response.
        """
        ...


class VLMAgent:
    """Base class of agents on a VLM.

    Args:
        vlm: A VLM with all its layers: loaded with a `generation` other than none, or with `layers` that include the
            last.
        options: None = the defaults.

    Raises:
        UserError: The VLM was loaded without its upper layers.
    """

    def __init__(self, vlm: VLM, options: Defaults | None = None) -> None:
        vlm.check_complete()
        self.vlm, self.options = vlm, options or Defaults()

    def generate(
        self,
        messages: Sequence[Sequence[Message]],
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Generate responses as text.

        Args:
            messages: As in `sample`.
            n: Responses per conversation, at least 1.
            temperature: Sampling temperature; 0 = greedy.
            seed: Seed of sampling.

        Returns:
            B lists of n texts.

        Raises:
            UserError: As in `sample`.
        """
        return [[response.text for response in row] for row in self.sample(messages, n, temperature, seed)]

    def sample(
        self,
        messages: Sequence[Sequence[Message]],
        n: int = 1,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
    ) -> list[list[Response]]:
        """Generate responses with their token ids.

        Args:
            messages: B conversations, each of which ends with a user message. An image part is
                {"type": "image", "image": uint8 [H, W, 3]}; images may differ in size.
            n: Responses per conversation, at least 1.
            temperature: Sampling temperature; 0 = greedy, with n equal responses.
            seed: Seed of sampling, or one per conversation. A response depends on its seed, its conversation with its
                images, and its index among the n responses, not on the other conversations.

        Returns:
            B lists of n responses.

        Raises:
            UserError: n or temperature is out of range, messages are not valid, or the VLM does not support such a
                conversation.
        """
        if n < 1 or not temperature >= 0:
            raise UserError(f"n={n}, temperature={temperature}: n must be at least 1, and temperature at least 0")
        conversations, images = _split_images(messages)
        rows = self.vlm.generate(
            images, conversations, self.options.max_new_tokens, samples=n, temperature=temperature, seed=seed
        )
        responses = [Response(self.vlm.decode(ids), tuple(ids)) for ids in rows]
        return [responses[start : start + n] for start in range(0, len(responses), n)]

    def log_prob(
        self,
        messages: Sequence[Sequence[Message]],
        responses: Sequence[str | Response],
        temperature: float = 1.0,
    ) -> Tensor:
        """Compute the log-probabilities of responses.

        Args:
            messages: As in `sample`.
            responses: As in `token_log_probs`.
            temperature: Divisor of the logits, above 0.

        Returns:
            float32 [B], summed over the tokens of each response. It carries gradients if weights of the VLM require
            them: the LoRA weights of a `TrainableAgent`, but none of a VLM as `load_vlm` returns it.
        """
        return self.token_log_probs(messages, responses, temperature).values.sum(1)

    def token_log_probs(
        self,
        messages: Sequence[Sequence[Message]],
        responses: Sequence[str | Response],
        temperature: float = 1.0,
    ) -> TokenLogProbs:
        """Compute the log-probabilities of the tokens of responses, with gradients as in `log_prob`.

        Args:
            messages: As in `sample`.
            responses: One response per conversation. A text is tokenised by itself, and the VLM's end token is
                appended; a Response keeps the token ids that were generated.
            temperature: Divisor of the logits, above 0. With the sampling temperature, the result is the
                log-probability with which a response was sampled.

        Raises:
            UserError: temperature is not above 0, messages are not valid, or the VLM does not support such a
                conversation.
            ValueError: The numbers of responses and conversations differ.
        """
        if not temperature > 0:
            raise UserError(f"temperature={temperature}: log-probabilities need a temperature above 0")
        if len(responses) != len(messages):
            raise ValueError(f"{len(responses)} responses for {len(messages)} conversations")
        answers = [response if isinstance(response, str) else response.token_ids for response in responses]
        conversations, images = _split_images(messages)
        inputs, targets = self.vlm.training_inputs(images, conversations, answers)
        logits = self.vlm.model(**inputs).logits.float() / temperature
        real = targets != IGNORE_INDEX
        picked = torch.log_softmax(logits[real], dim=-1).gather(1, targets[real][:, None])[:, 0]
        counts = real.sum(1)
        mask = torch.arange(int(counts.max()), device=real.device) < counts[:, None]
        return TokenLogProbs(picked.new_zeros(mask.shape).masked_scatter(mask, picked), mask)


def _split_images(messages: Sequence[Sequence[Message]]) -> tuple[list[list[Message]], list[list[Frame]]]:
    """Return the conversations, whose image parts then only mark places, and the images of each conversation."""
    pairs = [split_images(conversation, f"messages[{row}]") for row, conversation in enumerate(messages)]
    return [conversation for conversation, _ in pairs], [images for _, images in pairs]

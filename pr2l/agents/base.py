"""The agent contract, and what agents that run on a VLM share.

    messages, images --VLM.generate--> responses                       generate, sample
    messages, images, responses --one forward pass--> log-probabilities [B]      log_prob

Messages are transformers' chat format (pr2l/core/messages.py); the images stand beside them, one list per conversation.
Letters in shapes: B conversations, R tokens of the longest response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from pr2l.core.errors import UserError
from pr2l.core.messages import Message
from pr2l.vlms.base import IGNORE_INDEX, VLM
from pr2l.vlms.conversation import Images


class Defaults(BaseModel):
    """Options of every agent that runs on a VLM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: PositiveInt = 64  # of a response, its end included; an action in a GUI takes 20 to 40


@dataclass(frozen=True)
class Response:
    """A generated text with its tokens, which the text alone does not determine.

    Args:
        text: Without special tokens and surrounding space.
        token_ids: As generated; the id that ends a response is the last, unless max_new_tokens came first.
    """

    text: str
    token_ids: tuple[int, ...]


class TokenLogProbs(NamedTuple):
    """Log-probabilities of the tokens of responses.

    Args:
        values: float32 [B, R], 0 where the mask is False.
        mask: bool [B, R], True at the tokens of a response, its end included.
    """

    values: Tensor
    mask: Tensor


@runtime_checkable
class Agent(Protocol):
    """Generates responses to conversations, and gives the log-probability of a response."""

    def generate(
        self,
        messages: Sequence[Sequence[Message]],
        images: Images,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Generate n responses to each of B conversations: B lists of n texts. temperature 0 = greedy."""
        ...

    def log_prob(
        self,
        messages: Sequence[Sequence[Message]],
        images: Images,
        responses: Sequence[str | Response],
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probability float32 [B] of one response to each conversation, summed over its tokens."""
        ...


class VLMAgent:
    """An agent on a VLM, without gradients.

    Args:
        vlm: Loaded with all its layers (any `generation` but none, or layers that include the last).
        options: None = the defaults.
    """

    def __init__(self, vlm: VLM, options: Defaults | None = None) -> None:
        vlm.check_complete()
        self.vlm, self.options = vlm, options or Defaults()

    def generate(
        self,
        messages: Sequence[Sequence[Message]],
        images: Images,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Generate responses as text. Arguments and errors as of `sample`.

        Returns:
            B lists of n texts.
        """
        return [[response.text for response in row] for row in self.sample(messages, images, n, temperature, seed)]

    def sample(
        self,
        messages: Sequence[Sequence[Message]],
        images: Images,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[Response]]:
        """Generate responses with their tokens.

        Args:
            messages: B conversations, each of which ends with a message of the user.
            images: Per conversation its images, uint8 [H, W, 3], in the order of the messages' image parts; or, where
                each has one, an array uint8 [B, H, W, 3].
            n: Responses per conversation.
            temperature: Of sampling; 0 = greedy, where all n are equal.
            seed: Of sampling. A response depends on the seed, its conversation, its images and its number among the n,
                not on the other conversations.

        Returns:
            B lists of n responses.

        Raises:
            UserError: n or temperature is out of range, or the VLM cannot take such a conversation.
        """
        if n < 1 or not temperature >= 0:
            raise UserError(f"n={n}, temperature={temperature}: n is at least 1, and temperature at least 0.")
        rows = self.vlm.generate(
            images, messages, self.options.max_new_tokens, samples=n, temperature=temperature, seed=seed
        )
        responses = [Response(self.vlm.decode(ids), tuple(ids)) for ids in rows]
        return [responses[start : start + n] for start in range(0, len(responses), n)]

    @torch.no_grad()
    def log_prob(
        self,
        messages: Sequence[Sequence[Message]],
        images: Images,
        responses: Sequence[str | Response],
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probabilities of responses. Arguments as of `token_log_probs`.

        Returns:
            float32 [B], summed over the tokens of each response.
        """
        return self.token_log_probs(messages, images, responses, temperature).values.sum(1)

    def token_log_probs(
        self,
        messages: Sequence[Sequence[Message]],
        images: Images,
        responses: Sequence[str | Response],
        temperature: float = 1.0,
    ) -> TokenLogProbs:
        """Log-probabilities of the tokens of responses, with gradients where torch records them.

        Args:
            messages, images: As of `sample`.
            responses: One per conversation. A text is tokenised alone and ends with the VLM's end token; a Response has
                the tokens that were generated.
            temperature: By which logits are divided, above 0; that of sampling for the probability with which a
                response was sampled.
        """
        if not temperature > 0:
            raise UserError(f"temperature={temperature}: log-probabilities need a temperature above 0.")
        if len(responses) != len(messages):
            raise ValueError(f"{len(responses)} responses for {len(messages)} conversations")
        answers = [response if isinstance(response, str) else response.token_ids for response in responses]
        inputs, targets = self.vlm.training_inputs(images, messages, answers)
        logits = self.vlm.model(**inputs).logits.float() / temperature
        real = targets != IGNORE_INDEX
        picked = torch.log_softmax(logits[real], dim=-1).gather(1, targets[real][:, None])[:, 0]
        counts = real.sum(1)
        mask = torch.arange(int(counts.max()), device=real.device) < counts[:, None]
        return TokenLogProbs(picked.new_zeros(mask.shape).masked_scatter(mask, picked), mask)

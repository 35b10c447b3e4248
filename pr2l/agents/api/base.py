"""Base class of agents whose model runs behind an API: requests in parallel, attempts, and counts of the cost."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import sleep
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from pr2l.agents.api.common.parallel import in_parallel
from pr2l.agents.usage import Usage
from pr2l.core import digest
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.messages import Message, check_messages

MILLION = 1_000_000


class APIOptions(BaseModel):
    """Options of every API."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: PositiveInt = 1024  # of an answer; a model that thinks first needs several hundred
    timeout: PositiveFloat = 120.0  # seconds until an attempt counts as failed
    attempts: PositiveInt = 6  # of a request that fails for a reason that can pass
    first_wait: PositiveFloat = 1.0  # seconds before the second attempt; doubled before each further one
    longest_wait: PositiveFloat = 60.0  # seconds between two attempts at most, also if the server asks for more
    parallel: PositiveInt = 4  # requests at a time
    input_price: NonNegativeFloat = 0.0  # US dollars per million tokens of requests
    output_price: NonNegativeFloat = 0.0  # US dollars per million tokens of answers
    max_dollars: PositiveFloat | None = None  # no request is started after this cost; None = no limit

    @model_validator(mode="after")
    def _limit_has_prices(self) -> Self:
        if self.max_dollars is not None and not (self.input_price or self.output_price):
            raise ValueError("max_dollars needs prices: set input_price and output_price")
        return self


class Reply(NamedTuple):
    """Answer of an API.

    Args:
        text: The text; "" = the API returned none, for example because it blocked the answer.
        input_tokens: Tokens of the request.
        output_tokens: Tokens of the answer.
    """

    text: str
    input_tokens: int
    output_tokens: int


class Unavailable(Exception):
    """Error of an attempt that may succeed later, such as an overloaded server.

    Args:
        problem: What happened, without a key.
        wait: Seconds that the server asks to wait; None = it does not say.
    """

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.problem, self.wait = problem, wait


def is_temporary(status: int) -> bool:
    """Return whether a request with this HTTP status can succeed later: a time-out, too many requests, or an error of
    the server.
    """
    return status in (408, 429) or status >= 500


class APIAgent(ABC):
    """Agent whose model runs behind an API; a subclass implements `send`.

    Args:
        model: The API's name of the model.
        options: The options.

    Attributes:
        usage: What all answers have cost so far.
    """

    def __init__(self, model: str, options: APIOptions) -> None:
        self.model, self.options, self.usage = model, options, Usage()
        self._mutex, self._slots = threading.Lock(), threading.Semaphore(options.parallel)

    @abstractmethod
    def send(self, messages: Sequence[Message], temperature: float, seed: int) -> Reply:
        """Send one request, which several threads may do at the same time.

        Args:
            messages: A conversation that holds its images.
            temperature: Sampling temperature.
            seed: Seed of sampling, below 2^31.

        Raises:
            Unavailable: The attempt failed, and another one may succeed.
            UserError: The request was refused, or the key or the package of the API is missing.
        """

    def key(self) -> dict[str, Any]:
        """Return what an answer depends on beside the question, as JSON values without the key of the API."""
        return {"model": self.model, "max_new_tokens": self.options.max_new_tokens}

    def generate(
        self,
        messages: Sequence[Sequence[Message]],
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Generate n responses to each conversation, with one request per response.

        Args:
            messages: B conversations, each of which ends with a user message. An image part is
                {"type": "image", "image": uint8 [H, W, 3]}.
            n: Responses per conversation, at least 1.
            temperature: Sampling temperature; 0 = greedy, as far as the API has it.
            seed: Seed of sampling. Many APIs promise only to try to repeat an answer.

        Returns:
            B lists of n texts; "" where the API returned no text.

        Raises:
            UserError: An argument is not valid, the API refused a request or was not available in all attempts, the
                limit of the cost is reached, or the key or the package of the API is missing.
        """
        if n < 1 or not temperature >= 0:
            raise UserError(f"n={n}, temperature={temperature}: n must be at least 1, and temperature at least 0")
        rows = [check_messages(row, f"messages[{i}]", with_images=True) for i, row in enumerate(messages)]
        questions = [(row, _seed(seed, index)) for row in rows for index in range(n)]
        threads = self.options.parallel
        answers = dict(in_parallel(lambda row: self._answer(row[0], temperature, row[1]), questions, threads))
        return [[answers[row * n + index] for index in range(n)] for row in range(len(rows))]

    def log_prob(self, *arguments: Any, **options: Any) -> NoReturn:
        """Raise UserError: an API does not return the log-probability of a text that it did not generate."""
        raise UserError(f"{self.model} runs behind an API, which has no log-probabilities; use a local VLM for these")

    def _answer(self, messages: list[Message], temperature: float, seed: int) -> str:
        """Return the answer to one request, in several attempts if needed."""
        options = self.options
        if options.max_dollars is not None and self.usage.dollars >= options.max_dollars:
            raise UserError(f"the answers of {self.model} have cost ${self.usage.dollars:.2f}, the limit max_dollars")
        for attempt in range(options.attempts):
            try:
                with self._slots:  # several threads may call `generate`
                    reply = self.send(messages, temperature, seed)
            except Unavailable as error:
                if attempt + 1 == options.attempts:
                    raise UserError(f"{error.problem} (attempt {attempt + 1} of {options.attempts})") from None
                wait = self._wait(attempt, error.wait)
                Console(stderr=True).print(f"{error.problem}; next attempt in {wait:.0f} s", markup=False)
                sleep(wait)
            else:
                self._count(reply)
                return reply.text
        raise AssertionError("unreachable")

    def _wait(self, attempt: int, asked: float | None) -> float:
        """Return the seconds to wait after an attempt: exponential, up to a quarter more, so that threads spread."""
        doubled = self.options.first_wait * 2.0 ** min(attempt, 30) * random.uniform(1, 1.25)
        return min(max(doubled, asked or 0), self.options.longest_wait)

    def _count(self, reply: Reply) -> None:
        prices = reply.input_tokens * self.options.input_price + reply.output_tokens * self.options.output_price
        with self._mutex:
            self.usage += Usage(1, reply.input_tokens, reply.output_tokens, prices / MILLION)


def _seed(seed: int, index: int) -> int:
    """Return the seed of one of n responses, below 2^31, which is what APIs take."""
    return int(digest.of_json([seed, index]), 16) % 2**31

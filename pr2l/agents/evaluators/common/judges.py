"""Judges: the probability that a model answers "success" to a question.

local model   P(success) / (P(success) + P(failure)), from the log-probabilities of the two answers
API           share of the answers that say "success" among those with a verdict
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator
from typing_extensions import Self

from pr2l.agents.api import load_api
from pr2l.agents.evaluators.common.prompts import verdict
from pr2l.agents.usage import Usage
from pr2l.core.answer_cache import AnswerCache, question_key
from pr2l.core.config import parse_options
from pr2l.core.messages import Message

if TYPE_CHECKING:  # torch takes a second to import, transformers several
    from pr2l.agents.base import Agent

STATUS = re.compile(r"status\W*(success|failure)\b", re.IGNORECASE)


class ModelOptions(BaseModel):
    """Options of every evaluator with a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # a folder with a checkpoint or a Hugging Face Hub id, whose family takes several images and a system message; with
    # an `api`, the name that the API has for the model
    model: str = "HuggingFaceTB/SmolVLM-256M-Instruct"
    api: str | None = None  # API that runs the model, from `pr2l list apis`; None = this machine runs it
    # of the VLM, see `pr2l options vlm`; with an `api`, those of `pr2l options api NAME`
    model_options: dict[str, Any] = Field(default_factory=dict)
    samples: PositiveInt = 1  # answers of an API; the share of "success" among them is the probability
    temperature: NonNegativeFloat = 0.0  # of the answers of an API; above 0 if there are several

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"samples={self.samples} are all equal at temperature=0; set a temperature such as 0.7")
        return self


class Judge(ABC):
    """A model that answers questions with a verdict.

    Args:
        key: JSON values that identify the model and its options in a cache.
        cache: Cache of its answers.

    Attributes:
        instruction: How the model has to answer; the last text of a question.
        parallel: Number of questions that are best asked at the same time, in threads.
    """

    instruction: str
    parallel: int = 1

    def __init__(self, key: dict[str, Any], cache: AnswerCache) -> None:
        self.key, self.cache, self._cached = key, cache, 0

    def probability(self, messages: list[Message]) -> float | None:
        """Return the probability of "success".

        Args:
            messages: The question, with its images.

        Returns:
            0 to 1; None = no answer has a verdict.
        """
        asked = []

        def ask() -> dict[str, Any]:
            asked.append(True)
            return self._ask(messages)

        answer = self.cache.answer([self.key, question_key(messages)], ask)
        self._cached += not asked
        probability: float | None = answer["probability"]
        return probability

    @abstractmethod
    def _ask(self, messages: list[Message]) -> dict[str, Any]:
        """Return {"probability": number or None, ...} for a question."""

    def usage(self) -> Usage:
        """Return what the answers have cost."""
        return Usage(cached=self._cached)


class LocalJudge(Judge):
    """A model on this machine: compares the log-probabilities of two answers.

    Args:
        agent: The model.
        key: As in `Judge`.
        cache: As in `Judge`.
        answers: The answers for success and for failure.
    """

    instruction = f"Answer with `{verdict('success')}` or `{verdict('failure')}`."

    def __init__(
        self,
        agent: Agent,
        key: dict[str, Any],
        cache: AnswerCache,
        answers: tuple[str, str] = (verdict("success"), verdict("failure")),
    ) -> None:
        super().__init__({"judge": "log_prob", **key, "answers": list(answers)}, cache)
        self.agent, self.answers = agent, answers

    def _ask(self, messages: list[Message]) -> dict[str, Any]:
        import torch

        with torch.no_grad():
            values = self.agent.log_prob([messages] * 2, self.answers).double()
        return {"probability": float(torch.softmax(values, dim=0)[0]), "log_probs": values.tolist()}


class VotingJudge(Judge):
    """A model behind an API: its answers vote.

    Args:
        agent: The model, or any other agent that generates text.
        key: As in `Judge`.
        cache: As in `Judge`.
        samples: Number of answers.
        temperature: Sampling temperature; 0 = greedy.
        parallel: Number of requests that the API takes at a time.
    """

    instruction = (
        "First say what the screen has to show after the task, then what the last screenshot shows. End with the line"
        f" `{verdict('success')}` or `{verdict('failure')}`."
    )

    def __init__(
        self,
        agent: Agent,
        key: dict[str, Any],
        cache: AnswerCache,
        samples: int = 1,
        temperature: float = 0.0,
        parallel: int = 1,
    ) -> None:
        super().__init__({"judge": "vote", **key, "samples": samples, "temperature": temperature}, cache)
        self.agent, self.samples, self.temperature, self.parallel = agent, samples, temperature, parallel

    def _ask(self, messages: list[Message]) -> dict[str, Any]:
        [texts] = self.agent.generate([messages], self.samples, self.temperature)
        return {"probability": vote(texts), "texts": texts}

    def usage(self) -> Usage:
        return super().usage() + getattr(self.agent, "usage", Usage())


def vote(texts: Sequence[str]) -> float | None:
    """Return the share of "success" among the answers with a verdict, None if no answer has one.

    Args:
        texts: Answers; the last verdict of each one counts.
    """
    verdicts = [found[-1].lower() for text in texts if (found := STATUS.findall(text))]
    return verdicts.count("success") / len(verdicts) if verdicts else None


def make_judge(options: ModelOptions, cache: AnswerCache) -> Judge:
    """Load the model of an evaluator.

    Args:
        options: The model and its options.
        cache: Cache of its answers.

    Raises:
        UserError: There is no such model, or an option is wrong.
    """
    if options.api is not None:
        agent = load_api(options.api, options.model, options.model_options)
        parallel = agent.options.parallel
        return VotingJudge(agent, agent.key(), cache, options.samples, options.temperature, parallel)
    return LocalJudge(*local_agent(options.model, options.model_options), cache)


def local_agent(model: str, options: Mapping[str, Any]) -> tuple[Agent, dict[str, Any]]:
    """Load a VLM as an agent.

    Args:
        model: A name, a folder or a Hub id, as in `load_vlm`.
        options: Values for the options of the VLM.

    Returns:
        The agent, and the key of its VLM.

    Raises:
        UserError: There is no such model, or an option is wrong.
    """
    from pr2l.agents.prompted import PromptedAgent
    from pr2l.vlms.loading import load_vlm
    from pr2l.vlms.options import Defaults

    vlm = load_vlm(model, parse_options(Defaults, options, "model_options"))
    return PromptedAgent(vlm), vlm.key()

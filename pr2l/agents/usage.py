"""Counts of what the answers of models cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What a number of answers cost; `+` adds two of them.

    Args:
        requests: Requests to an API that were answered; attempts that failed are not counted.
        input_tokens: Tokens of the requests, as the API counts them.
        output_tokens: Tokens of the answers, as the API counts them.
        dollars: Price in US dollars, from the prices in the options of the API.
        cached: Answers that were read from a cache, without a request.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.dollars + other.dollars,
            self.cached + other.cached,
        )

"""Google's Gemini, through the package google-genai."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field, NonNegativeInt

from pr2l.agents.api.base import APIAgent, APIOptions, Reply, Unavailable, is_temporary
from pr2l.agents.api.common.images import image_of, png
from pr2l.agents.api.common.keys import PLAIN_URL, read_key, without_key
from pr2l.core.errors import UserError
from pr2l.core.messages import Message


class GeminiAgent(APIAgent):
    """Agent whose model is a Gemini."""

    options: Defaults

    def key(self) -> dict[str, Any]:
        return {"api": "gemini", **super().key(), "thinking_budget": self.options.thinking_budget}

    def send(self, messages: Sequence[Message], temperature: float, seed: int) -> Reply:
        client = self._client
        from google.genai.errors import APIError

        try:
            response = client.models.generate_content(
                model=self.model,
                contents=[self._content(message) for message in messages if message["role"] != "system"],
                config=self._config(messages, temperature, seed),
            )
        except APIError as error:
            raise self._explained(error) from None
        except Exception as error:
            if not _is_connection_error(error):
                raise
            raise Unavailable(f"Gemini does not answer: {self._text(error)}") from None
        usage = response.usage_metadata
        output_tokens = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0) if usage else 0
        return Reply(response.text or "", (usage.prompt_token_count or 0) if usage else 0, output_tokens)

    @cached_property
    def _key(self) -> str:
        return read_key(self.options.key_variable)

    @cached_property
    def _client(self) -> Any:
        genai, types = _packages()
        # One attempt: APIAgent makes the others, which also waits as long as the server asks for.
        options = types.HttpOptions(
            base_url=self.options.base_url,
            timeout=round(self.options.timeout * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
        )
        return genai.Client(api_key=self._key, http_options=options)

    def _content(self, message: Message) -> Any:
        _, types = _packages()
        parts = [
            types.Part.from_text(text=part["text"])
            if part["type"] == "text"
            else types.Part.from_bytes(data=png(image_of(part)), mime_type="image/png")
            for part in message["content"]
        ]
        return types.Content(role="model" if message["role"] == "assistant" else "user", parts=parts)

    def _config(self, messages: Sequence[Message], temperature: float, seed: int) -> Any:
        _, types = _packages()
        system = [message for message in messages if message["role"] == "system"]
        thinking = self.options.thinking_budget
        return types.GenerateContentConfig(
            system_instruction=self._content(system[0]).parts if system else None,
            temperature=temperature,
            seed=seed,
            max_output_tokens=self.options.max_new_tokens,
            thinking_config=None if thinking is None else types.ThinkingConfig(thinking_budget=thinking),
        )

    def _explained(self, error: Any) -> Exception:
        """Return the error of a response without an answer."""
        problem = f"Gemini: status {error.code}: {self._text(error.message or error)}"
        if not is_temporary(error.code):
            return UserError(problem)
        asked = re.search(r"'retryDelay': '([\d.]+)s'", str(error.details))
        return Unavailable(problem, float(asked[1]) if asked else None)

    def _text(self, value: object) -> str:
        """Return a short text of a message from the server, without the key."""
        return without_key(" ".join(str(value).split()), self._key)[:300]


def _packages() -> tuple[Any, Any]:
    """Import google-genai, which takes a second."""
    try:
        from google import genai
        from google.genai import types
    except ImportError:
        raise UserError("the API gemini needs the package google-genai: pip install 'pr2l[api]'") from None
    return genai, types


def _is_connection_error(error: Exception) -> bool:
    """Return whether an error is a TransportError of httpx or httpx2; google-genai uses the one that is installed."""
    return any(parent.__name__ == "TransportError" for parent in type(error).__mro__)


def create(model: str, options: Defaults) -> GeminiAgent:
    return GeminiAgent(model, options)


class Defaults(APIOptions):
    """Options of the API `gemini`."""

    key_variable: str = "GEMINI_API_KEY"  # environment variable that holds the key
    base_url: str | None = Field(default=None, pattern=PLAIN_URL)  # None = Google's; else that of a proxy
    # tokens that the model may think before it answers; 0 = it does not think, where the model allows that; None = the
    # model's default. They count as tokens of the answer, also for max_new_tokens
    thinking_budget: NonNegativeInt | None = None

"""Any server with OpenAI's chat completions, such as OpenAI's, `vllm serve MODEL`, or llama.cpp's `llama-server`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import httpx2
from pydantic import Field

from pr2l.agents.api.base import APIAgent, APIOptions, Reply, Unavailable, is_temporary
from pr2l.agents.api.common.images import data_url, image_of
from pr2l.agents.api.common.keys import PLAIN_URL, read_key, without_key
from pr2l.core.errors import UserError
from pr2l.core.messages import Message, Part


class OpenAIServer(APIAgent):
    """Agent behind a server with OpenAI's chat completions."""

    options: Defaults

    def key(self) -> dict[str, Any]:
        body = {"body": self.options.body} if self.options.body else {}
        return {"api": "openai_server", "base_url": self.options.base_url, **super().key(), **body}

    def send(self, messages: Sequence[Message], temperature: float, seed: int) -> Reply:
        try:
            response = self._client.post("chat/completions", json=self._body(messages, temperature, seed))
        except httpx2.TransportError as error:
            raise Unavailable(f"{self.options.base_url} does not answer: {self._text(error)}") from None
        if response.status_code != 200:
            self._refuse(response)
        return self._reply(response)

    @cached_property
    def _key(self) -> str:
        return "" if self.options.key_variable is None else read_key(self.options.key_variable)

    @cached_property
    def _client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx2.Client(
            base_url=self.options.base_url.rstrip("/") + "/", headers=headers, timeout=self.options.timeout
        )

    def _body(self, messages: Sequence[Message], temperature: float, seed: int) -> dict[str, Any]:
        talk = [
            {"role": message["role"], "content": [_part(part) for part in message["content"]]} for message in messages
        ]
        body = {"model": self.model, "messages": talk, "max_tokens": self.options.max_new_tokens}
        body |= {"temperature": temperature, "seed": seed, **self.options.body}
        return {key: value for key, value in body.items() if value is not None}

    def _refuse(self, response: httpx2.Response) -> None:
        """Raise the error of a response without an answer."""
        problem = f"{self.options.base_url}: status {response.status_code}: {self._text(response.text)}"
        if is_temporary(response.status_code):
            raise Unavailable(problem, _seconds(response.headers.get("retry-after")))
        raise UserError(problem)

    def _reply(self, response: httpx2.Response) -> Reply:
        try:
            values = response.json()
            text = values["choices"][0]["message"]["content"] or ""
            usage = values.get("usage") or {}
            return Reply(str(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        except (ValueError, LookupError, TypeError, AttributeError):
            answer = self._text(response.text)
            raise UserError(
                f"{self.options.base_url} is no server with chat completions; it answered {answer}"
            ) from None

    def _text(self, value: object) -> str:
        """Return a short text of a message from the server, without the key."""
        return without_key(" ".join(str(value).split()), self._key)[:300]


def _part(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image_url", "image_url": {"url": data_url(image_of(part))}}


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of the header Retry-After, None if it is missing or a date."""
    try:
        return None if retry_after is None else float(retry_after)
    except ValueError:
        return None


def create(model: str, options: Defaults) -> OpenAIServer:
    return OpenAIServer(model, options)


class Defaults(APIOptions):
    """Options of the API `openai_server`."""

    # URL of the server: this is vLLM's; llama.cpp: http://127.0.0.1:8080/v1, OpenAI: https://api.openai.com/v1
    base_url: str = Field(default="http://127.0.0.1:8000/v1", pattern=PLAIN_URL)
    # environment variable that holds the key, which is sent to base_url; None = the server needs no key
    key_variable: str | None = None
    # further fields of a request; null removes a field. OpenAI's models that think need
    # {max_tokens: null, max_completion_tokens: 1024, temperature: null}
    body: dict[str, Any] = Field(default_factory=dict)

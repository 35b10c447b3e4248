"""Chat messages in the format of transformers' `apply_chat_template`.

    [{"role": "system", "content": [{"type": "text", "text": "answer in one word"}]},
     {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the door ?"}]}]

An image part marks the place of an image. The images themselves are separate arguments, in the order of their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from typing_extensions import TypedDict

from pr2l.core.errors import UserError, did_you_mean

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


class TextPart(TypedDict):
    """Part of a message's content that holds text."""

    type: Literal["text"]
    text: str


class ImagePart(TypedDict):
    """Part of a message's content that stands for one image."""

    type: Literal["image"]


Part: TypeAlias = TextPart | ImagePart


class Message(TypedDict):
    """Message of a conversation."""

    role: Role
    content: list[Part]


def text_part(text: str) -> TextPart:
    """Return a part of a message's content that holds text."""
    return {"type": "text", "text": text}


def image_part() -> ImagePart:
    """Return a part of a message's content that stands for one image."""
    return {"type": "image"}


def from_text(text: str, *, images: int = 1, text_first: bool = False) -> list[Message]:
    """Return a conversation of one user message with a text and images.

    Args:
        text: The text; an empty text adds no text part.
        images: Number of images.
        text_first: Put the text before the images; False = after the images.
    """
    texts: list[Part] = [text_part(text)] if text else []
    places: list[Part] = [image_part() for _ in range(images)]
    return [{"role": "user", "content": texts + places if text_first else places + texts}]


def count_images(messages: Iterable[Message]) -> int:
    """Return the number of image parts in the messages."""
    return sum(part["type"] == "image" for message in messages for part in message["content"])


def check_messages(value: object, where: str = "messages") -> list[Message]:
    """Validate messages and return a copy in which every content is a list of parts.

    Args:
        value: Sequence of mappings with the keys `role` and `content`. The content is a list of text and image parts,
            or a string, which becomes one text part.
        where: Name of the value in errors, such as a file.

    Raises:
        UserError: A message has an unknown role, key or type of part, no content, or the wrong type; a system message
            is not the first message; an image is not in a user message.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise UserError(f"{where}: expected a list of at least one message, got {_shorten(value)}. {_EXAMPLE}")
    return [_check_message(message, number, f"{where}[{number}]") for number, message in enumerate(value)]


_EXAMPLE = 'A message is {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}.'


def _check_message(value: object, number: int, where: str) -> Message:
    values = _check_keys(value, ("role", "content"), where)
    role, content = values["role"], values["content"]
    if role not in ROLES:
        hint = did_you_mean(str(role), ROLES)
        raise UserError(f"{where}: unknown role {_shorten(role)}.{hint} Known roles: {', '.join(ROLES)}.")
    if role == "system" and number > 0:
        raise UserError(f"{where}: only the first message can have the role 'system'; use 'user' or move it.")
    if isinstance(content, str):
        content = [text_part(content)]
    if not isinstance(content, Sequence) or isinstance(content, bytes) or not content:
        raise UserError(f"{where}.content: expected text or a list of parts, got {_shorten(content)}. {_EXAMPLE}")
    parts = [_check_part(part, f"{where}.content[{place}]") for place, part in enumerate(content)]
    if role != "user" and any(part["type"] == "image" for part in parts):
        raise UserError(f"{where}: a message with the role {role!r} cannot hold an image; move it to a 'user' message.")
    return {"role": role, "content": parts}


def _check_part(value: object, where: str) -> Part:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping with the key 'type', got {_shorten(value)}. {_EXAMPLE}")
    if value.get("type") == "image":
        _check_keys(value, ("type",), where)
        return image_part()
    if value.get("type") == "text":
        text = _check_keys(value, ("type", "text"), where)["text"]
        if not isinstance(text, str):
            raise UserError(f"{where}.text: expected text, got {_shorten(text)}; put it in quotes.")
        return text_part(text)
    hint = did_you_mean(str(value.get("type")), ("text", "image"))
    raise UserError(f"{where}: unknown type {_shorten(value.get('type'))}.{hint} Known types: text, image.")


def _check_keys(value: object, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping with the keys {' and '.join(keys)}, got {_shorten(value)}.")
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"{where}: the key {missing[0]!r} is missing; expected {' and '.join(keys)}.")
    if unknown := [key for key in value if key not in keys]:
        hint = did_you_mean(str(unknown[0]), keys)
        raise UserError(f"{where}: unknown key {unknown[0]!r}.{hint} Allowed keys: {', '.join(keys)}.")
    return value


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

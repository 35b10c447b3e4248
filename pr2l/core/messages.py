"""Chat messages in the format of transformers' `apply_chat_template`.

    [{"role": "system", "content": [{"type": "text", "text": "answer in one word"}]},
     {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the door ?"}]}]

In a prompt, an image part marks the place of an image; the images themselves are separate arguments, in the order of
their places. In a message for an agent, an image part holds its image:

    {"type": "image", "image": frame}      # frame: uint8 [H, W, 3]

A video is several frames that the VLM reads as one input, with the time between them. In a prompt its part has the
number of frames, which are passed like images; in a message for an agent it holds them:

    {"type": "video", "frames": 4, "fps": 2}
    {"type": "video", "video": frames, "fps": 2}      # frames: uint8 [F, H, W, 3], the oldest first
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from typing_extensions import NotRequired, TypedDict

from pr2l.core.errors import UserError, did_you_mean
from pr2l.core.types import Frame, Frames

FPS = 2.0  # frames per second of a video that does not say it; at this rate Qwen-VL samples videos

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


class TextPart(TypedDict):
    """Part of a message's content that holds text."""

    type: Literal["text"]
    text: str


class ImagePart(TypedDict):
    """Part of a message's content that stands for one image, and holds it in a message for an agent."""

    type: Literal["image"]
    image: NotRequired[Frame]


class VideoPart(TypedDict):
    """Part of a message's content that stands for one video, and holds its frames in a message for an agent."""

    type: Literal["video"]
    fps: float
    frames: NotRequired[int]
    video: NotRequired[Frames]


Part: TypeAlias = TextPart | ImagePart | VideoPart


class Message(TypedDict):
    """Message of a conversation."""

    role: Role
    content: list[Part]


def text_part(text: str) -> TextPart:
    """Return a part of a message's content that holds text."""
    return {"type": "text", "text": text}


def image_part(image: Frame | None = None) -> ImagePart:
    """Return a part of a message's content that stands for one image.

    Args:
        image: The image, uint8 [H, W, 3]; None = the part only marks its place.
    """
    return {"type": "image"} if image is None else {"type": "image", "image": image}


def video_part(frames: int, fps: float = FPS) -> VideoPart:
    """Return a part of a prompt that marks the place of one video.

    Args:
        frames: Number of frames.
        fps: Frames per second.
    """
    return {"type": "video", "frames": frames, "fps": fps}


def from_text(text: str, *, images: int = 1, text_first: bool = False) -> list[Message]:
    """Return a conversation of one user message with a text and images.

    Args:
        text: The text; an empty text adds no text part.
        images: Number of images.
        text_first: Put the text before the images; False = after the images.
    """
    texts: list[Part] = [text_part(text)] if text else []
    image_parts: list[Part] = [image_part() for _ in range(images)]
    return [{"role": "user", "content": texts + image_parts if text_first else image_parts + texts}]


def count_images(messages: Iterable[Message]) -> int:
    """Return the number of images to which the messages refer, with the frames of their videos.

    Args:
        messages: Messages whose contents are lists of parts that mark places, as `check_messages` returns them.
    """
    parts = [part for message in messages for part in message["content"]]
    return sum(part["frames"] if part["type"] == "video" else part["type"] == "image" for part in parts)


def check_messages(value: object, where: str = "messages", *, with_images: bool = False) -> list[Message]:
    """Validate messages and return a copy in which every content is a list of parts.

    Args:
        value: Sequence of mappings with the keys `role` and `content`. The content is a list of text, image and video
            parts, or a string, which becomes one text part.
        where: Name of the value in errors, such as a file.
        with_images: Whether every image or video part has to hold its frames; False = they only mark places.

    Raises:
        UserError: A message has an unknown role, key or type of part, no content, or the wrong type; a system message
            is not the first message; an image or a video is not in a user message; its part holds no frames, or must
            not.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise UserError(f"{where}: expected a list of at least one message, got {_shorten(value)}. {_EXAMPLE}")
    return [_check_message(message, number, f"{where}[{number}]", with_images) for number, message in enumerate(value)]


def split_images(value: object, where: str = "messages") -> tuple[list[Message], list[Frame]]:
    """Validate messages that hold their images, and separate these from the texts.

    Args:
        value: As in `check_messages`, with an image in every image part.
        where: Name of the value in errors.

    Returns:
        The messages, whose image and video parts only mark places, and the images and the frames of videos in the
        order of their places.

    Raises:
        UserError: As in `check_messages`.
    """
    messages = check_messages(value, where, with_images=True)
    images = [image for message in messages for part in message["content"] for image in _images(part)]
    return [{"role": message["role"], "content": _without_images(message["content"])} for message in messages], images


def _images(part: Part) -> list[Frame]:
    if part["type"] == "video":
        return list(part["video"])
    return [part["image"]] if part["type"] == "image" else []


def _without_images(content: list[Part]) -> list[Part]:
    return [_place(part) for part in content]


def _place(part: Part) -> Part:
    if part["type"] == "video":
        return video_part(len(part["video"]), part["fps"])
    return image_part() if part["type"] == "image" else part


_EXAMPLE = 'A message is {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}.'


def _check_message(value: object, number: int, where: str, with_images: bool) -> Message:
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
    parts = [_check_part(part, f"{where}.content[{index}]", with_images) for index, part in enumerate(content)]
    if role != "user" and (kinds := [part["type"] for part in parts if part["type"] != "text"]):
        article = "an" if kinds[0] == "image" else "a"
        raise UserError(
            f"{where}: a message with the role {role!r} cannot have {article} {kinds[0]}; move the {kinds[0]} to a"
            " 'user' message."
        )
    return {"role": role, "content": parts}


def _check_part(value: object, where: str, with_images: bool) -> Part:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping with the key 'type', got {_shorten(value)}. {_EXAMPLE}")
    if value.get("type") == "image":
        return _check_image(value, where) if with_images else _check_place(value, where)
    if value.get("type") == "video":
        return _check_video(value, where) if with_images else _check_video_place(value, where)
    if value.get("type") == "text":
        text = _check_keys(value, ("type", "text"), where)["text"]
        if not isinstance(text, str):
            raise UserError(f"{where}.text: expected text, got {_shorten(text)}; put it in quotes.")
        return text_part(text)
    hint = did_you_mean(str(value.get("type")), ("text", "image", "video"))
    raise UserError(f"{where}: unknown type {_shorten(value.get('type'))}.{hint} Known types: text, image, video.")


def _check_image(value: Mapping[str, Any], where: str) -> ImagePart:
    if "image" not in value:
        raise UserError(
            f"{where}: the image part has no image; add the key 'image' with an array uint8 [H, W, 3], as in"
            ' {"type": "image", "image": frame}.'
        )
    image = _check_keys(value, ("type", "image"), where)["image"]
    advice = "`pr2l.read_image` reads one from a file, `numpy.asarray` converts a PIL image in mode RGB."
    _check_pixels(image, 3, "[H, W, 3]", f"{where}.image", advice)
    return image_part(image)


def _check_place(value: Mapping[str, Any], where: str) -> ImagePart:
    if "image" in value:
        raise UserError(
            f"{where}: unknown key 'image'. An image part of a prompt only marks the place of an image, which is passed"
            " separately (in a run: a frame of the environment); leave out the key."
        )
    _check_keys(value, ("type",), where)
    return image_part()


def _check_video(value: Mapping[str, Any], where: str) -> VideoPart:
    video = _check_keys(value, ("type", "video"), where, ("fps",))["video"]
    advice = "`numpy.stack` makes one from a list of frames."
    _check_pixels(video, 4, "[F, H, W, 3] of F frames", f"{where}.video", advice)
    return {"type": "video", "video": video, "fps": _check_fps(value, where)}


def _check_video_place(value: Mapping[str, Any], where: str) -> VideoPart:
    if "video" in value:
        raise UserError(
            f"{where}: unknown key 'video'. A video part of a prompt only marks the place of a video, whose frames are"
            " passed separately (in a run: frames of the environment); write their number as"
            ' {"type": "video", "frames": 4}.'
        )
    frames = _check_keys(value, ("type", "frames"), where, ("fps",))["frames"]
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise UserError(f"{where}.frames: expected a whole number of at least 1, got {_shorten(frames)}.")
    return video_part(frames, _check_fps(value, where))


def _check_pixels(value: Any, dimensions: int, shape: str, where: str, advice: str) -> None:
    is_array = isinstance(value, np.ndarray)
    if not is_array or value.dtype != np.uint8 or value.ndim != dimensions or value.shape[-1] != 3 or not value.size:
        kind = f"an array {value.dtype} {list(value.shape)}" if is_array else f"a {type(value).__name__}"
        raise UserError(f"{where}: expected an array uint8 {shape}, RGB, got {kind}; {advice}")


def _check_fps(value: Mapping[str, Any], where: str) -> float:
    fps = value.get("fps", FPS)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise UserError(f"{where}.fps: expected the frames per second, a number above 0, got {_shorten(fps)}.")
    return float(fps)


def _check_keys(value: object, keys: tuple[str, ...], where: str, optional: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping with the keys {' and '.join(keys)}, got {_shorten(value)}.")
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"{where}: the key {missing[0]!r} is missing; expected {' and '.join(keys)}.")
    allowed = (*keys, *optional)
    if unknown := [key for key in value if key not in allowed]:
        hint = did_you_mean(str(unknown[0]), allowed)
        raise UserError(f"{where}: unknown key {unknown[0]!r}.{hint} Allowed keys: {', '.join(allowed)}.")
    return value


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Prompts of a batch in one hashable form, and the images to which they refer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from pr2l.core.errors import UserError
from pr2l.core.messages import Message, Part, check_messages, image_part, text_part, video_part
from pr2l.core.types import Frame, Frames
from pr2l.vlms.plain_text import check_unicode

Images: TypeAlias = Frames | Sequence[Sequence[Frame]]
"""One image per row, uint8 [B, H, W, 3]; or a list of uint8 [H, W, 3] per row, of any shapes."""


class Video(NamedTuple):
    """Place of a video in a conversation.

    Args:
        frames: Number of frames, which are among the images of the row.
        fps: Frames per second.
    """

    frames: int
    fps: float


@dataclass(frozen=True)
class Conversation:
    """Messages in a hashable form.

    Args:
        turns: For each message its role and the parts of its content, in order: a text, None for an image, or a Video.
    """

    turns: tuple[tuple[str, tuple[str | Video | None, ...]], ...]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Conversation:
        """Convert messages in transformers' format.

        Args:
            messages: As in `pr2l.core.messages`, without the images themselves.

        Raises:
            UserError: As in `check_messages`.
        """
        checked = check_messages(messages)
        return cls(tuple((message["role"], tuple(map(_hashable, message["content"]))) for message in checked))

    def messages(self) -> list[Message]:
        """Return the messages in transformers' format."""
        turns = [{"role": role, "content": [_part(part) for part in parts]} for role, parts in self.turns]
        return check_messages(turns)

    def __str__(self) -> str:
        return json.dumps(self.turns, ensure_ascii=False)


def _hashable(part: Part) -> str | Video | None:
    if part["type"] == "video":
        return Video(part["frames"], part["fps"])
    return part["text"] if part["type"] == "text" else None


def _part(part: str | Video | None) -> Part:
    if isinstance(part, Video):
        return video_part(*part)
    return image_part() if part is None else text_part(part)


Prompt: TypeAlias = str | Conversation
"""A text, whose place beside its one image the options choose, or a conversation that places its images itself."""

Prompts: TypeAlias = Sequence[str] | Sequence[Sequence[Message]] | Sequence[Prompt]


def visuals(prompt: Prompt) -> tuple[Video | None, ...]:
    """Return the images and videos of a prompt, in order: None for an image.

    Args:
        prompt: A text, which has one image, or a conversation.
    """
    if isinstance(prompt, str):
        return (None,)
    return tuple(part for _, parts in prompt.turns for part in parts if not isinstance(part, str))


def videos_of(prompt: Prompt) -> list[Video]:
    """Return the videos of a prompt.

    Args:
        prompt: A text, which has none, or a conversation.
    """
    return [part for part in visuals(prompt) if part is not None]


def image_count(prompt: Prompt) -> int:
    """Return the number of images that a prompt refers to, with the frames of its videos.

    Args:
        prompt: A text, which has one image, or a conversation.
    """
    return sum(1 if part is None else part.frames for part in visuals(prompt))


def texts_of(prompt: Prompt) -> list[str]:
    """Return the texts of a prompt, without its images and videos.

    Args:
        prompt: A text or a conversation.
    """
    if isinstance(prompt, str):
        return [prompt]
    return [part for _, parts in prompt.turns for part in parts if isinstance(part, str)]


def change_texts(prompt: Prompt, change: Callable[[str], str]) -> Prompt:
    """Return a prompt with a function applied to each of its texts.

    Args:
        prompt: A text or a conversation, which is not changed.
        change: Function from a text to a text.
    """
    if isinstance(prompt, str):
        return change(prompt)
    return Conversation(
        tuple(
            (role, tuple(change(part) if isinstance(part, str) else part for part in parts))
            for role, parts in prompt.turns
        )
    )


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """Convert messages to conversations; texts and conversations are kept.

    Args:
        prompts: One text, conversation or list of messages per row.

    Raises:
        UserError: A conversation is not in the format of `pr2l.core.messages`, has no image, or does not end with a
            user message, which the model answers; or a text has half of a surrogate pair.
    """
    converted = [prompt if isinstance(prompt, str | Conversation) else _conversation(prompt) for prompt in prompts]
    check_unicode([text for prompt in converted for text in texts_of(prompt)])
    return converted


def _conversation(messages: Sequence[Message]) -> Conversation:
    conversation = Conversation.of(messages)
    if not image_count(conversation):
        raise UserError(f"the conversation {conversation} has no image; add a part {{'type': 'image'}} to a message.")
    if conversation.turns[-1][0] != "user":
        raise UserError(
            f"the last message has the role {conversation.turns[-1][0]!r}; the last message, which the model answers,"
            " must have the role 'user'."
        )
    return conversation


def by_row(frames: Frames) -> Images:
    """Return frames [B, K, H, W, 3] as B lists of images, and frames [B, H, W, 3] unchanged.

    Args:
        frames: uint8; K images per row, the oldest first, or one image per row.
    """
    return frames if frames.ndim == 4 else [list(row) for row in frames]


def images_of(prompts: Sequence[Prompt], rows: Sequence[int]) -> list[int]:
    """Return the indices of the images of some rows, among the images of all rows.

    Args:
        prompts: Prompts of all rows.
        rows: Indices of the rows.
    """
    if all(isinstance(prompt, str) for prompt in prompts):
        return list(rows)
    ends = np.cumsum([image_count(prompt) for prompt in prompts]).tolist()
    return [image for row in rows for image in range(ends[row - 1] if row else 0, ends[row])]


def select_rows(frames: Frames, prompts: Sequence[Prompt], rows: Sequence[int]) -> tuple[Frames, list[Prompt]]:
    """Return some rows of a batch: their images and prompts.

    Args:
        frames: uint8 [M, H, W, 3], the images of all rows.
        prompts: Prompts of all rows.
        rows: Indices of the rows; they may repeat.
    """
    return frames[images_of(prompts, rows)], [prompts[row] for row in rows]


def images_by_row(frames: Frames, prompts: Sequence[Prompt]) -> list[Frames]:
    """Return the images of each row, uint8 [images, H, W, 3].

    Args:
        frames: uint8 [M, H, W, 3], the images of all rows.
        prompts: Prompts of all rows.
    """
    return [frames[images_of(prompts, [row])] for row in range(len(prompts))]


def split_videos(frames: Frames, prompts: Sequence[Prompt]) -> tuple[Frames, list[Frames]]:
    """Separate the frames of videos from the images.

    Args:
        frames: uint8 [M, H, W, 3], the images of all rows, with the frames of their videos.
        prompts: Prompts of all rows.

    Returns:
        The images, uint8 [N, H, W, 3], and the frames of each video, uint8 [F, H, W, 3], in the order of `visuals`.
    """
    parts = [part for prompt in prompts for part in visuals(prompt)]
    ends = np.cumsum([1 if part is None else part.frames for part in parts]).tolist()
    images = [end - 1 for part, end in zip(parts, ends, strict=True) if part is None]
    videos = [frames[end - part.frames : end] for part, end in zip(parts, ends, strict=True) if part is not None]
    return frames[images], videos


def check_image_counts(frames: Images, prompts: Sequence[Prompt]) -> None:
    """Check that there are prompts, and as many images as they refer to.

    Args:
        frames: uint8 [M, H, W, 3] with the images of all rows, or a list of images per row.
        prompts: One prompt per row.

    Raises:
        ValueError: There is no prompt, or a number of images differs.
    """
    counts = [image_count(prompt) for prompt in prompts]
    if not isinstance(frames, np.ndarray) and [len(images) for images in frames] != counts:
        raise ValueError(
            f"the rows have {[len(images) for images in frames]} images, but their prompts have {counts} image parts"
            " and frames of videos"
        )
    if not counts or (isinstance(frames, np.ndarray) and len(frames) != sum(counts)):
        raise ValueError(
            f"{len(counts)} prompts with {sum(counts)} images for {len(frames)} frames; pass one text per frame, or"
            " messages with one image part per frame"
        )

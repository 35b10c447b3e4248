"""Prompts: YAML files with named slots, which the context of an episode fills.

A prompt is either one text for one frame:

    text: "where is the {target} ?"
    slots: [target]
    why: the VLM must look for the target, so its states say where it is
    source: written for this project
    vlm_options: {new_tokens: 3}      # recommended, if the defaults of the VLM do not suit this prompt
    segments: [prompt, generated]     # recommended: the most informative tokens

or a conversation in the chat format of transformers (pr2l/core/messages.py), with several images or messages:

    messages:
      - {role: system, content: "you operate a phone ; answer with one action"}
      - role: user
        content:
          - {type: image, frames: 2}      # the last two frames, the older one first
          - {type: text, text: "do this : {instruction} . done so far : {history}"}
    slots: [instruction, history]
    keep_end: [history]      # if a prompt is too long, these slots lose the start of their value, others the end

With `{type: video, frames: 4, fps: 2}` the last four frames are one video instead, for a VLM that takes videos. `fps`
is the number of steps per second, by default 2.

If a frame shows several cameras side by side (pr2l/core/cameras.py), `cameras: [front, wrist]` names them from left to
right, and each image or video says which one it takes: `{type: image, camera: wrist}`.

The value of a slot is inserted unchanged: braces in the value are not slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pr2l.core import registry
from pr2l.core.cameras import history_of, take_cameras, take_images
from pr2l.core.errors import UnknownName, UserError, did_you_mean, explain
from pr2l.core.messages import Message, Part, check_messages, count_images, from_text, text_part
from pr2l.core.types import Contexts, Frames, Segment
from pr2l.core.yaml_files import read_mapping

SUFFIXES = (".yaml", ".yml")


class Prompt(BaseModel):
    """Content of a prompt file. If the text is empty, the VLM gets only the frame.

    `vlm_options` and `segments` are recommendations. `pr2l prompts` uses them; a run does not, because its config
    contains all values that the run uses.
    """

    # arbitrary types: the type of messages has images, which a prompt file has not
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str  # <environment>/<task>/<variant> or a path, for messages
    text: str = ""  # the VLM's prompt; {slot} is replaced by the context's value, {{ and }} are braces
    messages: tuple[Message, ...] = ()  # a conversation instead of a text, with slots in its texts
    cameras: tuple[str, ...] = ()  # cameras that a frame shows side by side, from left to right, for messages
    views: tuple[str, ...] = ()  # camera of each image or video of the messages; set from their key `camera`
    slots: tuple[str, ...] = ()  # names of all slots, each once, in any order
    keep_end: tuple[str, ...] = ()  # slots whose values lose their start, not their end, if the prompt is too long
    why: str  # reason for this wording
    source: str  # where it comes from: a paper's table, or "written for this project"
    vlm_options: dict[str, Any] = Field(default_factory=dict)  # token order, generation and its length, as in a config
    segments: tuple[Segment, ...] = Field(default=("image", "prompt", "generated"), min_length=1)  # to keep

    @model_validator(mode="before")
    @classmethod
    def _check(cls, values: Any) -> Any:
        return _with_checked_messages(values, "messages")

    @property
    def template(self) -> str | list[Message]:
        """Text or messages with unfilled slots, JSON values; part of the key of stored embeddings."""
        return list(self.messages) if self.messages else self.text

    def key(self) -> dict[str, Any]:
        """Return everything that distinguishes two prompts, as JSON values."""
        cameras = {"cameras": list(self.cameras), "views": list(self.views)} if self.cameras else {}
        return {"prompt": self.template, **cameras}

    @property
    def images(self) -> int:
        """Number of frames K of one prompt, with those of its videos: the last K of the episode, the oldest first."""
        if self.cameras:
            return history_of(self._camera_of_images())
        return count_images(self.messages) if self.messages else 1

    def images_in(self, frames: Frames) -> Frames:
        """Return the images of the prompt: the frames themselves, or the cameras in them.

        Args:
            frames: uint8 [B, K, H, W, 3], the oldest first; [B, H, W, 3] if K is 1.

        Returns:
            uint8 [B, N, H, W', 3] for N images, or [B, H, W', 3] for one.

        Raises:
            UserError: The width of a frame is not a multiple of the number of cameras.
        """
        return take_images(frames, self.cameras, self._camera_of_images()) if self.cameras else frames

    def _camera_of_images(self) -> list[str]:
        """Return the camera of each image, with the frames of videos."""
        parts = [part for message in self.messages for part in message["content"] if part["type"] != "text"]
        counts = [part["frames"] if part["type"] == "video" else 1 for part in parts]
        return [view for view, count in zip(self.views, counts, strict=True) for _ in range(count)]

    @property
    def texts(self) -> list[str]:
        """All texts of the prompt with unfilled slots, in order."""
        if not self.messages:
            return [self.text]
        parts = [part for message in self.messages for part in message["content"]]
        return [part["text"] for part in parts if part["type"] == "text"]

    def fill(self, context: Mapping[str, str]) -> str | list[Message]:
        """Return the prompt as a VLM takes it: `render` of a text, or `render_messages` of a conversation.

        Args:
            context: Slot -> value; other keys are ignored.

        Raises:
            UserError: The context lacks a slot.
        """
        return self.render_messages(context) if self.messages else self.render(context)

    def render(self, context: Mapping[str, str]) -> str:
        """Return the text with filled slots.

        Args:
            context: Slot -> value; other keys are ignored.

        Raises:
            UserError: The context lacks a slot, or the prompt is a conversation.
        """
        if self.messages:
            raise UserError(
                f"prompt {self.name!r} is a conversation (`messages:`), but this command needs a single text; use a"
                " prompt with `text:`."
            )
        self._check_context(context)
        return self.text.format_map(context)

    def render_messages(self, context: Mapping[str, str]) -> list[Message]:
        """Return the conversation with filled slots; a prompt with `text:` becomes one message of an image and a text.

        Args:
            context: Slot -> value; other keys are ignored.

        Raises:
            UserError: The context lacks a slot.
        """
        if not self.messages:
            return from_text(self.render(context))
        self._check_context(context)
        return [
            {"role": message["role"], "content": [_fill(part, context) for part in message["content"]]}
            for message in self.messages
        ]

    def _check_context(self, context: Mapping[str, str]) -> None:
        for slot in self.slots:
            if slot not in context:
                raise UserError(
                    f"prompt {self.name!r} has the slot {slot!r}, but the task's context has "
                    f"{', '.join(map(repr, context)) or 'no keys'}.{did_you_mean(slot, context)} "
                    "Use another prompt, or name the slot as the context does."
                )


def load(name: str) -> Prompt:
    """Read a prompt.

    Args:
        name: A name in prompts/, such as "doom/fetch/where", or the path of a YAML file.

    Raises:
        UnknownName: There is no such prompt.
        UserError: The file is not a valid prompt, or `slots` differs from the slots in the texts.
    """
    path = find(name)
    values = read_mapping(path)
    if ("text" in values) == ("messages" in values):
        raise UserError(f"{path}: a prompt has either the key 'text' or the key 'messages'.")
    if "messages" in values and not values["messages"]:
        check_messages([], f"{path}: messages")
    values = _with_checked_messages(values, f"{path}: messages")
    try:
        prompt = Prompt.model_validate({**values, "name": name})
    except ValidationError as error:
        raise UserError(explain(error, str(path), Prompt)) from error
    text_slots = {slot for text in prompt.texts for slot in slots(text, name)}
    if text_slots != set(prompt.slots):
        raise UserError(
            f"prompt {name!r}: the text has the slots {sorted(text_slots)}, but `slots:` lists "
            f"{sorted(prompt.slots)}; list the slots of the text in {path}"
        )
    if unknown := [slot for slot in prompt.keep_end if slot not in text_slots]:
        raise UserError(
            f"prompt {name!r}: keep_end lists {unknown[0]!r}, which is not among its slots {sorted(text_slots)}"
        )
    return prompt


def find(name: str) -> Path:
    """Return the file of a prompt.

    Args:
        name: A name in prompts/, such as "doom/fetch/where", or the path of a YAML file.

    Raises:
        UnknownName: There is no such prompt; the error lists the nearest names.
    """
    path = Path(name).expanduser()
    if path.suffix not in SUFFIXES:
        return registry.load("prompts", name)
    if path.is_file():
        return path
    inside = path.with_suffix("").as_posix().removeprefix("prompts/")
    if inside in (names := registry.names("prompts")):
        return registry.load("prompts", inside)
    raise UnknownName("prompts", inside, names, hint=f"There is no file {name!r} either.")


def is_path(name: str) -> bool:
    """Return whether a prompt's name is the path of a YAML file, not a name in prompts/.

    Args:
        name: Name or path; its suffix decides, and the file need not exist.
    """
    return Path(name).suffix in SUFFIXES


def check(prompt: Prompt, contexts: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the prompt's text for each context.

    Args:
        prompt: The prompt, with a `text`.
        contexts: The contexts.

    Raises:
        UserError: A context lacks a slot, or the prompt is a conversation.
    """
    return [prompt.render(context) for context in contexts]


def task_contexts(task: Any) -> Contexts | None:
    """Return all contexts of a task.

    Args:
        task: A value of an environment's TASKS.

    Returns:
        The contexts; None if the task does not list them, for example because they are free-form instructions.
    """
    contexts = getattr(task, "contexts", None)
    return None if contexts is None else list(contexts)


def slots(text: str, name: str) -> set[str]:
    """Return the names of the slots in a text.

    Args:
        text: The text, with slots in braces.
        name: Name of the prompt in errors.

    Raises:
        UserError: A slot is not a plain name, such as {} or {target.name}, or the braces do not match.
    """
    try:
        fields = [(field, form, conversion) for _, field, form, conversion in Formatter().parse(text)]
    except ValueError as error:
        raise UserError(f"prompt {name!r}: {error} in {text!r}; write {{{{ or }}}} for a brace") from error
    names = {field for field, _, _ in fields if field is not None}
    plain = all(slot.isidentifier() for slot in names) and not any(form or conv for _, form, conv in fields)
    if not plain:
        raise UserError(f"prompt {name!r}: a slot must be a plain name such as {{target}}, unlike in {text!r}")
    return names


def _fill(part: Part, context: Mapping[str, str]) -> Part:
    return text_part(part["text"].format_map(context)) if part["type"] == "text" else part


def _with_checked_messages(values: Any, where: str) -> Any:
    """Return the values of a prompt with checked messages, and the cameras of their images.

    Args:
        values: Values that were not checked yet, or already by this function.
        where: Name of the messages in errors.
    """
    if not isinstance(values, Mapping) or not values.get("messages"):
        if isinstance(values, Mapping) and values.get("cameras"):
            raise UserError("cameras: a prompt with several cameras needs `messages:` with an image for each.")
        return values
    messages, views = _expand_frames(values["messages"]), values.get("views", ())
    if not views:
        messages, views = take_cameras(messages, tuple(values.get("cameras", ())))
    return {**values, "messages": tuple(check_messages(messages, where)), "views": views}


def _expand_frames(value: Any) -> Any:
    """Replace {type: image, frames: k} in messages by k image parts; `check_messages` checks all other parts."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    messages = []
    for message in value:
        if isinstance(message, Mapping) and isinstance(content := message.get("content"), list | tuple):
            parts = [copy for part in content for copy in _image_parts(part)]
            message = {**message, "content": parts}
        messages.append(message)
    return messages


def _image_parts(part: Any) -> list[Any]:
    if not isinstance(part, Mapping) or part.get("type") != "image" or set(part) - {"camera"} != {"type", "frames"}:
        return [part]
    if isinstance(part["frames"], bool) or not isinstance(part["frames"], int) or part["frames"] < 1:
        raise UserError(f"messages: an image's frames must be a whole number of at least 1, got {part['frames']!r}.")
    return [{key: value for key, value in part.items() if key != "frames"} for _ in range(part["frames"])]

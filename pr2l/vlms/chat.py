"""Families whose image is a placeholder that may be anywhere in a conversation.

The checkpoint's chat template, if there is one, formats a text as one user message, or a whole conversation. Then each
placeholder is replaced by the tokens of its image:

    template     <|im_start|>user <image> where is it ?<|im_end|> <|im_start|>assistant
    no template  <image> where is it ?
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

from jinja2 import TemplateError

from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.base import VLM
from pr2l.vlms.conversation import Conversation, Video, videos_of, visuals

Part = TypeVar("Part")
_MARK = "where-the-text-goes"


class ChatVLM(VLM):
    """Base class of VLMs that take the image before or after the text."""

    token_orders = ("image_first", "text_first")
    can_share_prefix = True

    def read_processors(self, path: str) -> None:
        super().read_processors(path)
        self.template = checkpoint.read_chat_template(path, self.tokenizer)

    @property
    def placeholder(self) -> str:
        """Text that represents an image in a formatted conversation."""
        return self.image_token

    @property
    def image_text(self) -> str:
        """Text that replaces the placeholder before tokenisation."""
        return self.image_token * self.image_length()

    @property
    def placeholders(self) -> tuple[str, ...]:
        videos = (self.video_token,) if self.takes_videos else ()
        return tuple(word for word in (self.placeholder, self.image_token, *videos) if word)

    def video_text(self, video: Video) -> str:
        """Return the text that replaces the placeholder of a video before tokenisation.

        Args:
            video: A video, in a family that takes videos.
        """
        return self.video_token * sum(self.video_grids(video))

    def layout(self, text: str) -> list[int]:
        return self._tokenize(self.write(text))

    def conversation_layout(self, conversation: Conversation) -> list[int]:
        return self._tokenize(self.write_conversation(conversation), videos_of(conversation))

    def _tokenize(self, written: str, videos: Sequence[Video] = ()) -> list[int]:
        special = not self.tokenizer.bos_token or not written.startswith(self.tokenizer.bos_token)
        whole = written.replace(self.placeholder, self.image_text)
        if videos:
            first, *others = whole.split(self.video_token)
            pairs = zip(videos, others, strict=True)
            whole = first + "".join(self.video_text(video) + text for video, text in pairs)
        return self.encode(whole, add_special_tokens=special)

    def write(self, text: str) -> str:
        """Format one text, with a placeholder for its image, by the chat template if there is one.

        Args:
            text: The prompt; the option `token_order` puts the image before or after it.
        """
        plain = self._in_order(self.placeholder, text)
        if self.template is None or not self.options.chat_template:
            return "\n".join(plain)
        if self._template_keeps_order:
            return self._fill(self._in_order({"type": "image"}, {"type": "text", "text": text}))
        return self._fill([{"type": "text", "text": "\n".join(plain)}])

    def write_conversation(self, conversation: Conversation) -> str:
        """Format a conversation by the checkpoint's chat template, with a placeholder for each image.

        Args:
            conversation: Messages with any number of images. Without a template, one message is possible, whose parts
                are joined by line breaks.

        Raises:
            UserError: The template refuses the conversation or drops an image or a video, or there are several
                messages and no template.
        """
        if self.template is None or not self.options.chat_template:
            if len(conversation.turns) > 1:
                raise UserError(
                    f"several messages need a chat template, but this {self.config.model_type} has none or was loaded"
                    " with chat_template=false; use one message with the role 'user'."
                )
            return "\n".join(map(self._plain_part, conversation.turns[0][1]))
        try:
            written = self.apply_template(conversation.messages())
        except TemplateError as error:
            raise UserError(
                f"the chat template of this {self.config.model_type} does not accept the conversation {conversation}:"
                f" {error}"
            ) from error
        videos = len(videos_of(conversation))
        kinds = [("an image", self.placeholder, len(visuals(conversation)) - videos)]
        kinds += [("a video", self.video_token, videos)] if self.takes_videos else []
        for kind, word, count in kinds:
            if written.count(word) != count:
                raise UserError(
                    f"the chat template of this {self.config.model_type} leaves out {kind} {word!r} of the"
                    f" conversation {conversation}, or a text of the conversation contains this word."
                )
        return written

    def _plain_part(self, part: str | Video | None) -> str:
        """Return a part of a message without a chat template."""
        if isinstance(part, Video):
            return self.video_token
        return self.placeholder if part is None else part

    def _in_order(self, image: Part, text: Part) -> list[Part]:
        return [image, text] if self.options.token_order == "image_first" else [text, image]

    def _fill(self, content: list[dict[str, str]]) -> str:
        """Format one user message by the chat template."""
        return self.apply_template([{"role": "user", "content": content}])

    def apply_template(self, messages: Any) -> str:
        """Format messages by the chat template, followed by the beginning of the assistant's answer.

        Args:
            messages: Messages in transformers' format, with the types of parts that the template knows.

        Raises:
            jinja2.TemplateError: The template refuses the messages.
        """
        return str(
            self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        )

    @cached_property
    def _template_keeps_order(self) -> bool:
        """Whether the template keeps the order of a message's parts; LLaVA 1.5's template moves images to the front."""
        written = self._fill(self._in_order({"type": "image"}, {"type": "text", "text": _MARK}))
        image, text = written.find(self.placeholder), written.find(_MARK)
        if min(image, text) < 0:
            raise UserError(
                f"the chat template of this {self.config.model_type} leaves out the image {self.placeholder!r}"
                " or the text (it may be the template of the language model); use vlm_options.chat_template=false."
            )
        return (image < text) == (self.options.token_order == "image_first")

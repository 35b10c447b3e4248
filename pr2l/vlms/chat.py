"""Families whose image is a placeholder that may stand anywhere in a written conversation.

The text is written by the checkpoint's own chat template, if it has one, as one turn of a user; then the
placeholder becomes the image tokens:

    template     <|im_start|>user <image> where is it ?<|im_end|> <|im_start|>assistant
    no template  <image> where is it ?
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.base import VLM

Part = TypeVar("Part")
_MARK = "where-the-text-goes"


class ChatVLM(VLM):
    """A VLM that takes image first or text first."""

    token_orders = ("image_first", "text_first")
    can_share_prefix = True

    def read_processors(self, path: str) -> None:
        super().read_processors(path)
        self.template = checkpoint.read_chat_template(path, self.tokenizer)

    @property
    def placeholder(self) -> str:
        """What stands for the image in the conversation."""
        return self.image_token

    @property
    def image_text(self) -> str:
        """What the placeholder becomes."""
        return self.image_token * self.image_length()

    @property
    def image_token(self) -> str:
        """The text of one image token."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    def layout(self, text: str) -> list[int]:
        written = self.write(text)
        special = not self.tokenizer.bos_token or not written.startswith(self.tokenizer.bos_token)
        whole = written.replace(self.placeholder, self.image_text)
        ids: list[int] = self.tokenizer(whole, add_special_tokens=special)["input_ids"]
        return ids

    def write(self, text: str) -> str:
        """The conversation for one text, with a placeholder for the image."""
        plain = self._in_order(self.placeholder, text)
        if self.template is None or not self.options.chat_template:
            return "\n".join(plain)
        if self._template_keeps_order:
            return self._filled(self._in_order({"type": "image"}, {"type": "text", "text": text}))
        return self._filled([{"type": "text", "text": "\n".join(plain)}])

    def _in_order(self, image: Part, text: Part) -> list[Part]:
        return [image, text] if self.options.token_order == "image_first" else [text, image]

    def _filled(self, content: list[dict[str, str]]) -> str:
        """The template, filled with one turn of a user."""
        turn = {"role": "user", "content": content}
        return str(
            self.tokenizer.apply_chat_template(
                [turn], chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        )

    @cached_property
    def _template_keeps_order(self) -> bool:
        """Whether the parts of a turn stay in the order asked for: LLaVA 1.5's template moves images
        forward."""
        written = self._filled(self._in_order({"type": "image"}, {"type": "text", "text": _MARK}))
        image, text = written.find(self.placeholder), written.find(_MARK)
        if min(image, text) < 0:
            raise UserError(
                f"the chat template of this {self.config.model_type} leaves out the image {self.placeholder!r}"
                " or the text (it may be the language model's own); use vlm_options.chat_template=false."
            )
        return (image < text) == (self.options.token_order == "image_first")

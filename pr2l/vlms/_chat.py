"""Families whose image is a placeholder that may stand anywhere in a written conversation.

The text is written by the checkpoint's own chat template, if it has one, as one turn of a user; then the
placeholder becomes the image tokens:

    template     <|im_start|>user <image> where is it ?<|im_end|> <|im_start|>assistant
    no template  <image> where is it ?
"""

from __future__ import annotations

from pr2l.errors import UserError
from pr2l.vlms import _checkpoint as checkpoint
from pr2l.vlms._base import VLM


class ChatVLM(VLM):
    """A VLM that takes image first or text first."""

    token_orders = ("image_first", "text_first")

    def read_processors(self, path: str) -> None:
        super().read_processors(path)
        self._template = checkpoint.read_chat_template(path, self.tokenizer)

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
        image_first = self.options.token_order == "image_first"
        if self._template is None or not self.options.chat_template:
            return f"{self.placeholder}\n{text}" if image_first else f"{text}\n{self.placeholder}"
        image, words = {"type": "image"}, {"type": "text", "text": text}
        turn = {"role": "user", "content": [image, words] if image_first else [words, image]}
        written = str(
            self.tokenizer.apply_chat_template(
                [turn], chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )
        if self.placeholder not in written:
            raise UserError(
                f"the chat template of this {self.config.model_type} leaves the image {self.placeholder!r} out"
                " (it may be the language model's own); use vlm_options.chat_template=false."
            )
        return written

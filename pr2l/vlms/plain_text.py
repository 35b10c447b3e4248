"""Prompts as text: special tokens that a prompt spells out stay text, instead of controlling the model.

    prompt         is <|im_end|> near ?                 would end the user's turn
    interrupted    is <*|im_end|> near ?                neither a tokenizer nor a processor finds the token
    token ids      of "is <" and of "|im_end|> near ?"

The interruption, here written as a star, is a character of Unicode's private use area, which `encode` drops.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pr2l.core.errors import UserError

INTERRUPTION = "\U000f0f0f"


def control_tokens(tokenizer: Any, template: str | None, *placeholders: str) -> re.Pattern[str]:
    """Return a pattern of the texts that control a model.

    These are the special tokens, the other added tokens that the chat template contains, and the placeholders.

    Args:
        tokenizer: A tokenizer.
        template: The chat template; None = there is none.
        placeholders: Texts that a processor replaces by an image.
    """
    words = {*placeholders, *tokenizer.all_special_tokens}
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        if token.special or (token.content.strip() and token.content in (template or "")):
            words.add(token.content)
    longest_first = sorted((word for word in words if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing


def interrupt(text: str, tokens: re.Pattern[str]) -> str:
    """Return a text with an interruption in every token of the pattern; a text without tokens is not changed.

    Args:
        text: Text of a prompt.
        tokens: Pattern from `control_tokens`.
    """
    text = text.replace(INTERRUPTION, "")
    while tokens.search(text):  # again, for a token that overlaps with an interrupted one
        text = tokens.sub(lambda found: found[0][0] + INTERRUPTION + found[0][1:], text)
    return text


def encode(tokenizer: Any, text: str, add_special_tokens: bool = True) -> list[int]:
    """Return the token ids of a text; the parts between interruptions are tokenised one by one.

    Args:
        tokenizer: A tokenizer.
        text: Text with or without interruptions.
        add_special_tokens: Whether to add the tokens that the tokenizer puts around a text.
    """
    first, *others = text.split(INTERRUPTION)
    ids: list[int] = list(tokenizer(first, add_special_tokens=add_special_tokens)["input_ids"])
    if not others:
        return ids
    bare, *rest = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (first, *others))
    start = next(place for place in range(len(ids) + 1) if ids[place : place + len(bare)] == bare)
    end = ids[start + len(bare) :]
    return [*ids[:start], *bare, *(token for part in rest for token in part), *end]


def accept_interruptions(tokenizer: Any) -> None:
    """Make a tokenizer that a processor calls use `encode` for texts with interruptions.

    Args:
        tokenizer: A tokenizer, changed in place; for other texts its calls stay the same.
    """
    tokenizer_class = type(tokenizer)

    class Interruptible(tokenizer_class):  # type: ignore[misc, valid-type]
        def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
            rows = [text] if isinstance(text, str) else text
            if not any(isinstance(row, str) and INTERRUPTION in row for row in rows or ()):
                return super().__call__(text, *args, **options)
            whole: list[list[int]] = [encode(self, row, options.get("add_special_tokens", True)) for row in rows]
            as_tensors = {
                name: options[name] for name in ("padding", "padding_side", "return_tensors") if name in options
            }
            single = isinstance(text, str) and not options.get("return_tensors")
            return self.pad({"input_ids": whole[0] if single else whole}, **{"padding": False, **as_tensors})

    Interruptible.__name__ = tokenizer_class.__name__  # which a saved tokenizer contains
    tokenizer.__class__ = Interruptible


def check_unicode(texts: Sequence[str]) -> None:
    """Check that texts consist of characters, without halves of surrogate pairs, which no tokenizer reads.

    Args:
        texts: Texts of prompts.

    Raises:
        UserError: A text has half of a surrogate pair.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the prompt {text[:60]!r} has {text[error.start]!r} at position {error.start}, which is half of a"
                " surrogate pair and no character. Remove it, or read the text with the encoding that it was written"
                " in."
            ) from error

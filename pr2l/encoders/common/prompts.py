"""Prompts of a batch with a bounded number of tokens, for encoders of a prompted VLM."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, PositiveInt

from pr2l.core.cameras import camera_width
from pr2l.core.errors import TooLong, UserError
from pr2l.core.messages import Message
from pr2l.core.prompt import Prompt
from pr2l.core.types import Context, Contexts, Frames, Hidden
from pr2l.encoders.base import EncoderSource
from pr2l.vlms.conversation import as_prompts, by_row

if TYPE_CHECKING:
    from pr2l.vlms import VLM

Rendered: TypeAlias = str | list[Message]
"""A text for a prompt with `text:`, messages for one with `messages:`."""


class PromptOptions(BaseModel):
    """Options of encoders of a prompted VLM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # longest prompt in tokens of the VLM, with the chat template and without images; longer ones are truncated. None =
    # the longest prompt that the task's contexts give; a task with open contexts (free text) needs a number
    max_prompt_tokens: PositiveInt | None = None

    def unused(self) -> set[str]:
        """Return names of options to leave out of a key.

        An option without effect is left out, so that embeddings stored before the option existed are found.
        """
        return {"max_prompt_tokens"} if self.max_prompt_tokens is None else set()


class PromptRenderer:
    """Renderer of prompts, texts or conversations, with at most `tokens` tokens each.

    A prompt that is too long loses words of its longest slot values, at the end of a value, or at its beginning if the
    slot is one of the prompt's `keep_end` slots. The prompt's own text stays. Values are literal text: a space breaks
    up the VLM's special tokens in them, "<image>" becomes "< image>".

    Args:
        source: Prompt, and the contexts of the task.
        vlm: VLM that counts the tokens and computes the hidden states.
        max_prompt_tokens: Largest number of tokens of a prompt; None = that of the task's longest prompt.

    Attributes:
        tokens: P, the fixed number of prompt tokens, padding included.
        images: K, the number of frames per prompt.
        grids: Number of image tokens of each grid of the prompt's images and videos, see `VLM.grids`.

    Raises:
        UserError: max_prompt_tokens is None and the task's contexts cannot be listed, the prompt's own text is too
            long, it has a video and the VLM takes none, or the width of frames is not a multiple of its cameras.
    """

    def __init__(self, source: EncoderSource, vlm: VLM, max_prompt_tokens: int | None) -> None:
        self._source, self._prompt, self._vlm = source, source.prompt or _EMPTY, vlm
        self._special = _pattern(vlm.special_tokens)
        self._bound, self.images = max_prompt_tokens, self._prompt.images
        camera_width(source.frame_shape[1], self._prompt.cameras)
        templates: Any = [self._prompt.template]
        self.grids = vlm.grids(as_prompts(templates)[0])
        self.tokens = self._longest() if max_prompt_tokens is None else max_prompt_tokens
        self.clear_counts()
        if max_prompt_tokens is not None:
            self._check_bound(max_prompt_tokens)

    def __call__(self, contexts: Contexts) -> list[Rendered]:
        """Return one prompt per context.

        Raises:
            UserError: A context lacks a slot of the prompt.
        """
        return [self._render(context) for context in contexts]

    def hidden(self, frames: Frames, contexts: Contexts) -> Hidden:
        """Return the VLM's hidden states of frames under the prompts of their contexts.

        Args:
            frames: uint8 [B, H, W, 3], or [B, K, H, W, 3], the oldest first, for a prompt with K > 1 images.
            contexts: One context per row.

        Returns:
            Hidden states with P = `tokens` prompt tokens.

        Raises:
            ValueError: The shape of the frames does not match the prompt's number of images.
        """
        shape = ["B", *frames.shape[1:-3], "H", "W", 3]
        expected_shape = ["B", "H", "W", 3] if self.images == 1 else ["B", self.images, "H", "W", 3]
        if shape != expected_shape:
            raise ValueError(f"frames are {frames.shape}; prompt {self._prompt.name!r} needs {expected_shape}")
        prompts: Any = self(contexts)
        return self._vlm.hidden(by_row(self._prompt.images_in(frames)), prompts, prompt_tokens=self.tokens)

    def key(self) -> dict[str, Any]:
        """Return everything that prompts depend on beside the context and the option max_prompt_tokens.

        It contains the prompt's key and, if prompts are truncated, the slots whose end is kept. If the prompt
        spells out special tokens, which earlier versions gave to the model as control tokens, it says that they are
        text.
        """
        prompt = self._source.prompt
        key: dict[str, Any] = prompt.key() if prompt else {"prompt": None}
        if any(self._vlm.plain(text) != text for text in self._prompt.texts):
            key["special_tokens"] = "text"
        return key | ({"keep_end": sorted(self._prompt.keep_end)} if self._bound and self._prompt.keep_end else {})

    def metrics(self) -> dict[str, float]:
        """Return two numbers about the prompts since `clear_counts`.

        They are the fraction of prompts that were truncated, and the number of tokens of the longest prompt before
        truncation. The dict is empty without max_prompt_tokens, because then no prompt is truncated, and before the
        first prompt.
        """
        if self._bound is None or not self._count:
            return {}
        return {"prompt/truncated": self._truncated / self._count, "prompt/longest": self._longest_length}

    def clear_counts(self) -> None:
        """Reset the counts behind `metrics`."""
        self._count, self._truncated, self._longest_length = 0, 0, 0

    def _longest(self) -> int:
        """Return the number of tokens of the task's longest prompt."""
        contexts = self._source.contexts
        if contexts is None and self._prompt.slots:
            raise UserError(
                f"in this task, prompt {self._prompt.name!r} contains free text, so its length is not known in advance;"
                " set encoder_options.max_prompt_tokens, e.g. to 128. Longer prompts are truncated and counted."
            )
        return self._prompt_length([self._fill(context) for context in contexts or [{}]])

    def _check_bound(self, bound: int) -> None:
        """Raise UserError if the prompt does not fit even with empty slots."""
        min_length = self._prompt_length([self._fill(dict.fromkeys(self._prompt.slots, ""))])
        if min_length > bound:
            raise UserError(
                f"encoder_options: max_prompt_tokens={bound}, but the text of prompt {self._prompt.name!r} without its"
                f" slots has {min_length} tokens; use more than {min_length}."
            )

    def _render(self, context: Context) -> Rendered:
        text = self._fill(context)
        if self._bound is None:
            return text
        length = self._length(text)
        self._count, self._longest_length = self._count + 1, max(self._longest_length, length)
        if length <= self.tokens:
            return text
        if not self._truncated:
            warnings.warn(
                f"a prompt of {length} tokens was truncated to max_prompt_tokens={self._bound}; prompt/truncated in the"
                " metrics is the share of such prompts",
                stacklevel=2,
            )
        self._truncated += 1
        return self._truncate(context)

    def _truncate(self, context: Context) -> Rendered:
        """Return the prompt with every slot value cut to the largest number of characters at which the prompt fits."""
        values = {slot: context[slot] for slot in self._prompt.slots}
        fits, too_long = 0, max(map(len, values.values()))  # empty values fit, as was checked
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._length(self._fill(self._cut(values, middle))) <= self.tokens:
                fits = middle
            else:
                too_long = middle
        return self._fill(self._cut(values, fits))

    def _cut(self, values: Context, characters: int) -> Context:
        return {slot: cut(value, characters, keep_end=slot in self._prompt.keep_end) for slot, value in values.items()}

    def _fill(self, context: Context) -> Rendered:
        values = {slot: _break_up(value, self._special) for slot, value in context.items()}
        return self._prompt.fill(values)

    def _length(self, prompt: Rendered) -> int:
        """Return the number of tokens of a prompt; one more than the bound if the VLM has no positions for it."""
        try:
            return self._prompt_length([prompt])
        except TooLong:
            if self._bound is None:
                raise
            return self._bound + 1  # so it is truncated

    def _prompt_length(self, prompts: Any) -> int:
        return self._vlm.prompt_length(prompts)


_EMPTY = Prompt(name="none", why="a run without a prompt", source="pr2l")


def cut(value: str, characters: int, *, keep_end: bool = False) -> str:
    """Return the first or last words of a text, within a number of characters.

    Args:
        value: Text.
        characters: Largest length of the result; if no whole word fits, the result is a part of a word.
        keep_end: Whether to keep the last words, not the first ones.
    """
    if len(value) <= characters:
        return value
    if keep_end:
        return cut(value[::-1], characters)[::-1]
    prefix = value[:characters]
    if not value[characters].isspace() and (words := re.match(r".*\s", prefix, re.DOTALL)):
        prefix = words[0]
    return prefix.rstrip()


def _pattern(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    # Tokens of a single character cannot be broken up. Case is ignored, as some tokenizers ignore it.
    tokens = sorted((token for token in special_tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)), re.IGNORECASE) if tokens else None


def _break_up(value: str, special: re.Pattern[str] | None) -> str:
    while special is not None and special.search(value):
        value = special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", value)
    return value

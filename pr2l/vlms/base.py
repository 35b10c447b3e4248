"""Base class of all VLMs: hidden states, answers and log-probabilities of batches of images and prompts.

    hidden           frames, prompts --batch--> rows --passes--> states of some rows --HiddenBatch--> Hidden
    generate         frames, prompts --batch--> rows --inputs--> transformers' `generate` --> token ids
    training_inputs  frames, prompts, answers --> inputs of the model, targets of its logits

The unmodified Hugging Face model computes everything. Its first forward pass returns the states of the whole input,
each later pass the state of one generated token. In an encoder-decoder model (Florence-2, Flan-T5) image and prompt
states come from the encoder's layers, generated ones from the decoder's.

What a family defines is in family.py, the forward passes are in backends/, the layout of the states is in
hidden_states.py, and the choice of the next token in decoding.py.

Letters in shapes: B rows, M images of all rows, L layers, T tokens, D width of a state, H x W pixels of a frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from pr2l.core.errors import UserError
from pr2l.core.messages import Message
from pr2l.core.types import Frame, Frames, Hidden, Tokens
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.generate import generate_ids, generate_states
from pr2l.vlms.backends.local import Engine, PassStates
from pr2l.vlms.conversation import (
    Images,
    Prompt,
    Prompts,
    as_prompts,
    check_image_counts,
    images_by_row,
    images_of,
    select_rows,
    videos_of,
    visuals,
)
from pr2l.vlms.decoding import Decoding, before_end, take_over_decoding, uniforms
from pr2l.vlms.family import Family
from pr2l.vlms.hidden_states import HiddenBatch
from pr2l.vlms.options import Defaults
from pr2l.vlms.pixels import check_batch
from pr2l.vlms.token_ids import IGNORE_INDEX, append_answers, image_tokens_first, next_token_targets, padded

__all__ = ["VLM", "Defaults"]


class VLM(Family):
    """A frozen vision-language model. A family is a subclass that overrides methods of `Family`.

    Args:
        path: A local folder or a Hub id.
        options: Options of the VLM.

    Attributes:
        eos_token_ids: Ids of the tokens that end an answer.
    """

    def __init__(self, path: str, options: Defaults) -> None:
        super().__init__(path, options)
        self.eos_token_ids = take_over_decoding(self.model, self.tokenizer)
        self._engine = Engine(self) if self.has_engine and "own_passes" not in options.disable else None

    @classmethod
    def load(cls, path: str, options: Defaults | None = None) -> Self:
        """Load a checkpoint.

        Args:
            path: A local folder, a Hub id, or the name of a VLM that ships with pr2l, such as "tiny".
            options: None = the defaults.

        Raises:
            UserError: There is no such checkpoint, or the options do not fit it.
        """
        return cls(checkpoint.locate(path), options or Defaults())

    def key(self) -> dict[str, Any]:
        """Return everything that states depend on beside frame and text, as JSON values."""
        # Earlier versions had "int8" with one scale per tensor, and so other states.
        dtype = "int8 by rows" if self.options.dtype == "int8" else str(self.model.dtype).removeprefix("torch.")
        # An option with its default is left out, so that embeddings stored before the option existed are found.
        defaults = Defaults()
        newer = ("random_weights", "aspect", "frame_size", "special_tokens")
        unused = {name for name in newer if getattr(self.options, name) == getattr(defaults, name)}
        options = self.options.model_dump(mode="json", exclude={"device", "disable", "compile", "server"} | unused)
        return {"family": type(self).__name__, **self._source, **options, "dtype": dtype, "image_size": self.image_size}

    @property
    def image_sees_prompt(self) -> bool:
        """Whether the states of image tokens depend on the prompt."""
        return self.options.token_order == "text_first" or self.image_sees_later_text

    def prompt_length(self, prompts: Iterable[str] | Iterable[Sequence[Message]] | Iterable[Prompt]) -> int:
        """Return P for some prompts: the number of input tokens of the longest prompt, without image tokens.

        Args:
            prompts: At least one text or conversation.
        """
        rows = as_prompts(list(prompts))  # type: ignore[arg-type]
        return max(len(self.token_ids(row)) - sum(self.grids(row)) for row in rows)

    @torch.no_grad()
    def vision(self, frames: Frames) -> Tokens:
        """Return the vision tower's own tokens, which do not depend on a prompt.

        Args:
            frames: uint8 [M, H, W, 3].

        Returns:
            float32 values [M, vision_length, vision_size], with a mask of True.
        """
        self._check_frames(frames)
        pieces = self.buckets.pieces(len(frames))
        parts = [self.image_features(frames[self.buckets.padded(rows)])[: len(rows)] for rows in pieces]
        values = torch.cat(parts).float()
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @torch.no_grad()
    def hidden(self, frames: Images, prompts: Prompts, prompt_tokens: int | None = None) -> Hidden:
        """Return the hidden states of the chosen layers at image, prompt and generated tokens.

        Args:
            frames: One image per row, uint8 [B, H, W, 3]; or, with messages, a list of uint8 [H, W, 3] per row.
            prompts: One text per row, which the options put before or after its image; or one conversation per row in
                transformers' chat format, with a part {"type": "image"} for each of the row's images, or a part
                {"type": "video", "frames": F, "fps": ...} for F images that are one video.
            prompt_tokens: P, at least prompt_length(prompts); None = the longest prompt of this batch.

        Returns:
            float32 states [B, L, I + P + N, D], where I is the largest number of image and video tokens of a row.
            States of padding, and of positions after the end of a generated answer, are zero and masked.

        Raises:
            UserError: The family does not support such a conversation, or a prompt is longer than prompt_tokens.
        """
        frames, row_prompts = self.batch(frames, prompts)
        image_tokens = [sum(self.grids(prompt)) for prompt in row_prompts]
        lengths = [len(self.token_ids(prompt)) for prompt in row_prompts]
        states = HiddenBatch(
            image_tokens,
            [length - count for length, count in zip(lengths, image_tokens, strict=True)],
            prompt_tokens=self._prompt_width(row_prompts, prompt_tokens),
            new_tokens=self.new_tokens,
            shape=(len(self.options.layers), self.hidden_size),
            device=self.model.device,
        )
        for piece in self.buckets.pieces(len(row_prompts)):
            for rows, output in self.passes(*select_rows(frames, row_prompts, piece)):
                is_answer = before_end(output.tokens, self.eos_token_ids)
                answers = [self.decode(ids[real].tolist()) for ids, real in zip(output.tokens, is_answer, strict=True)]
                states.add([piece[row] for row in rows], output, is_answer, answers)
        return states.result()

    def answer(self, frames: Images, prompts: Prompts, new_tokens: int) -> list[str]:
        """Generate greedy answers as text, without special tokens.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.
            new_tokens: Largest number of tokens of an answer, its end token included.

        Returns:
            B texts.
        """
        return [self.decode(ids) for ids in self.generate(frames, prompts, new_tokens)]

    @torch.no_grad()
    def generate(
        self,
        frames: Images,
        prompts: Prompts,
        new_tokens: int,
        *,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
    ) -> list[list[int]]:
        """Generate token ids.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.
            new_tokens: Largest number of tokens of an answer, its end token included.
            samples: Answers per prompt.
            temperature: Sampling temperature; 0 = greedy, with equal samples of a prompt.
            seed: Seed of sampling, or one per row. An answer depends on its seed, its images, its prompt and its index
                among the samples, not on the other rows of the batch.

        Returns:
            B x samples rows of token ids, with the samples of a prompt next to each other. An answer's end token is its
            last.

        Raises:
            UserError: The model was loaded without its upper layers.
        """
        self.check_complete()
        frames, row_prompts = self.batch(frames, prompts)
        longest = 0 if self.is_encoder_decoder else max(len(self.token_ids(prompt)) for prompt in row_prompts)
        self.check_length(longest + new_tokens, f"an answer of {new_tokens} tokens")
        draws, numbers = (samples if temperature else 1), None
        if temperature:
            numbers = uniforms(seed, images_by_row(frames, row_prompts), row_prompts, new_tokens, draws)
        repeated = [row for row in range(len(row_prompts)) for _ in range(draws)]
        frames, row_prompts = select_rows(frames, row_prompts, repeated)
        answers: list[list[int]] = [[]] * len(row_prompts)
        for rows in self._groups(row_prompts):
            decoding = Decoding(self.eos_token_ids, 0, None if numbers is None else numbers[rows], temperature or 1.0)
            tokens = generate_ids(
                self.model,
                self.inputs(*select_rows(frames, row_prompts, rows)),
                decoding,
                new_tokens,
                pad_token_id=self.pad_token_id,
                is_encoder_decoder=self.is_encoder_decoder,
            )
            for row, ids, real in zip(rows, tokens, before_end(tokens, self.eos_token_ids), strict=True):
                answers[row] = ids[real].tolist()
        return answers if temperature else [ids for ids in answers for _ in range(samples)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's token ids, without special tokens and surrounding space.

        Args:
            ids: Ids of one answer, of any length.
        """
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def answer_ids(self, text: str) -> list[int]:
        """Return the token ids of an answer to learn from: those of the text by itself, and the model's end token.

        Args:
            text: The answer.
        """
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], *self.eos_token_ids[:1]]

    def inputs(self, frames: Images, prompts: Prompts) -> dict[str, torch.Tensor]:
        """Return the inputs of the unmodified model.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.

        Returns:
            input_ids and attention_mask [B, T], padded on the right, the `visual_inputs`, and the `text_inputs`.
        """
        frames, prompts = self.batch(frames, prompts)
        ids = self.ids(prompts)
        return {
            "input_ids": ids,
            "attention_mask": self.mask(prompts),
            **self.visual_inputs(frames, prompts),
            **self.text_inputs(prompts, ids),
        }

    def training_inputs(
        self, frames: Images, prompts: Prompts, answers: Sequence[str | Sequence[int]]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the model's inputs with the answers appended, and the targets of its logits.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.
            answers: One answer per row: a text, which is tokenised by itself and gets the model's end token, or token
                ids, which are used as they are.

        Returns:
            Inputs, and targets int64 [B, T] of the logits [B, T, V]. The target at a position is the answer's token
            that the logits at this position predict, and IGNORE_INDEX elsewhere. If the model has the option
            logits_to_keep, T covers only the last positions, from the first answer on.

        Raises:
            UserError: The model was loaded without its upper layers, or an answer contains an image token.
        """
        self.check_complete()
        inputs: dict[str, Any] = self.inputs(frames, prompts)
        answer_ids = [self.answer_ids(answer) if isinstance(answer, str) else list(answer) for answer in answers]
        longest = 0 if self.is_encoder_decoder else inputs["input_ids"].shape[1]
        self.check_length(longest + max(map(len, answer_ids)), "an answer to learn from")
        if self.is_encoder_decoder:
            targets = padded(answer_ids, IGNORE_INDEX).to(self.model.device)
            return inputs | {"labels": targets}, targets
        if any(token in ids for ids in answer_ids for token in self.visual_token_ids):
            raise UserError("an answer contains an image token, but answers have no images; leave it out.")
        lengths = inputs["attention_mask"].sum(1).tolist()
        inputs = append_answers(inputs, answer_ids, self.pad_token_id, self.answer_type)
        targets = next_token_targets(lengths, answer_ids).to(self.model.device)
        if "logits_to_keep" in signature(self.model.forward).parameters:  # logits of image tokens would fill the memory
            inputs["logits_to_keep"] = targets.shape[1] - min(lengths) + 1
            targets = targets[:, -inputs["logits_to_keep"] :]
        return inputs, targets

    def check_complete(self) -> None:
        """Raise UserError if the model was loaded without its upper layers, which answers and training need."""
        if self._engine is not None and not self._engine.is_complete:
            raise UserError(
                f"this {self.config.model_type} was loaded with generation=none, without the layers above those in"
                f" layers={list(self.options.layers)}; for answers or training, load it with generation=greedy."
            )

    # Methods that families and backends call or override.

    def batch(self, frames: Images, prompts: Prompts) -> tuple[Frames, list[Prompt]]:
        """Check a batch and convert it to one form.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.

        Returns:
            The images of all rows in order, uint8 [M, H, W, 3], and the prompts, with messages converted to
            conversations.

        Raises:
            ValueError: The number or the shape of the images does not match the prompts.
            UserError: A conversation is invalid.
        """
        rows = as_prompts(prompts)
        if isinstance(frames, np.ndarray):
            self._check_frames(frames)
        check_image_counts(frames, rows)
        return frames if isinstance(frames, np.ndarray) else self._stacked(frames), rows

    def passes(self, frames: Frames, prompts: list[Prompt]) -> Iterator[tuple[list[int], PassStates]]:
        """Run the model on a batch, and yield the states of rows that go through the model together.

        Args:
            frames: uint8 [M, H, W, 3], from `batch`.
            prompts: B prompts, from `batch`.

        Yields:
            Indices of rows, and their states. Input states are in Hidden's order: image tokens, then the others.
        """
        with_videos = any(map(videos_of, prompts))
        shared = None if self._engine is None or with_videos else self._engine.encode_images(frames)
        for rows in self._groups(prompts):
            of_rows = select_rows(frames, prompts, rows)
            decoding = self._decoding(*of_rows)
            if self._engine is None:
                states = generate_states(
                    self.model,
                    self.inputs(*of_rows),
                    decoding,
                    self.new_tokens,
                    layers=self.options.layers,
                    size=self.hidden_size,
                    is_encoder_decoder=self.is_encoder_decoder,
                )
            elif videos_of(of_rows[1][0]):  # in all of these rows, see `_groups`
                states = self._engine.run_videos(*of_rows, decoding)
            else:
                images = shared.select(images_of(prompts, rows)) if shared else self._engine.encode_images(of_rows[0])
                states = self._engine.run(images, of_rows[1], decoding)
            order = image_tokens_first(self.ids(of_rows[1]), *self.visual_token_ids)
            yield rows, states._replace(inputs=states.inputs[:, :, order])

    # Internals.

    def _groups(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Group the rows that can go through the model together.

        An encoder masks padding on the right exactly, so rows of an encoder-decoder may differ in length. A
        decoder-only model would need padding on the left, which moves the positions of real tokens. Therefore its rows
        of equal layout form a group, without any padding or mask. With `compile` the last row of a group is repeated,
        with the same result.
        """
        groups = defaultdict(list)
        for row, prompt in enumerate(prompts):
            length = 0 if self.is_encoder_decoder else len(self.token_ids(prompt))
            groups[visuals(prompt), self.image_places(prompt), length].append(row)
        return [self.buckets.padded(rows) for rows in groups.values()]

    def _stacked(self, images_of_rows: Sequence[Sequence[Frame]]) -> Frames:
        """Return all images as uint8 [M, H, W, 3]; if they differ in size, as pictures for the vision tower."""
        images = [np.asarray(image) for images in images_of_rows for image in images]
        for image in images:
            self._check_frames(image[None])
        if len({image.shape for image in images}) > 1:
            images = [self.fit(image[None])[0] for image in images]
        return np.stack(images)

    def _decoding(self, frames: Frames, prompts: Sequence[Prompt]) -> Decoding:
        options, steps = self.options, self.new_tokens + 1
        sampled = options.generation == "sample"
        numbers = uniforms(options.seed, images_by_row(frames, prompts), prompts, steps) if sampled else None
        return Decoding(self.eos_token_ids, options.min_new_tokens, numbers, options.temperature)

    @cached_property
    def _source(self) -> dict[str, str]:
        return checkpoint.source(self.config.name_or_path)

    def _prompt_width(self, prompts: Sequence[Prompt], prompt_tokens: int | None) -> int:
        longest = self.prompt_length(prompts)
        if prompt_tokens is not None and prompt_tokens < longest:
            raise UserError(
                f"a prompt of this batch has {longest} tokens, more than prompt_tokens={prompt_tokens};"
                f" use the maximum of prompt_length() over all possible prompts as prompt_tokens."
            )
        return longest if prompt_tokens is None else prompt_tokens

    def _check_frames(self, frames: Frames) -> None:
        check_batch(frames)
        size = self.options.frame_size
        if self.options.aspect == "native" and frames.shape[1:3] not in (size, self.picture_size):
            raise UserError(
                f"frames are {frames.shape[1]} x {frames.shape[2]} pixels, but this VLM was loaded with"
                f" frame_size={list(size or ())}; with aspect=native, load it with the size of the frames."
            )

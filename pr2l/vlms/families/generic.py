"""Any other AutoModelForImageTextToText, with its own Hugging Face processor, checked when it is loaded.

The architecture is unknown here. Therefore a batch of rows of equal and of different length is compared with the
unmodified model, which reads each row alone: the states of the input, and of a generated answer. If only batches
differ, because the unmodified model's own batches do, rows run one by one. If single rows differ, or the states do not
depend on the frame, the model is refused, and the error says why. docs/vlms.md lists the model types.

Frames are made square first; the processor may then cut them into tiles, and image_length() counts the tokens. A family
with a file of its own is faster, and short: see pr2l/vlms/families/llava.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._pytree import tree_map_only

from pr2l.core.errors import TooLong, UserError, first_line
from pr2l.core.types import Frames
from pr2l.vlms import checkpoint, processor
from pr2l.vlms.backends.local import PassStates
from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.conversation import Conversation, Images, Prompt, Prompts, image_count, images_by_row
from pr2l.vlms.pixels import GREY
from pr2l.vlms.plain_text import accept_interruptions
from pr2l.vlms.proof import difference, tolerance, unmodified_states
from pr2l.vlms.resize import pad_to_square, resize
from pr2l.vlms.support import REFUSED

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES: tuple[str, ...] = ()  # for every model_type that no other family lists

SMALL = 32  # side in pixels of a picture that is only for a test of the processor
UNKNOWN_SIZE = 336  # pixels, if the config has no size of the vision tower
QUESTIONS = ["what is this ?", "where am I ?"]
# Three rows of equal length and a longer one. Each has another frame.
ROWS = [QUESTIONS[0], QUESTIONS[0], QUESTIONS[0], "which way do I go to the red door ?"]
IMAGE = -1  # id of an image token in a layout, if the model has no token for it
POSITIONS = "image_embeds_position_mask"  # Kosmos: 1 for image tokens, which have the ids of other tokens
IMAGE_PART = {"type": "image"}
WIDTHS = ("hidden_size", "d_model", "embed_dim")


class Generic(ChatVLM):
    """Family for models of unknown architecture.

    Args:
        path: A local folder or a Hub id.
        options: Options of the VLM.

    Attributes:
        row_by_row: Whether every row runs alone, because the model's own batches are not exact.

    Raises:
        UserError: The states differ from those of the unmodified model, or the processor or the model fails.
    """

    has_engine = False

    def __init__(self, path: str, options: Defaults) -> None:
        self.row_by_row = self._flat = False
        self._failure = f"{path!r} is refused", ""
        with self._explained():
            self._check_type(path)
            super().__init__(path, options)
            self._check_order(path)
            self._prove(path)
        self._failure = "the VLM fails", "try a shorter prompt, or "

    # The checkpoint.

    @staticmethod
    def _check_type(path: str) -> None:
        kind = checkpoint.model_type(path)
        if reason := REFUSED.get(kind or ""):
            raise UserError(f"{path!r} is refused: a {kind} {reason}; {_NEXT_STEP}")

    def read_processors(self, path: str) -> None:
        self._processor = processor.read_processor(path, self.config)
        self.tokenizer, self.image_processor = self._processor.tokenizer, self._processor.image_processor
        self.template = self._processor.chat_template
        accept_interruptions(self.tokenizer)
        # Some processors take one list for all rows. Idefics then puts an image before its text, as token_order says.
        self._flat = not self._reads(self.write(""), flat=False)
        if not self.placeholder and self._reads(self.write(""), flat=True):
            self._flat = True

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.config.is_encoder_decoder or super().is_encoder_decoder)

    def state_size(self) -> int:
        text = self.config.get_text_config()
        return int(next(getattr(text, name) for name in WIDTHS if getattr(text, name, None) is not None))

    def default_image_size(self) -> int:
        try:
            return super().default_image_size()
        except (AttributeError, TypeError):
            return UNKNOWN_SIZE

    # The layout of the input.

    @cached_property
    def image_token_id(self) -> int:
        for holder in (self.config, self._processor):
            for name in ("image_token_id", "image_token_index"):
                if isinstance(token := getattr(holder, name, None), int):
                    return token
        return IMAGE

    @property
    def image_token(self) -> str:
        return "" if self.image_token_id == IMAGE else super().image_token

    @cached_property
    def placeholder(self) -> str:
        names = ("image_token", "image_placeholder_token")
        known = [word for name in names if isinstance(word := getattr(self._processor, name, None), str)]
        if self.template is None or not self.options.chat_template:
            # Some processors insert the image themselves.
            return known[0] if known and not self._has_image("") and self._readable(f"{known[0]}\n") else ""
        without, whole = (self._fill([*image, {"type": "text", "text": QUESTIONS[0]}]) for image in ([], [IMAGE_PART]))
        inserted = inserted_text(without, whole)
        if not inserted and known and not self._has_image(without):
            return known[0]  # which `_template_keeps_order` will not find
        return next((word for word in reversed(known) if word in inserted), inserted)

    def _has_image(self, text: str) -> bool:
        """Return whether the processor inserts an image into a text that does not mention it."""
        inputs = self._readable(text)
        if not inputs or self.image_token_id == IMAGE:
            return bool(inputs)
        return bool((inputs["input_ids"] == self.image_token_id).any())

    def _readable(self, text: str) -> dict[str, torch.Tensor]:
        """Return the processor's result for a formatted text, with nested or flat images; {} if both are errors."""
        return self._reads(text, flat=False) or self._reads(text, flat=True)

    def _reads(self, text: str, *, flat: bool) -> dict[str, torch.Tensor]:
        """Return the processor's result for a formatted text and a black picture; {} if it raises an error."""
        before, self._flat = self._flat, flat
        try:
            return self._process([np.zeros((1, SMALL, SMALL, 3), np.uint8)], [text])
        except Exception:
            return {}
        finally:
            self._flat = before

    def write(self, text: str) -> str:
        if self.placeholder:
            return super().write(text)
        if self.template is None or not self.options.chat_template:
            return text
        return self._fill([{"type": "text", "text": text}])

    def image_length(self) -> int:
        return self._image_length

    @cached_property
    def _image_length(self) -> int:
        return self.layout("").count(self.image_token_id)

    def layout(self, text: str) -> list[int]:
        return self._layout(text, self._black)

    def conversation_layout(self, conversation: Conversation) -> list[int]:
        return self._layout(conversation, np.repeat(self._black, image_count(conversation), axis=0))

    def _layout(self, prompt: Prompt, frames: Frames) -> list[int]:
        inputs = self._inputs(frames, [prompt])
        ids: list[int] = inputs["input_ids"][0].tolist()
        if POSITIONS in inputs:
            places = inputs[POSITIONS][0].tolist()
            ids = [IMAGE if place == 1 else token for token, place in zip(ids, places, strict=True)]
        if self.image_token_id == IMAGE and IMAGE not in ids:
            ids = [IMAGE] * self._image_states * len(frames) + ids
        return ids

    @cached_property
    @torch.no_grad()
    def _image_states(self) -> int:
        """Number of states that a model puts before those of the text for an image, without tokens for them."""
        inputs = self._inputs(self._black, [""])
        if self.is_encoder_decoder:
            return 0
        states = self.model(**inputs, output_hidden_states=True).hidden_states
        return int(states[-1].shape[1] - inputs["input_ids"].shape[1])

    # The inputs.

    def fit(self, frames: Frames) -> Frames:
        if self.options.aspect == "letterbox":
            mean = getattr(self.image_processor, "image_mean", None)
            colour = [GREY] * 3 if mean is None else [round(255 * value) for value in mean]
            frames = pad_to_square(frames, np.array(colour, np.uint8))
        return resize(frames, self.picture_size)

    def inputs(self, frames: Images, prompts: Prompts) -> dict[str, torch.Tensor]:
        frames, rows = self.batch(frames, prompts)
        return self._inputs(frames, [self.plain(row) for row in rows])

    def _inputs(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Return the inputs of the unmodified model for prompts from `plain`."""
        written = [self.write(row) if isinstance(row, str) else self.write_conversation(row) for row in prompts]
        return self._process(images_by_row(self.fit(frames), prompts), written)

    def _process(self, images: Sequence[Frames], written: list[str]) -> dict[str, torch.Tensor]:
        """Return the processor's result for the images and the formatted text of each row."""
        has_bos = self.tokenizer.bos_token and written[0].startswith(self.tokenizer.bos_token)
        pictures = [[Image.fromarray(picture) for picture in of_row] for of_row in images]
        processed = self._processor(
            images=[picture for of_row in pictures for picture in of_row] if self._flat else pictures,
            text=written,
            padding=True,
            padding_side="right",
            return_tensors="pt",
            **({"add_special_tokens": False} if has_bos else {}),  # as in transformers' apply_chat_template
            **self._token_types,
        )
        device, dtype = self.model.device, self.model.dtype
        moved: dict[str, torch.Tensor] = tree_map_only(
            torch.Tensor, lambda value: value.to(device, dtype if value.is_floating_point() else None), dict(processed)
        )
        return moved  # some values are lists

    @cached_property
    def _token_types(self) -> dict[str, bool]:
        """Request for the types of tokens, if the model has positions that depend on them."""
        wanted = "mm_token_type_ids" in signature(self.model.forward).parameters
        return {"return_mm_token_type_ids": True} if wanted else {}

    # The vision tower.

    def image_features(self, frames: Frames) -> torch.Tensor:
        if not hasattr(self.model, "get_image_features"):
            raise UserError(f"a {self.config.model_type} does not return its vision tower's tokens; {_NEXT_STEP}")
        inputs = self.inputs(frames, [""] * len(frames))
        ids, accepted = inputs["input_ids"], signature(self.model.get_image_features).parameters.values()
        any_name = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted)
        names = {parameter.name for parameter in accepted}
        images = {key: value for key, value in inputs.items() if np.shape(value)[:2] != ids.shape[:2] or key in names}
        output = self.model.get_image_features(**{key: images[key] for key in images if any_name or key in names})
        output = getattr(output, "pooler_output", output)
        parts = [output] if isinstance(output, torch.Tensor) else list(output)
        flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        return flat.reshape(len(frames), -1, flat.shape[-1])

    def probe_vision(self) -> tuple[int, int]:
        """Return the number and the width of the vision tower's tokens, or zeros if the model does not return them."""
        try:
            with torch.no_grad():
                features = self.image_features(self._black)
        except (UserError, ValueError, TypeError, RuntimeError, AttributeError, IndexError):
            return 0, 0
        return features.shape[1], features.shape[2]

    # The passes.

    def passes(self, frames: Frames, prompts: list[Prompt]) -> Iterator[tuple[list[int], PassStates]]:
        with self._explained():
            yield from super().passes(frames, prompts)

    def generate(self, frames: Images, prompts: Prompts, new_tokens: int, **options: Any) -> list[list[int]]:
        batch = self.batch(frames, prompts)
        with self._explained():
            return super().generate(*batch, new_tokens, **options)

    def _groups(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [[row] for row in range(len(prompts))] if self.row_by_row else super()._groups(prompts)

    @cached_property
    def max_positions(self) -> int | None:
        return None  # unknown

    @cached_property
    def image_sees_later_text(self) -> bool:
        """Whether image tokens attend to later text, measured with two questions about one picture."""
        if not self.image_length():
            return True  # the image has no states of its own
        first, second = (self._states_of_one(question).inputs[:, :, : self.image_length()] for question in QUESTIONS)
        return difference(first, second) > tolerance(self.options.dtype, self.model.dtype)

    # The proof.

    @property
    def _black(self) -> Frames:
        return np.zeros((1, self.image_size, self.image_size, 3), dtype=np.uint8)

    @property
    def _noise(self) -> Frames:
        shape = (len(ROWS), self.image_size, self.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    @torch.no_grad()
    def _states_of_one(self, question: str) -> PassStates:
        return next(self.passes(self._noise[:1], [question]))[1]

    @torch.no_grad()
    def _prove(self, path: str) -> None:
        """Raise UserError unless the states equal those of the unmodified model and depend on the frame."""
        allowed = tolerance(self.options.dtype, self.model.dtype)
        largest = self._largest_difference()
        if not largest <= allowed:
            self.row_by_row = True
            largest, of_batch = self._largest_difference(), largest
        if not largest <= allowed:
            raise UserError(
                f"{path!r} ({self.config.model_type}) is refused, because its states differ from those of the"
                f" unmodified model by up to {largest:.1e} of the largest state; {_NEXT_STEP}"
            )
        self._check_sees_frame()
        if self.row_by_row:
            warnings.warn(
                f"{path!r} ({self.config.model_type}): in a batch, its states differ by up to {of_batch:.1e} of the"
                " largest state from those of single rows. Therefore pr2l runs its rows one by one, which is exact and"
                " slower.",
                stacklevel=2,
            )

    def _largest_difference(self) -> float:
        """Return the largest difference between the states of the ROWS and those of the unmodified model."""
        frames, found = self._noise, [0.0]
        prompts: list[Prompt] = [*ROWS]
        for rows, states in self.passes(frames, prompts):
            for place, row in enumerate(rows):
                # A model may answer with image tokens, for which a pass over the whole answer would want images.
                end = next((n for n, token in enumerate(states.tokens[place]) if token == self.image_token_id), None)
                ours = [states.inputs[place, :, : len(self.token_ids(prompts[row]))], states.generated[place, :, :end]]
                inputs = self.inputs(frames[row : row + 1], [prompts[row]])
                order = torch.tensor(self._image_first(prompts[row]), device=states.tokens.device)
                theirs = unmodified_states(self, inputs, states.tokens[place : place + 1, :end], order)[0]
                found.append(difference(torch.cat(ours, dim=1), theirs))
        return max(found)

    def _image_first(self, prompt: Prompt) -> list[int]:
        """Return the positions of a prompt's tokens in the order of Hidden: image tokens, then the others."""
        ids = self.token_ids(prompt)
        return sorted(range(len(ids)), key=lambda place: ids[place] != self.image_token_id)

    def _check_sees_frame(self) -> None:
        """Raise UserError if two frames have equal states under one prompt."""
        first, second = (next(self.passes(self._noise[row : row + 1], [ROWS[0]]))[1].inputs for row in (0, 1))
        if torch.equal(first, second):
            raise UserError(
                f"a {self.config.model_type} is refused, because its states are the same for two different frames;"
                f" {_NEXT_STEP}"
            )

    def _check_order(self, path: str) -> None:
        if self.options.token_order == "text_first" and not self.placeholder:
            raise UserError(
                f"token_order='text_first' is not possible with {path!r}: a {self.config.model_type} has its image at a"
                " fixed position. Use token_order=image_first."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the checkpoint's own processor or model into a UserError."""
        try:
            yield
        except (UserError, TooLong, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            kind = getattr(getattr(self, "config", None), "model_type", "model")
            subject, advice = self._failure
            raise UserError(
                f"{subject}: transformers' own processor or model of a {kind} raises {type(error).__name__}:"
                f" {first_line(error)}; {advice}{_NEXT_STEP}"
            ) from error


def inserted_text(without: str, with_image: str) -> str:
    """Return the text that an image adds to a formatted conversation, without white space around it.

    Args:
        without: Conversation without the image.
        with_image: The same with it.
    """
    start = next((n for n, (a, b) in enumerate(zip(without, with_image, strict=False)) if a != b), len(without))
    end = len(with_image) - (len(without) - start)
    return with_image[start:end].strip()


_NEXT_STEP = "use a model of a known family (`pr2l list vlms`), or write one in pr2l/vlms/families/."

load = Generic.load

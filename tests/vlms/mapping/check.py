"""Comparison of a VLM of pr2l with the unmodified model and its own processor, row by row."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiny_parts
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mapping.build import build
from mapping.shrink import IMAGE
from mapping.types import TYPES, Type
from pr2l.vlms import proof
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.unmodified import Unmodified

TEXTS = ["is it near ?", "is it left ?", "where is the medikit ? left of you ?"]  # two of equal length
LAYERS = (0, -2, -1)
NEW_TOKENS = 3
OPTIONS = {"image_size": IMAGE, "layers": LAYERS, "new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}


@dataclass
class Checkpoint:
    """A small checkpoint: the unmodified model, with its own processor.

    Args:
        model_type: Key of transformers' mapping.
        folder: Where to write the checkpoint.
    """

    model_type: str
    folder: Path

    @cached_property
    def processor(self) -> Any:
        return build(self.model_type, self.folder)

    @cached_property
    def model(self) -> Any:
        self.processor  # noqa: B018, writes the folder
        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    @property
    def kind(self) -> Type:
        return TYPES.get(self.model_type, Type())

    def prompt(self, text: str) -> str:
        """Return the text as a user of the processor would write it."""
        if self.processor.chat_template is None:
            image = getattr(self.processor, "image_token", "") if self.kind.image is None else self.kind.image
            return f"{image}\n{text}" if image else text
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        return str(self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))

    def inputs(self, frame: np.ndarray, text: str) -> dict[str, Any]:
        """Return the model's inputs for one row."""
        types = "mm_token_type_ids" in inspect.signature(type(self.model).forward).parameters
        more = {"return_mm_token_type_ids": True} if types else {}
        pictures, prompts = [Image.fromarray(frame)], [self.prompt(text)]
        inputs = self.processor(images=pictures, text=prompts, return_tensors="pt", **more)
        return {
            key: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for key, value in inputs.items()
        }

    @cached_property
    def rows(self) -> Unmodified:
        """The model, which reads one row at a time."""
        return Unmodified(self.model, LAYERS)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} states instead of {tuple(theirs.shape)}"
    return proof.difference(ours, theirs)


def check(small: Checkpoint) -> VLM:
    """Assert that the states and the tokens of a batch are those of the unmodified model; return the VLM.

    Two rows have equally many tokens, the third has more, and the frames differ.
    """
    small.model  # noqa: B018, writes the folder
    vlm = load_vlm(str(small.folder), Defaults(**OPTIONS, device="cpu"))
    frames = tiny_parts.frames(len(TEXTS), IMAGE, IMAGE)
    hidden = vlm.hidden(frames, TEXTS)
    tokens = vlm.generate(frames, TEXTS, NEW_TOKENS)
    for row, text in enumerate(TEXTS):
        mask, spans = hidden.mask[row], hidden.spans
        real = hidden.states[row][:, : spans["prompt"].stop][:, mask[: spans["prompt"].stop]]
        inputs = small.inputs(frames[row], text)
        theirs = small.rows.states(inputs)
        order = image_first(vlm, inputs, theirs.shape[1])
        gap = difference(real, theirs[:, order])
        assert gap < 2e-5, f"row {row}: states of the input differ by {gap:.1e}"
        gap = difference(hidden.states[row][:, spans["generated"]], small.rows.answer_of_length(inputs, NEW_TOKENS)[1])
        assert gap < 2e-5, f"row {row}: states of the answer differ by {gap:.1e}"
        expected = small.rows.answer(inputs, NEW_TOKENS)
        assert tokens[row] == expected, f"row {row}: tokens {tokens[row]} instead of {expected}"
    return vlm


def image_first(vlm: VLM, inputs: dict[str, Any], length: int) -> list[int]:
    """Return the positions of a row's states in pr2l's order: image tokens, then the others."""
    if "image_embeds_position_mask" in inputs:
        image = (inputs["image_embeds_position_mask"][0] == 1).tolist()
    else:
        image = (inputs["input_ids"][0] == vlm.image_token_id).tolist()
    image = [True] * (length - len(image)) + image  # GIT: before the text, without tokens
    return sorted(range(length), key=lambda place: not image[place])

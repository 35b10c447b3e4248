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
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.loading import load_vlm

TEXTS = ["is it near ?", "is it left ?", "where is the medikit ? left of you ?"]  # two of equal length
LAYERS = (0, -2, -1)
NEW_TOKENS = 3
OPTIONS = {"image_size": IMAGE, "layers": LAYERS, "new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}


@dataclass
class Unmodified:
    """The unmodified model of a small checkpoint, with its own processor.

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

    @torch.no_grad()
    def states(self, frame: np.ndarray, text: str) -> torch.Tensor:
        """Return the states of the input [L, T, D], of the encoder in an encoder-decoder."""
        inputs = self.inputs(frame, text)
        if self.model.config.is_encoder_decoder:
            out = self.model(**inputs, decoder_input_ids=torch.tensor([[1]]), output_hidden_states=True)
            return stacked(out.encoder_hidden_states)
        return stacked(self.model(**inputs, output_hidden_states=True).hidden_states)

    @torch.no_grad()
    def answer(self, frame: np.ndarray, text: str) -> list[int]:
        """Return at most NEW_TOKENS greedy tokens."""
        inputs = self.inputs(frame, text)
        sequence = self.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)[0].tolist()
        return sequence[1:] if self.model.config.is_encoder_decoder else sequence[inputs["input_ids"].shape[1] :]

    @torch.no_grad()
    def answer_states(self, frame: np.ndarray, text: str) -> torch.Tensor:
        """Return the states [L, N, D] of NEW_TOKENS greedy tokens, without an end."""
        out = self.model.generate(
            **self.inputs(frame, text),
            do_sample=False,
            min_new_tokens=NEW_TOKENS + 1,
            max_new_tokens=NEW_TOKENS + 1,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        steps = out.decoder_hidden_states if self.model.config.is_encoder_decoder else out.hidden_states
        return torch.cat([stacked(step)[:, -1:] for step in steps[1:]], dim=1)


def stacked(states: Any) -> torch.Tensor:
    """Return LAYERS of a model's tuple of hidden states of one row, [L, T, D]; parallel streams are averaged."""
    width = states[-1].shape[-1]
    chosen = [states[layer][0].reshape(states[layer].shape[1], -1, width) for layer in LAYERS]
    return torch.stack([state.mean(1) for state in chosen])


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} states instead of {tuple(theirs.shape)}"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def check(unmodified: Unmodified) -> VLM:
    """Assert that the states and the tokens of a batch are those of the unmodified model; return the VLM.

    Two rows have equally many tokens, the third has more, and the frames differ.
    """
    unmodified.model  # noqa: B018, writes the folder
    vlm = load_vlm(str(unmodified.folder), Defaults(**OPTIONS, device="cpu"))
    frames = tiny_parts.frames(len(TEXTS), IMAGE, IMAGE)
    hidden = vlm.hidden(frames, TEXTS)
    tokens = vlm.generate(frames, TEXTS, NEW_TOKENS)
    for row, text in enumerate(TEXTS):
        mask, spans = hidden.mask[row], hidden.spans
        real = hidden.states[row][:, : spans["prompt"].stop][:, mask[: spans["prompt"].stop]]
        theirs = unmodified.states(frames[row], text)
        order = image_first(vlm, unmodified, frames[row], text, theirs.shape[1])
        gap = difference(real, theirs[:, order])
        assert gap < 2e-5, f"row {row}: states of the input differ by {gap:.1e}"
        gap = difference(hidden.states[row][:, spans["generated"]], unmodified.answer_states(frames[row], text))
        assert gap < 2e-5, f"row {row}: states of the answer differ by {gap:.1e}"
        expected = unmodified.answer(frames[row], text)
        assert tokens[row] == expected, f"row {row}: tokens {tokens[row]} instead of {expected}"
    return vlm


def image_first(vlm: VLM, unmodified: Unmodified, frame: np.ndarray, text: str, length: int) -> list[int]:
    """Return the positions of a row's states in pr2l's order: image tokens, then the others."""
    inputs = unmodified.inputs(frame, text)
    if "image_embeds_position_mask" in inputs:
        image = (inputs["image_embeds_position_mask"][0] == 1).tolist()
    else:
        image = (inputs["input_ids"][0] == vlm.image_token_id).tolist()
    image = [True] * (length - len(image)) + image  # GIT: before the text, without tokens
    return sorted(range(length), key=lambda place: not image[place])

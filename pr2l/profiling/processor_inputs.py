"""Comparison of pr2l's input of a VLM with that of the checkpoint's own Hugging Face processor.

    picture, question --processor of the checkpoint--> token ids, pixels --+
                      --pr2l--------------------------> token ids, pixels --+--> same text? image tokens, pixels

The picture has the size that the vision tower reads, so that pr2l does not resize it. A difference can be intended:
pr2l gives most families one picture, where the processor cuts it into tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from pr2l.core.errors import UserError, first_line
from pr2l.core.types import Frame
from pr2l.vlms.base import VLM
from pr2l.vlms.processor import read_processor


@dataclass(frozen=True)
class ProcessorInput:
    """The processor's input, compared with that of pr2l.

    Args:
        same_text: Whether the token ids are the same, apart from those of the image.
        image_tokens: Number of image tokens.
        pixels: Largest difference of the pictures' values, relative to the largest value; None = the pictures have
            other shapes.
    """

    same_text: bool
    image_tokens: int
    pixels: float | None


def compare_with_processor(vlm: VLM, path: str, frame: Frame, text: str) -> ProcessorInput | str:
    """Compare the input of a VLM with that of the checkpoint's processor.

    Args:
        vlm: The VLM.
        path: Folder or Hub id from which it was loaded.
        frame: Picture of the size that the vision tower reads.
        text: The question.

    Returns:
        The comparison, or the reason why there is none.
    """
    try:
        processor = read_processor(path, vlm.config)
        theirs = processed(processor, frame, text, vlm.options.token_order)
    except UserError as error:
        return f"there is no processor: {first_line(error)}"
    except Exception as error:  # a processor of any class, with the files of any checkpoint
        return f"the processor raises {type(error).__name__}: {first_line(error)}"
    ours: dict[str, Any] = vlm.inputs(frame[None], [text])
    words = [[token for token in ids if token != vlm.image_token_id] for ids in map(token_ids, (ours, theirs))]
    count = token_ids(theirs).count(vlm.image_token_id)
    if not count and vlm.image_length():
        return "the checkpoint has no chat template, and its processor inserts no image"
    return ProcessorInput(words[0] == words[1], count, difference_of_pixels(ours, theirs))


def processed(processor: Any, frame: Frame, text: str, token_order: str) -> dict[str, Any]:
    """Return the processor's input for a picture and a question, in the chat template if there is one.

    Args:
        processor: A processor of transformers.
        frame: The picture.
        text: The question.
        token_order: "image_first" or "text_first".
    """
    picture = Image.fromarray(frame)
    if processor.chat_template is None:
        return dict(processor(images=picture, text=text, return_tensors="pt"))
    content: list[dict[str, Any]] = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    conversation = [{"role": "user", "content": content if token_order == "image_first" else content[::-1]}]
    settings = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    return dict(processor.apply_chat_template(conversation, **settings))


def token_ids(inputs: dict[str, Any]) -> list[int]:
    """Return the token ids of the only row."""
    return list(inputs["input_ids"][0].tolist())


def difference_of_pixels(ours: dict[str, Any], theirs: dict[str, Any]) -> float | None:
    """Return the largest difference of the pictures' values, relative to the largest; None = other shapes.

    Args:
        ours: Inputs of the model.
        theirs: Inputs of the model by the processor.
    """
    name = next((key for key in theirs if key.startswith("pixel_values")), "")
    expected, actual = theirs.get(name), ours.get(name)
    if not isinstance(expected, torch.Tensor) or actual is None or actual.numel() != expected.numel():
        return None
    expected, actual = expected.float(), actual.float().cpu().reshape(expected.shape)
    return float((actual - expected).abs().max() / expected.abs().max())

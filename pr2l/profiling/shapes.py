"""Checkpoints with the shapes of well-known VLMs and random weights, to measure speed without a model hub.

The time of a pass does not depend on the values of the weights. Use these checkpoints for timing only; their answers
are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

Shape = Callable[..., tuple[Any, Any]]  # (device=, dtype=) -> the model and the image processor

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>")
VICUNA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "heads": 32, "layers": 32}


def checkpoint(name: str, folder: Path) -> str:
    """Return the name or the folder of a VLM for load_vlm, and write the folder if pr2l does not ship the VLM.

    Args:
        name: "tiny", or the name of a shape in SHAPES.
        folder: Folder for the checkpoint.
    """
    if name in SHAPES:
        build(SHAPES[name], folder)
    return str(folder) if name in SHAPES else name


def build(shape: Shape, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint with random weights.

    Args:
        shape: Function that creates the model, such as those in SHAPES.
        folder: Folder for the checkpoint, which load_vlm then loads.
        device: Device that draws the weights; a GPU takes seconds for what takes minutes on a CPU.
        dtype: Data type of the weights in the files.
    """
    model, pixels = shape(device=device, dtype=dtype)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    pixels.save_pretrained(folder)
    if isinstance(model, InstructBlipForConditionalGeneration):
        _tokenizer().save_pretrained(folder / "qformer_tokenizer")


def smolvlm_256m(**how: Any) -> tuple[Any, Any]:
    """Create SmolVLM-256M: 256.5 million parameters; the vision tower does 87 % of the work of a 512-pixel frame.

    Args:
        how: `device` and `dtype` of the model.

    Returns:
        The model and the image processor.
    """
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    return _smolvlm(vision, {**text, "num_key_value_heads": 3, "vocab_size": 49280}, 512, **how)


def _smolvlm(vision: dict[str, int], text: dict[str, int], image: int, **how: Any) -> tuple[Any, Any]:
    words = _tokenizer()
    config = SmolVLMConfig(
        vision_config={**vision, "image_size": image, "patch_size": 16},
        text_config={"model_type": "llama", "max_position_embeddings": 8192, **text, **_ids(words)},
        scale_factor=4,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
    )
    pixels = SmolVLMImageProcessorPil(size={"longest_edge": image}, max_image_size={"longest_edge": image})
    return _random(SmolVLMForConditionalGeneration, config, **how), pixels


def llava_7b(image: int = 336, **how: Any) -> tuple[Any, Any]:
    """Create LLaVA 1.5 7B: 7.06 billion parameters; the language model does over nine tenths of the work.

    Args:
        image: Side of the square input in pixels; 336 gives 576 image tokens, 224 gives 256.
        how: `device` and `dtype` of the model.

    Returns:
        The model and the image processor.
    """
    return _llava(VICUNA_7B, image, 24, 1024, **how)


def llava_small(**how: Any) -> tuple[Any, Any]:
    """Create a LLaVA at 1/50 of the size, for CPUs; the language model does nine tenths of the work, as in LLaVA.

    Args:
        how: `device` and `dtype` of the model.

    Returns:
        The model and the image processor.
    """
    return _llava({"hidden_size": 512, "intermediate_size": 1376, "heads": 8, "layers": 32}, 224, 6, 256, **how)


def _llava(text: dict[str, int], image: int, layers: int, width: int, **how: Any) -> tuple[Any, Any]:
    words = _tokenizer()
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "image_size": image,
            "patch_size": 14,
        },
        text_config=_vicuna(text, words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pixels = CLIPImageProcessorPil(size={"height": image, "width": image}, do_center_crop=False)
    return _random(LlavaForConditionalGeneration, config, **how), pixels


def instructblip_7b(**how: Any) -> tuple[Any, Any]:
    """Create InstructBLIP with Vicuna 7B: 7.91 billion parameters, a larger ViT than LLaVA's, and 32 image tokens.

    Args:
        how: `device` and `dtype` of the model.

    Returns:
        The model and the image processor.
    """
    return _instructblip(VICUNA_7B, {}, {}, 224, **how)  # ViT-g and the Q-Former are the defaults of their configs


def _instructblip(
    text: dict[str, int], vision: dict[str, int], qformer: dict[str, int], image: int, **how: Any
) -> tuple[Any, Any]:
    words = _tokenizer()
    config = InstructBlipConfig(
        vision_config={"image_size": image, **vision},
        qformer_config=qformer,
        text_config=_vicuna(text, words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pixels = BlipImageProcessorPil(size={"height": image, "width": image})
    return _random(InstructBlipForConditionalGeneration, config, **how), pixels


def _vicuna(text: dict[str, int], words: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": text["hidden_size"],
        "intermediate_size": text["intermediate_size"],
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        "num_key_value_heads": text["heads"],
        **_ids(words),
    }


def _random(model_class: Any, config: Any, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Create a model with random weights; on the device "meta" it has a shape, but takes no memory."""
    torch.manual_seed(0)
    with torch.device(device):
        return model_class._from_config(config, dtype=dtype)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Create a tokenizer with an unknown token per word or punctuation mark, for prompts of about the usual length."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        additional_special_tokens=list(SPECIAL[5:]),
    )


def _ids(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")}


SHAPES: dict[str, Shape] = {
    "smolvlm-256m": smolvlm_256m,
    "llava-7b": llava_7b,
    "llava-7b-224px": partial(llava_7b, 224),
    "instructblip-7b": instructblip_7b,
    "llava-small": llava_small,
}

# Shapes of the same architectures that take milliseconds on a CPU, to try a measurement before it runs on a GPU.
_TEXT = {"hidden_size": 64, "intermediate_size": 128, "heads": 2, "layers": 4}
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMOLVLM_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
_LLAVA: Shape = partial(_llava, _TEXT, 56, 2, 64)
SMALL_SHAPES: dict[str, Shape] = {
    "smolvlm-256m": partial(_smolvlm, _VISION, {**_SMOLVLM_TEXT, "num_key_value_heads": 1, "vocab_size": 512}, 128),
    "llava-7b": _LLAVA,
    "llava-7b-224px": _LLAVA,
    "instructblip-7b": partial(_instructblip, _TEXT, _VISION, {**_VISION, "encoder_hidden_size": 32}, 56),
}

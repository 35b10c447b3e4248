"""Parts that all builders use: a trained tokenizer, a saved folder, and what a builder is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "is it near ? is it left ? is it near ? is it left ? is it near ? is it left ?",
    "is there a demon in this image ? yes no",
    "where is the medikit ? left of you right ahead near far",
    "what do you see ? a wall , a clip and a stimpack",
    "USER: ASSISTANT: user assistant system \n You are a helpful assistant .",
]


@dataclass(frozen=True)
class Case:
    """One small checkpoint and what the unmodified model is given for one frame and one text.

    save: writes the checkpoint into a folder. inputs: (folder, frame uint8 [S, S, 3], text, token order) ->
    the keyword arguments of the model, made by the family's own Hugging Face processor, batch of one.
    image_tokens: the number expected. image_sees_prompt: whether image states depend on a prompt after the
    image. answer_types: the type id that the model gives to generated tokens, where it has type ids. original: what
    reads the folder in place of transformers, where that has no such model.
    """

    name: str
    model_type: str
    save: Callable[[Path], None]
    inputs: Callable[[Path, np.ndarray, str, str], dict[str, Any]]
    size: int
    image_tokens: int
    image_size: int | None = None
    image_sees_prompt: bool = False
    encoder_decoder: bool = False
    answer_types: int = 0
    original: Callable[[Path], Any] | None = None


def tokenizer(special: list[str], bos: str | None = None, eos: str = "</s>", front: str = "", back: str = "", **more):
    """A byte-level BPE tokenizer trained here; front and back are special tokens put around every text."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    tokens = ["<pad>", eos, *([bos] if bos and bos != eos else []), *special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(tokens) + 60, special_tokens=tokens, initial_alphabet=alphabet
    )
    base.train_from_iterator(CORPUS, trainer)
    if front or back:
        around = [(token, base.token_to_id(token)) for token in (front, back) if token]
        single = " ".join(part for part in (front, "$A", back) if part)
        base.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token=eos, bos_token=bos, **more)


def save(folder: Path, model: torch.nn.Module, *processors: Any) -> None:
    """A checkpoint as the Hub would hold it. The weights are spread out so that inputs clearly change the
    states."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.5 / weight.shape[-1] ** 0.5 if "embed" not in name else 0.5)
    model.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    noise = rng.integers(-20, 21, (count, height, width, 3))
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


def without_video(processor_class: type) -> type:
    """The processor with no video processor in it; the real ones need torchvision."""

    class Processor(processor_class):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if name != "video_processor":
                super().check_argument_for_proper_class(name, argument)

    return Processor


def chat_template(image: str, start: str = "", user: str = "user: ", end: str = " assistant:") -> str:
    """A template in the manner of the Hub's: parts of a turn in the order given, `image` where a picture
    is."""
    return (
        start + "{% for turn in messages %}" + user + "{% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}" + end + "{% endif %}"
    )


def conversation(processor: Any, frame: np.ndarray, text: str, order: str, **more: Any) -> dict[str, Any]:
    """What a user would do with a Hugging Face processor: write the conversation, then process it.

    text: or messages, with a list of frames.
    """
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    turn = {"role": "user", "content": parts if order == "image_first" else parts[::-1]}
    messages = text if isinstance(text, list) else [turn]
    written = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return dict(processor(images=frame, text=written, return_tensors="pt", **more))


def llama(words: Any, **more: Any) -> dict[str, Any]:
    """A small causal language model's config; works for every Llama-like type."""
    small = {
        "model_type": "llama",
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    return small | more


def vit(**more: Any) -> dict[str, Any]:
    """A small vision transformer's config: 16 patches of a 32 x 32 picture."""
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return small | more


def small_opt(words: Any) -> dict[str, Any]:
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {
        "model_type": "opt",
        "vocab_size": len(words),
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 16,
        **ids,
    }


def small_t5(words: Any) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "vocab_size": len(words),
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "decoder_start_token_id": words.pad_token_id,
    }

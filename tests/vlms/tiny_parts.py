"""Functions and small configs that the builders share, and the class of a small checkpoint."""

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
    """A small checkpoint, and the inputs of its unmodified model.

    Args:
        name: Name in the ids of tests.
        model_type: As in config.json.
        save: Function that writes the checkpoint into a folder.
        inputs: Function from folder, frame uint8 [S, S, 3], text and token order to the model's arguments for a batch
            of one, from the family's own Hugging Face processor.
        size: Side S of the frames in pixels.
        image_tokens: Expected number of image tokens.
        image_size: Option of the VLM; None = the checkpoint's.
        image_sees_prompt: Whether image states depend on a prompt after the image.
        encoder_decoder: Whether the language model is an encoder-decoder.
        answer_types: Type id of generated tokens, for a model with type ids.
        original: Function that loads the folder, for a model that transformers does not have.
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
    """Return a byte-level BPE tokenizer trained on CORPUS, which puts every text between front and back."""
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
    more.setdefault("pad_token", "<pad>")
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token=eos, bos_token=bos, **more)


def save(folder: Path, model: torch.nn.Module, *processors: Any) -> None:
    """Save a checkpoint as on the Hub, with large random weights, so that inputs change the states clearly."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.5 / weight.shape[-1] ** 0.5 if "embed" not in name else 0.5)
    model.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return smooth random pictures, uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    noise = rng.integers(-20, 21, (count, height, width, 3))
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


def without_video(processor_class: type) -> type:
    """Return the processor class without its video processor, which needs torchvision."""

    class Processor(processor_class):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if name != "video_processor":
                super().check_argument_for_proper_class(name, argument)

    Processor.__name__ = processor_class.__name__  # which is saved
    return Processor


class NoVideo:
    """A video processor that has every attribute, always None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def chat_template(image: str, start: str = "", user: str = "user: ", end: str = " assistant:", video: str = "") -> str:
    """Return a chat template as on the Hub: parts of a turn in their order, with `image` or `video` for theirs."""
    return (
        start + "{% for turn in messages %}" + user + "{% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% elif part['type'] == 'video' %}" + video + "{% else %}"
        "{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}" + end + "{% endif %}"
    )


def conversation(processor: Any, frame: np.ndarray, text: str, order: str, **more: Any) -> dict[str, Any]:
    """Return the inputs of a conversation as a user of a Hugging Face processor would get them.

    Args:
        processor: The processor.
        frame: The frame, or a list of frames with messages.
        text: The text, or messages.
        order: Token order.
        more: Further arguments of the processor.
    """
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    turn = {"role": "user", "content": parts if order == "image_first" else parts[::-1]}
    messages = text if isinstance(text, list) else [turn]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return dict(processor(images=frame, text=prompt, return_tensors="pt", **more))


def llama(words: Any, **more: Any) -> dict[str, Any]:
    """Return the config of a small causal language model, for every Llama-like type."""
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
    """Return the config of a small vision transformer: 16 patches of a 32 x 32 picture."""
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

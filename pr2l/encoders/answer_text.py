"""The text of the VLM's answer, embedded by a sentence encoder, instead of the VLM's hidden states.

This ablation measures whether the words of the answer suffice, or the hidden states contain more. It gives one token of
width 384 and norm 1, for an answer of at most 256 word pieces. Apache 2.0 licence. Source:
sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face Hub (Reimers & Gurevych 2019, Wang et al. 2020), computed as
its model card describes, without the package sentence-transformers: the mean of the last hidden states of real tokens,
divided by its norm. Other BERT-like models with mean pooling work as well. A model whose modules.json lists another
pooling or further layers is refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.answers import AnswerEncoder
from pr2l.encoders.common.prompts import PromptOptions
from pr2l.encoders.common.vision import load_pretrained, read_pretrained
from pr2l.vlms import checkpoint

MAX_LENGTH = 256  # word pieces, as in the model's training; answers are far shorter


class Defaults(PromptOptions):
    """Options of the encoder `answer_text`."""

    weights: str = "sentence-transformers/all-MiniLM-L6-v2"  # a Hub id or a folder


class AnswerTextEncoder(AnswerEncoder):
    """Encoder of the VLM's answer as one sentence embedding: tokens [B, 1, width]."""

    tokens = 1

    def __init__(self, source: EncoderSource, options: Defaults) -> None:
        super().__init__(source, options)
        self.options = options
        self.embedder = SentenceEmbedder(options.weights, source.vlm_options.device)
        self.width = self.embedder.width

    def key(self) -> dict[str, Any]:
        bound = self.options.max_prompt_tokens
        bounded = {} if bound is None else {"max_prompt_tokens": bound}
        return super().key() | {"weights": checkpoint.source(self.options.weights), **bounded}

    def embed_answers(self, answers: list[str]) -> Tokens:
        values = self.embedder(answers)[:, None]
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class SentenceEmbedder:
    """Sentence encoder with mean pooling.

    Args:
        weights: A Hub id or a folder.
        device: Torch device, or "auto" for the GPU if there is one.
    """

    def __init__(self, weights: str, device: str) -> None:
        self.tokenizer = read_pretrained(weights, lambda: AutoTokenizer.from_pretrained(weights, **checkpoint.NO_CODE))
        read_pretrained(weights, partial(_check_modules, weights))
        # Always in float32: the model is small, and a text's embedding then hardly depends on the rest of its batch.
        self.model = checkpoint.read_model(weights, device, "float32", partial(load_pretrained, AutoModel))
        self.width = int(self.model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Return one embedding per text, float32 [B, width], each of norm 1."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(states)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # an empty text may have no token
        return torch.nn.functional.normalize(mean, dim=1)


def _check_modules(weights: str) -> None:
    """Raise UserError for a model whose files describe a computation that differs from this module's."""
    modules = checkpoint.read_json(weights, "modules.json") or ()
    layers = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    files = [f"{path}/config.json" for kind, path in layers if kind == "Pooling"]
    pooling = (checkpoint.read_json(weights, files[0]) if files else None) or {}
    modes = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    modes += [pooling["pooling_mode"]] if "pooling_mode" in pooling else []  # as newer versions write it
    wrong = [f"a layer of type {kind}" for kind, _ in layers if kind not in ("Transformer", "Pooling", "Normalize")]
    wrong += [f"pooling by {mode}" for mode in modes if mode not in ("mean", "mean_tokens")]
    if wrong:
        raise UserError(
            f"encoder_options: weights={weights!r} has {' and '.join(wrong)}; answer_text needs a model with mean"
            f" pooling and no layer after it, such as {Defaults().weights}"
        )


def create(source: EncoderSource, options: Defaults) -> AnswerTextEncoder:
    return AnswerTextEncoder(source, options)

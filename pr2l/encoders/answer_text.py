"""What the VLM answers, read as text: its decoded answer through a sentence embedder, in place of its hidden states.

It asks whether the words alone would do, or whether the states hold more than is said. One token of width 384 and norm
1, of an answer of at most 256 word pieces. Apache 2.0 licence. Source: sentence-transformers/all-MiniLM-L6-v2 on the
Hugging Face Hub (Reimers & Gurevych 2019, Wang et al. 2020), used as its card says, without the package: the mean of
the last states at real tokens, divided by its norm. Other such models (BERT-like, mean pooling) are read as well; one
whose modules.json says that it is made otherwise is refused.
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

LONGEST = 256  # word pieces, as the model was trained; answers are far shorter


class Defaults(PromptOptions):
    weights: str = "sentence-transformers/all-MiniLM-L6-v2"  # a Hub id or a folder


class AnswerTextEncoder(AnswerEncoder):
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

    def read(self, answers: list[str]) -> Tokens:
        values = self.embedder(answers)[:, None]
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class SentenceEmbedder:
    """A transformer of sentences with mean pooling: texts -> float32 [B, width], each of norm 1."""

    def __init__(self, weights: str, device: str) -> None:
        self.words = read_pretrained(weights, lambda: AutoTokenizer.from_pretrained(weights))
        _check_parts(weights)
        # In float32 always: it is small, and a text's embedding then hardly depends on its neighbours.
        self.model = checkpoint.read_model(weights, device, "float32", partial(load_pretrained, AutoModel))
        self.width = int(self.model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        given = self.words(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        given = given.to(self.model.device)
        states = self.model(**given).last_hidden_state
        real = given["attention_mask"][..., None].to(states)
        mean = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)  # of an empty text nothing is real
        return torch.nn.functional.normalize(mean, dim=1)


def _check_parts(weights: str) -> None:
    """Raises UserError for a model that its own files say to be read otherwise than here."""
    listed = checkpoint.read_json(weights, "modules.json") or ()
    parts = [(part["type"].rpartition(".")[2], part["path"]) for part in listed]
    places = [f"{path}/config.json" for kind, path in parts if kind == "Pooling"]
    pooling = (checkpoint.read_json(weights, places[0]) if places else None) or {}
    modes = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    modes += [pooling["pooling_mode"]] if "pooling_mode" in pooling else []  # as newer versions write it
    wrong = [f"a layer of type {kind}" for kind, _ in parts if kind not in ("Transformer", "Pooling", "Normalize")]
    wrong += [f"pooling by {mode}" for mode in modes if mode not in ("mean", "mean_tokens")]
    if wrong:
        raise UserError(
            f"encoder_options: weights={weights!r} has {' and '.join(wrong)}, and answer_text reads models of mean"
            f" pooling and no further layer, such as {Defaults().weights}"
        )


def create(source: EncoderSource, options: Defaults) -> AnswerTextEncoder:
    return AnswerTextEncoder(source, options)

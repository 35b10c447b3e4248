"""The forward passes behind `VLM.hidden`: one over the input, then a short one for each generated token.

    distinct frames --vision tower--> one row per text --language model--> states of the input
                                                               |  keys and values
                                                               +--> token by token: states of the answer

The model's own modules do the work that `generate` would have them do, without its machinery, and nothing is computed
that nobody asked for. Each lever is exact, and can be left out (`vlm_options.disable`) to measure what it brings:

    own_passes      no `generate`: logits of the last position only, no head at all where nothing is generated
    early_exit      where nothing is generated, layers above the highest one asked for are not even loaded
    shared_vision   a frame that comes several times in a batch, with other texts, passes the vision tower once
    shared_prefix   in a causal model, keys and values of the text before an image are kept for further frames, and
                    those of an image before the text serve all prompts of its frame
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pr2l.core.types import Frames
from pr2l.vlms.compile import compile_forward

if TYPE_CHECKING:
    from pr2l.vlms.base import VLM

KEPT_TEXTS = 32  # a 7B model's keys and values of 32 tokens take 16 MB

Passes = tuple[Tensor, Tensor, Tensor]  # states of the input [B, L, T, D], ids chosen [B, N], their states [B, L, N, D]
Choose = Callable[[Any, Tensor], Tensor]  # (ignored, logits [B, V]) -> scores whose largest entry is the next token


@dataclass(frozen=True)
class ImageFeatures:
    """What the vision tower made of `count` frames, and for every row the place of its frame among them."""

    seen: Any
    places: list[int]
    count: int
    repeats: bool  # whether a frame comes several times in the whole batch
    prefixes: dict[tuple[int, ...], tuple[Tensor, Any]] = field(default_factory=dict)  # what `Prefixes` keeps of them

    def at(self, rows: Sequence[int]) -> ImageFeatures:
        """Some of the rows."""
        return replace(self, places=[self.places[row] for row in rows])

    def rows(self) -> Any:
        """`seen`, for every row."""
        return spread(self.seen, self.places, self.count)


class Engine:
    """The passes of one VLM. Rows of a decoder-only model are of one layout; an encoder's may be padded."""

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self.layers = list(vlm.options.layers)
        depth, needed = reading_depth(vlm.config), layers_needed(vlm)
        self.can_answer = needed == depth
        if not self.can_answer:
            self.layers = [layer % (depth + 1) for layer in self.layers]  # those counted from the end would move
            drop_layers_above(self._reading_stack(), needed)
        if vlm.options.compile:
            compile_forward(self._reading_stack())
            compile_forward(vlm.model.get_encoder(modality="image"))
        shares = vlm.can_share_prefix and "shared_prefix" not in vlm.options.disable
        self._prefix = Prefixes(vlm, self) if shares else None

    def encode_images(self, frames: Frames) -> ImageFeatures:
        """The vision tower's work for a whole batch, whose texts may then go through the model in several passes."""
        first, places = self.vlm.distinct(frames)
        shown = self.vlm.buckets.padded(first)
        return ImageFeatures(self.vlm.encode_images(frames[shown]), places, len(shown), len(first) < len(places))

    def states(self, looked: ImageFeatures, texts: list[str], choose: Choose) -> Passes:
        """States of the input in the model's own order, and of what was generated; one text per row of `looked`."""
        if self.vlm.is_encoder_decoder:
            return self._encoder_decoder(self.vlm.lm_inputs(looked.rows(), texts), choose)
        if self._prefix is None:
            return self._causal(self.vlm.lm_inputs(looked.rows(), texts), choose)
        prefix, rest = self._prefix.take(looked, texts)
        before, tokens, made = self._causal(rest, choose)
        return before if prefix is None else torch.cat([prefix, before], dim=2), tokens, made

    def _causal(self, inputs: dict[str, Any], choose: Choose) -> Passes:
        language_model, steps = self.vlm.language_model, self.vlm.new_tokens
        if not steps:
            out = language_model.model(**inputs, use_cache=False, output_hidden_states=self.layers)
            return _unanswered(self.chosen(out.hidden_states))
        wanted = {"use_cache": True, "logits_to_keep": 1, "output_hidden_states": self.layers}
        out = language_model(**inputs, **wanted)
        before, tokens, made = self.chosen(out.hidden_states), [], []
        for _ in range(steps):
            tokens.append(_next(choose, out.logits))
            out = language_model(input_ids=tokens[-1], past_key_values=out.past_key_values, **wanted)
            made.append(self.chosen(out.hidden_states))
        return before, torch.cat(tokens, dim=1), torch.cat(made, dim=2)

    def _encoder_decoder(self, inputs: dict[str, Any], choose: Choose) -> Passes:
        language_model, mask, steps = self.vlm.language_model, inputs["attention_mask"], self.vlm.new_tokens
        encoded = language_model.get_encoder()(**inputs, output_hidden_states=self.layers)
        before = self.chosen(encoded.hidden_states)
        if not steps:
            return _unanswered(before)
        start = language_model.generation_config.decoder_start_token_id
        tokens, made, cache = [torch.full_like(mask[:, :1], start)], [], None
        for _ in range(steps + 1):  # the first feeds the start token, whose state nobody asks for
            out = language_model(
                encoder_outputs=encoded,
                attention_mask=mask,
                decoder_input_ids=tokens[-1],
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=True,
            )
            cache = out.past_key_values
            made.append(self.chosen(out.decoder_hidden_states))
            tokens.append(_next(choose, out.logits))
        return before, torch.cat(tokens[1:-1], dim=1), torch.cat(made[1:], dim=2)

    def chosen(self, states: tuple[Tensor, ...]) -> Tensor:
        """float32 [B, L, T, D] of a tuple of hidden states."""
        return torch.stack([states[layer] for layer in self.layers], dim=1).float()

    def _reading_stack(self) -> nn.Module:
        language_model = self.vlm.language_model
        stack: nn.Module = language_model.get_encoder() if self.vlm.is_encoder_decoder else language_model.get_decoder()
        return stack


def _next(choose: Choose, logits: Tensor) -> Tensor:
    return choose(None, logits[:, -1].float()).argmax(-1, keepdim=True)


def _unanswered(before: Tensor) -> Passes:
    return before, torch.empty(len(before), 0, dtype=torch.long, device=before.device), before[:, :, :0]


# Shared prefix.


class Prefixes:
    """The beginning that rows share: its states, and a cache of its keys and values from which the rest goes on.

    image first   BOS USER : [image x I] | where is it ?     same frame, several texts: kept within a batch
    text first    BOS USER : where is it ? | [image x I]     same text, ever new frames: kept for later batches
    """

    def __init__(self, vlm: VLM, engine: Engine) -> None:
        self.vlm, self.engine = vlm, engine
        self._of_text = lru_cache(maxsize=KEPT_TEXTS)(self._read_text)

    def take(self, looked: ImageFeatures, texts: list[str]) -> tuple[Tensor | None, dict[str, Any]]:
        """(states [B, L, prefix, D], inputs of the rest with its cache); (None, all inputs) where none is shared."""
        ids = self.vlm.ids(texts)
        image = (ids[0] == self.vlm.image_token_id).nonzero().flatten()
        text_first = self.vlm.options.token_order == "text_first"
        length = int(image[0]) if text_first else int(image[-1]) + 1
        if text_first and length and not self.vlm.options.compile:  # a pass that goes on from a cache is not compiled
            parts = [self._of_text(tuple(row)) for row in ids[:, :length].tolist()]
            rest = {"input_ids": ids[:, length:], "past_key_values": _joined([cache for _, cache in parts])}
            return torch.cat([states for states, _ in parts]), self.vlm.lm_inputs(looked.rows(), texts) | rest
        same_template = bool((ids[:, :length] == ids[:1, :length]).all())
        if text_first or not looked.repeats or length == ids.shape[1] or not same_template:
            return None, self.vlm.lm_inputs(looked.rows(), texts)
        beginning = tuple(ids[0, :length].tolist())
        if beginning not in looked.prefixes:
            looked.prefixes[beginning] = self._read_images(looked, texts[0], length)
        states, cache = looked.prefixes[beginning]
        return states[looked.places], {"input_ids": ids[:, length:], "past_key_values": _at_rows(cache, looked.places)}

    def _read_text(self, ids: tuple[int, ...]) -> tuple[Tensor, Any]:
        return self._read({"input_ids": torch.tensor([ids], device=self.vlm.model.device)})

    def _read_images(self, looked: ImageFeatures, text: str, length: int) -> tuple[Tensor, Any]:
        """Of every distinct frame, behind the beginning of a text."""
        inputs = self.vlm.lm_inputs(looked.seen, [text] * looked.count)
        return self._read(inputs | {"input_ids": inputs["input_ids"][:, :length]})

    def _read(self, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        out = self.vlm.language_model.model(**inputs, use_cache=True, output_hidden_states=self.engine.layers)
        return self.engine.chosen(out.hidden_states), out.past_key_values


def _joined(caches: list[Any]) -> Any:
    """One cache whose rows are those of the given ones."""
    joined = _copied(caches[0])
    for at, layer in _filled(joined):
        layer.keys = torch.cat([cache.layers[at].keys for cache in caches])
        layer.values = torch.cat([cache.layers[at].values for cache in caches])
    return joined


def _at_rows(cache: Any, rows: list[int]) -> Any:
    """A cache of some rows of another, which stays as it is."""
    chosen = _copied(cache)
    for _, layer in _filled(chosen):
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]
    return chosen


def _copied(cache: Any) -> Any:
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def _filled(cache: Any) -> list[tuple[int, Any]]:
    """The layers of a cache that hold something: there is one too for each layer that early exit has dropped."""
    return [(at, layer) for at, layer in enumerate(cache.layers) if layer.keys is not None]


# Early exit.


def reading_depth(config: Any) -> int:
    """Layers of the stack that reads the input, in the whole model: the encoder, or the causal model itself."""
    return int(config.get_text_config().num_hidden_layers)


def layers_needed(vlm: VLM) -> int:
    """How many of these layers have to run: all if something is generated, or the lever is left out."""
    depth, left_out = reading_depth(vlm.config), {"own_passes", "early_exit"} & set(vlm.options.disable)
    if vlm.new_tokens or left_out or not vlm.has_engine:
        return depth
    return min(depth, max(layer % (depth + 1) for layer in vlm.options.layers) + vlm.spare_layers)


def shortened(config: Any, layers: int) -> Any:
    """A copy of a model's config whose language model has only its lowest layers, at least one.

    The decoder of an encoder-decoder, which then has nothing to do, becomes as short.
    """
    short = copy.deepcopy(config)
    text, layers = short.get_text_config(), max(layers, 1)
    for name in ("num_hidden_layers", "decoder_layers", "num_decoder_layers"):
        if getattr(text, name, None) is not None:
            setattr(text, name, min(layers, getattr(text, name)))
    if getattr(text, "layer_types", None) is not None:  # of each layer: full or sliding attention
        text.layer_types = text.layer_types[:layers]
    return short


def drop_layers_above(stack: nn.Module, highest: int) -> None:
    """Leaves the lowest layers of a stack, so that its last state is state `highest` of a deeper stack.

    The final norm goes too: a middle layer's state is taken before it.
    """
    name = next(name for name in ("layers", "block") if hasattr(stack, name))
    setattr(stack, name, getattr(stack, name)[: max(highest, 1)])
    for norm in ("norm", "final_layer_norm"):
        if getattr(stack, norm, None) is not None:
            setattr(stack, norm, nn.Identity())


# Shared vision.


def distinct(frames: Frames) -> tuple[list[int], list[int]]:
    """(the rows where each distinct frame comes first, for every row the place of its frame in that list)."""
    places: dict[bytes, int] = {}
    first: list[int] = []
    rows: list[int] = []
    for row, frame in enumerate(frames):
        pixels = frame.tobytes()
        if pixels not in places:
            places[pixels] = len(first)
            first.append(row)
        rows.append(places[pixels])
    return first, rows


def spread(seen: Any, rows: Sequence[int], count: int) -> Any:
    """What VLM.look gave for `count` frames, for the rows that show them."""
    if list(rows) == list(range(count)):
        return seen
    if isinstance(seen, Tensor):
        return _at(seen, rows, count)
    wider = copy.copy(seen)
    wider.pooler_output = _at(seen.pooler_output, rows, count)
    if getattr(seen, "deepstack_features", None) is not None:  # Qwen3-VL: per layer, features of each image
        wider.deepstack_features = [_at(layer, rows, count) for layer in seen.deepstack_features]
    return wider


def _at(features: Any, rows: Sequence[int], count: int) -> Any:
    """features: one tensor per image, or one tensor [count x n, ...] in which images stand behind each other."""
    if not isinstance(features, Tensor):
        return tuple(features[row] for row in rows)
    return features.unflatten(0, (count, -1))[list(rows)].flatten(0, 1)

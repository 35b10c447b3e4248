"""The forward passes of `VLM.hidden`: one over the input, then a short one for each generated token.

    distinct frames --vision tower--> image features --language model--> states of the input
                                                              |  keys and values
                                                              +--> token by token: states of the answer

The model's own modules run as in `generate`, without the other work of `generate`, and without layers and logits that
are not needed. Each optimization is exact, and can be switched off (`vlm_options.disable`) to measure its effect:

    own_passes      without `generate`: logits of the last position only, and no logits if nothing is generated
    early_exit      if nothing is generated, layers above the highest chosen one are not even loaded
    shared_vision   a frame that is repeated in a batch, with other texts, passes the vision tower once
    shared_prefix   in a causal model, keys and values of the text before an image are kept for further frames, and
                    those of an image before the text are used for all prompts of its frame
    fused_layers    on a CPU, Florence-2's layers run with fewer and fused operations (pr2l/vlms/fused)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from pr2l.core.types import Frames
from pr2l.vlms.compile import Buckets, compile_forward
from pr2l.vlms.conversation import Prompt
from pr2l.vlms.options import Defaults

# Name of keys and values, as an argument and in the output; the first from transformers 5.24 on.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
KEPT_TEXTS = 32  # a 7B model's keys and values of 32 tokens take 16 MB

Choose = Callable[[Any, Tensor], Tensor]  # (ignored, logits [B, V]) -> scores whose largest entry is the next token


class LocalModel(Protocol):
    """Interface of a VLM whose passes run in this process; see `pr2l.vlms.family.Family` for each member."""

    options: Defaults
    config: Any
    model: Any
    buckets: Buckets
    has_engine: bool
    can_share_prefix: bool
    spare_layers: int

    @property
    def is_encoder_decoder(self) -> bool: ...
    @property
    def image_token_id(self) -> int: ...
    @property
    def new_tokens(self) -> int: ...
    @property
    def language_model(self) -> Any: ...
    def ids(self, prompts: Sequence[Prompt]) -> Tensor: ...
    def encode_images(self, frames: Frames) -> Any: ...
    def encoder_decoder(self) -> EncoderDecoder: ...
    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]: ...
    def video_lm_inputs(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, Any]: ...


class EncoderDecoder(Protocol):
    """Passes of an encoder-decoder language model."""

    def encode(self, inputs: dict[str, Any], layers: Sequence[int]) -> tuple[Any, tuple[Tensor, ...]]:
        """Run the encoder.

        Args:
            inputs: From `lm_inputs`, with `attention_mask`.
            layers: Indices of the layers whose states are used.

        Returns:
            What `step` reads, and the states [B, T, D] of all layers, the embeddings first; layers that are not used
            may be None.
        """

    def step(self, memory: Any, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the decoder on one more token of each row.

        Args:
            memory: From `encode`; the token's keys and values are added to it.
            tokens: int64 [B, 1].

        Returns:
            Logits [B, 1, V], and the states [B, 1, D] of all layers, the embedding first.
        """


class TransformersEncoderDecoder:
    """Passes of an encoder-decoder with transformers' own modules.

    Args:
        language_model: The model, with a head for logits.
    """

    def __init__(self, language_model: Any) -> None:
        self.language_model = language_model

    def encode(self, inputs: dict[str, Any], layers: Sequence[int]) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        encoded = self.language_model.get_encoder()(**inputs, output_hidden_states=list(layers))
        memory = {"encoder_outputs": encoded, "attention_mask": inputs["attention_mask"], CACHE: None}
        return memory, encoded.hidden_states

    def step(self, memory: dict[str, Any], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        options = {"use_cache": True, "output_hidden_states": True}
        out = self.language_model(decoder_input_ids=tokens, **memory, **options)
        memory[CACHE] = out[CACHE]
        return out.logits, out.decoder_hidden_states


class PassStates(NamedTuple):
    """States of rows that went through the model together.

    Args:
        inputs: float32 [B, L, I + P, D], states of the input.
        tokens: int64 [B, N], the generated ids.
        generated: float32 [B, L, N, D], states of the generated tokens.
    """

    inputs: Tensor
    tokens: Tensor
    generated: Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the distinct frames of a batch, and the frame of each image of the batch.

    Args:
        features: Result of VLM.encode_images for `count` frames.
        places: For each image of the batch, the index of its frame among the distinct frames.
        count: Number of distinct frames, with padding.
        repeats: Whether a frame is repeated in the whole batch.
        prefixes: Token ids of an input's beginning -> its states and cache, one row per distinct frame.
    """

    features: Any
    places: list[int]
    count: int
    repeats: bool
    prefixes: dict[tuple[int, ...], tuple[Tensor, Any]] = field(default_factory=dict)

    def select(self, images: Sequence[int]) -> ImageFeatures:
        """Return the features of some of the batch's images.

        Args:
            images: Indices of the images.
        """
        return replace(self, places=[self.places[image] for image in images])

    def expand(self) -> Any:
        """Return the features of every image of the batch, in order."""
        return expand_features(self.features, self.places, self.count)


class Engine:
    """Forward passes of one VLM in this process.

    In a decoder-only model, all rows of a pass have the same layout; in an encoder-decoder, rows may be padded.

    Args:
        vlm: A VLM with its model loaded. Unused upper layers are removed from the model, and with `compile` its stacks
            are compiled.

    Attributes:
        layers: Indices of the chosen layers in the tuple of hidden states.
        is_complete: Whether the model has all its layers.
    """

    def __init__(self, vlm: LocalModel) -> None:
        self.vlm = vlm
        self.layers = list(vlm.options.layers)
        depth, needed = reading_depth(vlm.config), layers_needed(vlm)
        self.is_complete = needed == depth
        if not self.is_complete:
            self.layers = [layer % (depth + 1) for layer in self.layers]  # negative indices would change their meaning
            drop_layers_above(reading_stack(vlm), needed)
        if vlm.options.compile:
            compile_forward(reading_stack(vlm))
            compile_forward(vision_tower(vlm))
        shares = vlm.can_share_prefix and "shared_prefix" not in vlm.options.disable
        self._prefix = Prefixes(vlm, self) if shares else None
        if vlm.is_encoder_decoder:
            self._passes = vlm.encoder_decoder()

    def encode_images(self, frames: Frames) -> ImageFeatures:
        """Run the vision tower on a whole batch.

        The prompts may then go through the language model in several passes.

        Args:
            frames: uint8 [M, H, W, 3]. With shared_vision, equal frames pass the vision tower once.

        Returns:
            Features of the distinct frames, and for each of the M images the index of its frame.
        """
        rows = list(range(len(frames)))
        first, places = (rows, rows) if "shared_vision" in self.vlm.options.disable else distinct(frames)
        padded = self.vlm.buckets.padded(first)
        return ImageFeatures(self.vlm.encode_images(frames[padded]), places, len(padded), len(first) < len(places))

    def run(self, images: ImageFeatures, prompts: list[Prompt], choose: Choose) -> PassStates:
        """Run the language model on some rows.

        Args:
            images: Features of the prompts' images, in order.
            prompts: One prompt per row.
            choose: Function that chooses the next token.

        Returns:
            States of the input, in the model's own order, and of the generated tokens.
        """
        if self.vlm.is_encoder_decoder:
            return self._encoder_decoder(self.vlm.lm_inputs(images.expand(), prompts), choose)
        if self._prefix is None:
            return self._causal(self.vlm.lm_inputs(images.expand(), prompts), choose)
        prefix, inputs = self._prefix.take(images, prompts)
        states = self._causal(inputs, choose)
        return states if prefix is None else states._replace(inputs=torch.cat([prefix, states.inputs], dim=2))

    def run_videos(self, frames: Frames, prompts: list[Prompt], choose: Choose) -> PassStates:
        """Run vision tower and language model on some rows with videos, of a decoder-only model.

        Args:
            frames: uint8 [M, H, W, 3], the images of these rows, with the frames of their videos.
            prompts: One prompt per row.
            choose: Function that chooses the next token.

        Returns:
            As `run`.
        """
        return self._causal(self.vlm.video_lm_inputs(frames, prompts), choose)

    def _causal(self, inputs: dict[str, Any], choose: Choose) -> PassStates:
        language_model, steps = self.vlm.language_model, self.vlm.new_tokens
        if not steps:
            out = language_model.model(**inputs, use_cache=False, output_hidden_states=self.layers)
            return _without_answer(self.chosen(out.hidden_states))
        options = {"use_cache": True, "logits_to_keep": 1, "output_hidden_states": self.layers}
        out = language_model(**inputs, **options)
        input_states, tokens, generated = self.chosen(out.hidden_states), [], []
        for _ in range(steps):
            tokens.append(_next(choose, out.logits))
            out = language_model(input_ids=tokens[-1], **{CACHE: out[CACHE]}, **options)
            generated.append(self.chosen(out.hidden_states))
        return PassStates(input_states, torch.cat(tokens, dim=1), torch.cat(generated, dim=2))

    def _encoder_decoder(self, inputs: dict[str, Any], choose: Choose) -> PassStates:
        memory, states = self._passes.encode(inputs, self.layers)
        input_states = self.chosen(states)
        if not self.vlm.new_tokens:
            return _without_answer(input_states)
        start = self.vlm.language_model.generation_config.decoder_start_token_id
        tokens, generated = [torch.full_like(inputs["attention_mask"][:, :1], start)], []
        for _ in range(self.vlm.new_tokens + 1):  # the first step is for the start token, whose state is dropped
            logits, states = self._passes.step(memory, tokens[-1])
            generated.append(self.chosen(states))
            tokens.append(_next(choose, logits))
        return PassStates(input_states, torch.cat(tokens[1:-1], dim=1), torch.cat(generated[1:], dim=2))

    def chosen(self, states: tuple[Tensor, ...]) -> Tensor:
        """Return the chosen layers of a model's tuple of hidden states, float32 [B, L, T, D].

        Args:
            states: [B, T, D] of every layer, the embeddings first.
        """
        return chosen_layers(states, self.layers)


def chosen_layers(states: tuple[Tensor, ...], layers: Sequence[int], size: int | None = None) -> Tensor:
    """Return some layers of a model's tuple of hidden states, float32 [B, L, T, D].

    Args:
        states: [B, T, D] of every layer, the embeddings first.
        layers: Indices in this tuple; negative ones count from the end. They become the dimension L, in this order.
        size: D, if layers may have several parallel streams, which become one after the last layer. A layer is then
            represented by the mean of its streams.
    """
    chosen = [states[layer] for layer in layers]
    return torch.stack(chosen if size is None else [_joined(state, size) for state in chosen], dim=1).float()


def _joined(state: Tensor, size: int) -> Tensor:
    """Return the mean of a layer's streams [B, T, streams, D] or [B, T, streams * D]; a single stream as it is."""
    if state.ndim == 3 and state.shape[-1] == size:
        return state
    return state.unflatten(-1, (-1, size)).mean(-2) if state.ndim == 3 else state.mean(2)


def _next(choose: Choose, logits: Tensor) -> Tensor:
    return choose(None, logits[:, -1].float()).argmax(-1, keepdim=True)


def _without_answer(states: Tensor) -> PassStates:
    return PassStates(states, torch.empty(len(states), 0, dtype=torch.long, device=states.device), states[:, :, :0])


# Shared prefix.


class Prefixes:
    """Shared beginnings of rows: their states, and a cache of their keys and values with which a pass continues.

    image first   BOS USER : [image x I] | where is it ?     same frame, several texts: kept within a batch
    text first    BOS USER : where is it ? | [image x I]     same text, always new frames: kept for later batches
    """

    def __init__(self, vlm: LocalModel, engine: Engine) -> None:
        self.vlm, self.engine = vlm, engine
        self._of_text = lru_cache(maxsize=KEPT_TEXTS)(self._read_text)

    def take(self, images: ImageFeatures, prompts: list[Prompt]) -> tuple[Tensor | None, dict[str, Any]]:
        """Split the inputs of some rows into a shared beginning and the rest.

        Args:
            images: Features of the prompts' images, in order.
            prompts: One prompt per row.

        Returns:
            States of the beginning [B, L, prefix, D], and the language model's inputs for the rest, with the cache of
            the beginning; (None, all inputs) if the rows share no beginning.
        """
        ids = self.vlm.ids(prompts)
        places = (ids[0] == self.vlm.image_token_id).nonzero().flatten()
        text_first = self.vlm.options.token_order == "text_first"
        length = int(places[0]) if text_first else int(places[-1]) + 1
        if text_first and length and not self.vlm.options.compile:  # a pass that continues from a cache is not compiled
            parts = [self._of_text(tuple(row)) for row in ids[:, :length].tolist()]
            suffix = {"input_ids": ids[:, length:], CACHE: _concatenated([cache for _, cache in parts])}
            return torch.cat([states for states, _ in parts]), self.vlm.lm_inputs(images.expand(), prompts) | suffix
        same_template = bool((ids[:, :length] == ids[:1, :length]).all())
        several_images = len(images.places) > len(prompts)
        if text_first or several_images or not images.repeats or length == ids.shape[1] or not same_template:
            return None, self.vlm.lm_inputs(images.expand(), prompts)
        beginning = tuple(ids[0, :length].tolist())
        if beginning not in images.prefixes:
            inputs = self.vlm.lm_inputs(images.features, prompts[:1] * images.count)  # of every distinct frame
            images.prefixes[beginning] = self._read(inputs | {"input_ids": inputs["input_ids"][:, :length]})
        states, cache = images.prefixes[beginning]
        suffix = {"input_ids": ids[:, length:], CACHE: _cache_rows(cache, images.places)}
        return states[images.places], suffix

    def _read_text(self, ids: tuple[int, ...]) -> tuple[Tensor, Any]:
        return self._read({"input_ids": torch.tensor([ids], device=self.vlm.model.device)})

    def _read(self, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        out = self.vlm.language_model.model(**inputs, use_cache=True, output_hidden_states=self.engine.layers)
        return self.engine.chosen(out.hidden_states), out[CACHE]


def _concatenated(caches: list[Any]) -> Any:
    """Return one cache with the rows of several caches."""
    whole = _copied(caches[0])
    for index, layer in _filled(whole):
        layer.keys = torch.cat([cache.layers[index].keys for cache in caches])
        layer.values = torch.cat([cache.layers[index].values for cache in caches])
    return whole


def _cache_rows(cache: Any, rows: list[int]) -> Any:
    """Return a cache with some rows of another cache, which is not changed."""
    chosen = _copied(cache)
    for _, layer in _filled(chosen):
        layer.keys, layer.values = layer.keys[rows], layer.values[rows]
    return chosen


def _copied(cache: Any) -> Any:
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def _filled(cache: Any) -> list[tuple[int, Any]]:
    """Return the layers of a cache that contain something; layers dropped by early exit have an empty entry."""
    return [(index, layer) for index, layer in enumerate(cache.layers) if layer.keys is not None]


# Early exit.


def reading_stack(vlm: LocalModel) -> nn.Module:
    """Return the stack of layers that reads the input: an encoder-decoder's encoder, or the causal model itself."""
    language_model = vlm.language_model
    stack: nn.Module = language_model.get_encoder() if vlm.is_encoder_decoder else language_model.get_decoder()
    return stack


def vision_tower(vlm: LocalModel) -> nn.Module:
    """Return the vision tower."""
    tower: nn.Module = vlm.model.get_encoder(modality="image")
    return tower


def reading_depth(config: Any) -> int:
    """Return the number of layers of the stack that reads the input, in the whole model.

    The stack is the encoder of an encoder-decoder, or the causal model itself.

    Args:
        config: Config of the whole model, before `shortened`.
    """
    return int(config.get_text_config().num_hidden_layers)


def layers_needed(vlm: LocalModel) -> int:
    """Return the number of these layers that have to run: all if text is generated or early exit is disabled.

    Args:
        vlm: The VLM; its options `layers`, `disable` and generation count, not its loaded model.

    Returns:
        Index of the highest chosen layer, where the embeddings have index 0, plus `spare_layers`; at most
        `reading_depth`.
    """
    depth, disabled = reading_depth(vlm.config), {"own_passes", "early_exit"} & set(vlm.options.disable)
    if vlm.new_tokens or disabled or not vlm.has_engine:
        return depth
    return min(depth, max(layer % (depth + 1) for layer in vlm.options.layers) + vlm.spare_layers)


def shortened(config: Any, layers: int) -> Any:
    """Return a copy of a model's config with only the lowest layers of the language model.

    The decoder of an encoder-decoder is shortened to the same number, since it is not used.

    Args:
        config: Config of the whole model, not changed.
        layers: Number of layers to keep; at least one is kept.
    """
    short = copy.deepcopy(config)
    text, layers = short.get_text_config(), max(layers, 1)
    for name in ("num_hidden_layers", "decoder_layers", "num_decoder_layers"):
        if getattr(text, name, None) is not None:
            setattr(text, name, min(layers, getattr(text, name)))
    if getattr(text, "layer_types", None) is not None:  # per layer: full or sliding attention
        text.layer_types = text.layer_types[:layers]
    return short


def drop_layers_above(stack: nn.Module, highest: int) -> None:
    """Remove the upper layers of a stack, in place, so that its last state is state `highest` of the whole stack.

    The final norm is removed too: the state of a middle layer is taken before it.

    Args:
        stack: Encoder or decoder of the language model.
        highest: Number of layers to keep; at least one is kept.
    """
    name = next(name for name in ("layers", "block") if hasattr(stack, name))
    setattr(stack, name, getattr(stack, name)[: max(highest, 1)])
    for norm in ("norm", "final_layer_norm"):
        if getattr(stack, norm, None) is not None:
            setattr(stack, norm, nn.Identity())


# Shared vision.


def distinct(frames: Frames) -> tuple[list[int], list[int]]:
    """Find the distinct frames of a batch.

    Args:
        frames: uint8 [B, H, W, 3].

    Returns:
        The row of the first occurrence of each distinct frame; and for every row the index of its frame in that list.
    """
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


def expand_features(features: Any, places: Sequence[int], count: int) -> Any:
    """Repeat the image features of distinct frames for all images of a batch.

    Args:
        features: Result of VLM.encode_images for `count` frames.
        places: For each image of the batch, the index of its frame.
        count: Number of frames of the features.
    """
    if list(places) == list(range(count)):
        return features
    if isinstance(features, Tensor):
        return _take(features, places, count)
    expanded = copy.copy(features)
    expanded.pooler_output = _take(features.pooler_output, places, count)
    if getattr(features, "deepstack_features", None) is not None:  # Qwen3-VL: per layer, features of each image
        expanded.deepstack_features = [_take(layer, places, count) for layer in features.deepstack_features]
    return expanded


def _take(features: Any, places: Sequence[int], count: int) -> Any:
    """Repeat features: a list of one tensor per image, or a tensor [count x n, ...] with image after image."""
    if not isinstance(features, Tensor):
        return tuple(features[place] for place in places)
    return features.unflatten(0, (count, -1))[list(places)].flatten(0, 1)

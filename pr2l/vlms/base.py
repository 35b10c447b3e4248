"""What all families of VLM share: batching, generation, and the layout of the hidden states that come out.

    frames, texts --layout--> token ids with image placeholders --\
    frames --------pixels--> what the vision tower reads ----------> model.generate --> Hidden

The unmodified Hugging Face model does the work, in one `generate` call: its first forward pass gives the
states of the whole input, each later pass the state of one generated token. The last token that `generate`
returns has never been fed back and so has no state; therefore one token more than wanted is generated and
dropped, and N generated tokens have N states.

    model's order   BOS  USER :  [image x I]  where is it ?  ASSISTANT :   left  of  you  </s>
    Hidden's order  |--- image: I ---|--- prompt: P, padded on the right ---|--- generated: N ---|

Image and prompt together are the whole input: "prompt" is every input token that is not an image token, in
the model's order, template and special tokens included. In an encoder-decoder model (Florence-2, Flan-T5)
image and prompt states come from the encoder's layers, generated ones from the decoder's.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from inspect import signature
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from transformers import GenerationConfig
from typing_extensions import Self

from pr2l.core.errors import UserError
from pr2l.core.types import Frames, Hidden, Tokens
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import Engine, ImageFeatures, Passes, distinct, layers_needed, reading_depth, shortened
from pr2l.vlms.compile import Buckets
from pr2l.vlms.decoding import Decoding, uniforms
from pr2l.vlms.pixels import Pixels

Optimization = Literal["own_passes", "early_exit", "shared_vision", "shared_prefix"]
OPTIMIZATIONS: tuple[Optimization, ...] = get_args(Optimization)
IGNORE_INDEX = -100  # a target that the loss passes over, as in transformers


class Defaults(BaseModel):
    """Options of a VLM, the same for every family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # indices into output_hidden_states: 0 = embeddings, k = after layer k, -1 = after the last layer and its
    # final norm
    layers: tuple[int, ...] = Field(default=(-2, -1), min_length=1)  # the last two, as in the paper
    generation: Literal["greedy", "none", "sample"] = "greedy"  # sample = chain of thought
    new_tokens: PositiveInt = 8  # tokens to generate, as in the authors' notebook (48 in their Habitat runs)
    # an answer may not end before this many tokens; what follows its end is masked. Equal to new_tokens,
    # every answer has that length
    min_new_tokens: NonNegativeInt = 0  # 8 in the authors' notebook, 32 in their Habitat runs
    temperature: PositiveFloat = 0.4  # of sampling, as in the paper's Habitat runs
    seed: NonNegativeInt = 0  # of sampling
    token_order: Literal["image_first", "text_first"] = "image_first"  # text first: image sees the prompt
    image_size: PositiveInt | None = None  # side of a frame's square in pixels; None = the checkpoint's
    chat_template: bool = True  # False: only image and text, even if the checkpoint has a chat template
    # compiles text stack and vision encoder, which takes minutes, and pads batches to two sizes (_compile.py). On a GPU
    # with CUDA graphs (untried so far); on a CPU it hardly pays. Cached passes, such as the text stack of a causal
    # model that generates, stay uncompiled. With workers set step_groups=1; else each group is padded to all rows
    compile: bool = False
    # seed of weights drawn as the architecture's training would begin with them: does pre-training matter? Sizes,
    # tokenizer and image processor stay the checkpoint's; None = its weights too
    random_weights: NonNegativeInt | None = None
    # optimizations of pr2l/vlms/backends/local.py to switch off, to measure what each one brings
    disable: tuple[Optimization, ...] = ()
    # auto = float32 on a CPU, half precision on a GPU; fastest = on a CPU that multiplies bfloat16 itself, bfloat16;
    # int8 = linear layers quantised, on a CPU; rows of a batch then share a rounding, so a row's states depend a
    # little on its neighbours. `pr2l speed` says what it gains and how similar the states stay
    dtype: Literal["auto", "fastest", "float32", "bfloat16", "float16", "int8"] = "auto"
    device: str = "auto"  # auto = the GPU if there is one
    # address of a running `vllm serve`, such as http://127.0.0.1:8000, which then has the weights and does the passes
    # (pr2l/vlms/backends/vllm.py, docs/vllm.md); None = they are done here
    server: str | None = Field(default=None, pattern="^https?://")

    @model_validator(mode="before")
    @classmethod
    def _rename_old_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and "without" in values and "disable" not in values:
            warnings.warn("vlm_options.without is now called vlm_options.disable", FutureWarning, stacklevel=2)
            values = {"disable" if key == "without" else key: value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _answers_can_end(self) -> Self:
        if self.min_new_tokens > self.new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} is more than new_tokens={self.new_tokens}")
        return self


class VLM:
    """A frozen vision-language model; a family is a subclass that says what is particular about it."""

    # Families whose image may stand anywhere in the text override this with both orders.
    token_orders: tuple[str, ...] = ("image_first",)
    # A family that is read through its own Hugging Face processor leaves the passes to `generate`.
    has_engine = True
    # Whether a pass may go on from keys and values of the input's beginning: causal attention, positions that follow
    # from the length, and no further inputs by tokens.
    can_share_prefix = False
    # Layers that early exit keeps beyond the highest one asked for.
    spare_layers = 0
    # The type id of generated tokens, where a family's tokens have types.
    answer_type = 0

    def __init__(self, path: str, options: Defaults) -> None:
        self.options = options
        self.config = self.read_config(path)
        self._check_options(path)
        self.model = self.read_model(path)
        self.read_processors(path)
        self.image_size = options.image_size or self.default_image_size()
        self._eos = _take_over_decoding(self.model) or _own_end(self.tokenizer)
        self.hidden_size = int(self.config.get_text_config().hidden_size)
        self.vision_length, self.vision_size = self._probe_vision()
        self.buckets = Buckets(options.compile)
        self._ids = lru_cache(maxsize=4096)(self._checked_layout)
        self._engine = Engine(self) if self.has_engine and "own_passes" not in options.disable else None

    @classmethod
    def load(cls, path: str, options: Defaults | None = None) -> Self:
        """Reads a checkpoint from a folder, a Hub id or "tiny". Raises UserError where that cannot work."""
        return cls(checkpoint.locate(path), options or Defaults())

    # What a family says about itself.

    def read_config(self, path: str) -> Any:
        """The config of the whole model."""
        return checkpoint.read_config(path)

    def read_model(self, path: str) -> Any:
        """The unmodified model, ready for inference."""
        device, dtype, seed = self.options.device, self.options.dtype, self.options.random_weights
        return checkpoint.read_model(path, device, dtype, self.read_weights, seed)

    def read_weights(self, path: str, dtype: torch.dtype) -> Any:
        """The unmodified model, on the CPU; layers that nobody asks for may be left out."""
        return checkpoint.read_weights(path, dtype, self.short_config())

    def read_processors(self, path: str) -> None:
        """Reads what the checkpoint holds beside the model."""
        self.tokenizer = checkpoint.read_tokenizer(path)
        self.image_processor = checkpoint.read_image_processor(path)

    def layout(self, text: str) -> list[int]:
        """The ids of the model's whole input for one text, with image_length() placeholders in one run."""
        raise NotImplementedError

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        """The model's image inputs for uint8 [B, H, W, 3]."""
        return {"pixel_values": self.squares(frames)}

    def text_inputs(self, texts: list[str], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further inputs that depend on the texts or on the padded ids [B, T]; none for most families."""
        return {}

    def image_features(self, frames: Frames) -> torch.Tensor:
        """[B, N, V]: the vision tower's tokens, after the projection where that knows no prompt."""
        features = self.encode_images(frames).pooler_output
        return features if isinstance(features, torch.Tensor) else torch.stack(list(features))

    def image_length(self) -> int:
        """I, the number of image tokens in the language model's input."""
        return self.vision_length

    def default_image_size(self) -> int:
        """Side in pixels that the vision tower was made for."""
        size = self.config.vision_config.image_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def image_token_id(self) -> int:
        """The id that stands for one image token in the input."""
        return int(self.config.image_token_id)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the input is read by an encoder and the answer written by a decoder."""
        return bool(self.config.get_text_config().is_encoder_decoder)

    @property
    def depth(self) -> int:
        """The number of layers; of an encoder-decoder, that of its shallower half: layers are taken from both."""
        text = self.config.get_text_config()
        names = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
        return int(min(getattr(text, name) for name in names if getattr(text, name, None) is not None))

    @property
    def language_model(self) -> Any:
        """The module that takes `lm_inputs` and has a head for logits; its `model` is the same without head."""
        return self.model

    def encode_images(self, frames: Frames) -> Any:
        """What the vision tower gives, as `lm_inputs` takes it: a tensor, or what get_image_features returns."""
        return self.model.get_image_features(**self.pixels(frames), return_dict=True)

    def lm_inputs(self, image_features: Any, texts: list[str]) -> dict[str, Any]:
        """What the language_model reads: as `inputs`, with precomputed image features, one row per text."""
        ids = self.ids(texts)  # of one length here: without padding, no mask is needed
        return {"input_ids": ids, "mm_encoder_outputs": {"image": image_features}, **self.text_inputs(texts, ids)}

    @property
    def image_sees_later_text(self) -> bool:
        """Whether image tokens see a prompt that comes after them, as in an encoder, which looks both
        ways."""
        return self.is_encoder_decoder

    # What users of a VLM call.

    def key(self) -> dict[str, Any]:
        """Everything that states depend on beside frame and text, in JSON values."""
        dtype = "int8" if self.options.dtype == "int8" else str(self.model.dtype).removeprefix("torch.")
        # Left out where it changes nothing, so that what was stored before the option existed is found again.
        unused = {"random_weights"} if self.options.random_weights is None else set()
        options = self.options.model_dump(mode="json", exclude={"device", "disable", "compile", "server"} | unused)
        return {"family": type(self).__name__, **self._source, **options, "dtype": dtype, "image_size": self.image_size}

    @property
    def image_sees_prompt(self) -> bool:
        """Whether the states of image tokens depend on the prompt at all."""
        return self.options.token_order == "text_first" or self.image_sees_later_text

    @property
    def new_tokens(self) -> int:
        """N, the number of generated tokens that have states; 0 without generation."""
        return 0 if self.options.generation == "none" else self.options.new_tokens

    def prompt_length(self, texts: Iterable[str]) -> int:
        """P, the number of prompt tokens of the longest of the texts."""
        return max(len(self._ids(text)) - self.image_length() for text in texts)

    @torch.no_grad()
    def vision(self, frames: Frames) -> Tokens:
        """The vision tower's own tokens, which know no prompt: float32 [B, vision_length, vision_size]."""
        check_batch(frames)
        pieces = self.buckets.pieces(len(frames))
        parts = [self.image_features(frames[self.buckets.padded(rows)])[: len(rows)] for rows in pieces]
        values = torch.cat(parts).float()
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @torch.no_grad()
    def hidden(self, frames: Frames, texts: list[str], prompt_tokens: int | None = None) -> Hidden:
        """The states of chosen layers at image, prompt and generated tokens; float32 [B, L, I + P + N, D].

        prompt_tokens: P, at least prompt_length(texts); None = the longest prompt of this batch. States of
        padding, and of positions after the end of a generated answer, are zero and masked.
        """
        check_batch(frames, texts)
        width, pieces = self._prompt_width(texts, prompt_tokens), self.buckets.pieces(len(texts))
        return concatenate([self._hidden(frames[rows], [texts[row] for row in rows], width) for rows in pieces])

    def _hidden(self, frames: Frames, texts: list[str], width: int) -> Hidden:
        """As `hidden`, of one piece of a batch; width: P."""
        spans = _spans(self.image_length(), width, self.new_tokens)
        device, end, total = self.model.device, spans["prompt"].stop, spans["generated"].stop
        states = torch.zeros(len(texts), len(self.options.layers), total, self.hidden_size, device=device)
        mask = torch.zeros(len(texts), total, dtype=torch.bool, device=device)
        lengths = torch.tensor([len(self._ids(text)) for text in texts], device=device)
        mask[:, :end] = torch.arange(end, device=device) < lengths[:, None]
        answers = [""] * len(texts)
        for rows, (given, chosen, made) in self._all_states(frames, texts):
            states[rows, :, : given.shape[2]] = given
            states[rows, :, spans["generated"]] = made
            mask[rows, spans["generated"]] = self._before_end(chosen)
            for row, answer in zip(rows, self._decode(chosen), strict=True):
                answers[row] = answer
        return Hidden(states.masked_fill_(~mask[:, None, :, None], 0.0), mask, spans, answers)

    @torch.no_grad()
    def answer(self, frames: Frames, texts: list[str], new_tokens: int) -> list[str]:
        """Greedy answers of at most new_tokens tokens, as text without special tokens."""
        check_batch(frames, texts)
        if self._engine is not None and not self._engine.can_answer:
            raise UserError(
                f"this {self.config.model_type} was loaded with generation=none, without the layers above those in"
                f" layers={list(self.options.layers)}; to have it answer, load it with generation=greedy."
            )
        answers = [""] * len(texts)
        for rows in self._passes(texts):
            inputs = self.inputs(frames[rows], [texts[row] for row in rows])
            chosen = self.model.generate(
                **inputs,
                max_new_tokens=new_tokens,
                eos_token_id=list(self._eos) or None,
                pad_token_id=self._pad,
            )
            # Before the answer an encoder-decoder returns its start token, the others their input.
            start = 1 if self.is_encoder_decoder else inputs["input_ids"].shape[1]
            for row, text in zip(rows, self._decode(chosen[:, start:]), strict=True):
                answers[row] = text
        return answers

    def inputs(self, frames: Frames, texts: list[str]) -> dict[str, torch.Tensor]:
        """The model's inputs: input_ids and attention_mask [B, T], padded on the right, and pixels."""
        ids = self.ids(texts)
        return {
            "input_ids": ids,
            "attention_mask": self.mask(texts),
            **self.pixels(frames),
            **self.text_inputs(texts, ids),
        }

    def training_inputs(
        self, frames: Frames, texts: list[str], answers: list[str]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """The model's inputs in a lesson that tells it the answers, and the targets int64 [B, T] of its logits.

        A target stands where the logits [B, T, V] do that should name it: the tokens of an answer and its end;
        IGNORE_INDEX elsewhere. An answer follows its prompt at once, in tokens as the tokenizer writes it alone.
        """
        inputs = self.inputs(frames, texts)
        told = [[*self.tokenizer(text, add_special_tokens=False)["input_ids"], *self._eos[:1]] for text in answers]
        if self.is_encoder_decoder:
            targets = _padded(told, IGNORE_INDEX).to(self.model.device)
            return inputs | {"labels": targets}, targets
        lengths = inputs["attention_mask"].sum(1).tolist()
        for key, ends in self._behind_the_prompt(told).items():
            if key not in inputs:
                continue
            rows = zip(inputs[key].tolist(), lengths, ends, strict=True)
            fill = self._pad if key == "input_ids" else 0
            inputs[key] = _padded([[*row[:length], *end] for row, length, end in rows], fill).to(inputs[key])
        # The logits that tell a token stand one place before it.
        before = [
            [*[IGNORE_INDEX] * (length - 1), *end, IGNORE_INDEX] for length, end in zip(lengths, told, strict=True)
        ]
        targets = _padded(before, IGNORE_INDEX).to(self.model.device)
        if "logits_to_keep" in signature(self.model.forward).parameters:  # those of an image would fill the memory
            inputs["logits_to_keep"] = targets.shape[1] - min(lengths) + 1
            targets = targets[:, -inputs["logits_to_keep"] :]
        return inputs, targets

    def squares(self, frames: Frames) -> torch.Tensor:
        """uint8 [B, H, W, 3] -> [B, 3, S, S], as the checkpoint's image processor would make it."""
        return self._pixels(frames)

    def ids(self, texts: list[str]) -> torch.Tensor:
        """int64 [B, T]: the inputs' ids, padded on the right."""
        return _padded([self._ids(text) for text in texts], self._pad).to(self.model.device)

    def mask(self, texts: list[str]) -> torch.Tensor:
        """int64 [B, T]: 1 where `ids` are real."""
        return _padded([[1] * len(self._ids(text)) for text in texts], 0).to(self.model.device)

    def embedded(self, texts: list[str], features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Embeddings of the input with image features [B, I, D] in their places, and the mask."""
        ids = self.ids(texts)
        words = self.model.get_input_embeddings()(ids)
        places = (ids == self.image_token_id)[..., None]
        return {"inputs_embeds": words.masked_scatter(places, features.to(words)), "attention_mask": self.mask(texts)}

    def distinct(self, frames: Frames) -> tuple[list[int], list[int]]:
        """As of _engine.distinct; every frame counts as distinct where shared_vision is disabled."""
        every = list(range(len(frames)))
        return (every, every) if "shared_vision" in self.options.disable else distinct(frames)

    # Machinery.

    def _behind_the_prompt(self, told: list[list[int]]) -> dict[str, list[list[int]]]:
        """What the inputs that go by tokens say of an answer's tokens."""
        real, types = ([[value] * len(ids) for ids in told] for value in (1, self.answer_type))
        return {"input_ids": told, "attention_mask": real, "token_type_ids": types, "mm_token_type_ids": types}

    @cached_property
    def _source(self) -> dict[str, str]:
        return checkpoint.source(self.config.name_or_path)

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels(self.image_processor, self.image_size, self.model.device, self.model.dtype)

    @property
    def _pad(self) -> int:
        """Stands where a row is shorter; masked, so any id does if the tokenizer has none for it."""
        return int(self.tokenizer.pad_token_id or 0)

    def short_config(self) -> Any | None:
        """The config of the layers that are needed; None = all are, or all have to be drawn, one after the other."""
        if self.options.random_weights is not None:
            return None
        needed = layers_needed(self)
        return shortened(self.config, needed) if needed < reading_depth(self.config) else None

    def _check_options(self, path: str) -> None:
        if self.options.token_order not in self.token_orders:
            raise UserError(
                f"token_order={self.options.token_order!r} is not possible with {path!r}: a"
                f" {self.config.model_type} has one place for its image. Use token_order=image_first, or a"
                f" family that takes images anywhere in the text, such as llava, smolvlm or qwen2_5_vl."
            )
        if self.options.compile and (not self.has_engine or "own_passes" in self.options.disable):
            raise UserError(
                f"compile=true is not possible with {path!r}: the passes of a {self.config.model_type} are left to"
                f" `generate` here. Use compile=false, or a family with passes of its own (`pr2l list vlms`)."
            )
        depth = self.depth
        if bad := [layer for layer in self.options.layers if not -depth - 1 <= layer <= depth]:
            raise UserError(
                f"layers={list(self.options.layers)}: {path!r} has {depth} layers, so {bad} is out of range;"
                f" use 0 (embeddings) to {depth}, or -{depth + 1} to -1 from the end."
            )

    def _probe_vision(self) -> tuple[int, int]:
        """Number and width of the vision tower's tokens, from one black frame."""
        size = self.image_size
        try:
            with torch.no_grad():
                features = self.image_features(np.zeros((1, size, size, 3), dtype=np.uint8))
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"the vision tower of {self.config.model_type} does not take image_size={size} ({error});"
                f" it was made for image_size={self.default_image_size()}."
            ) from error
        return features.shape[1], features.shape[2]

    def _checked_layout(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.layout(text))
        found, wanted = ids.count(self.image_token_id), self.image_length()
        if found != wanted:
            token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
            raise UserError(
                f"the prompt {text!r} gives {found} image tokens, this VLM makes {wanted} of a frame;"
                f" leave {token!r} out of the prompt, the image is put in for you."
            )
        return ids

    def _prompt_width(self, texts: list[str], prompt_tokens: int | None) -> int:
        longest = self.prompt_length(texts)
        if prompt_tokens is not None and prompt_tokens < longest:
            raise UserError(
                f"a prompt of this batch has {longest} tokens, more than prompt_tokens={prompt_tokens};"
                f" take prompt_tokens from prompt_length() of every text that can occur."
            )
        return longest if prompt_tokens is None else prompt_tokens

    def _passes(self, texts: list[str]) -> list[list[int]]:
        """Rows that can go through the model together.

        An encoder masks padding on the right exactly, so an encoder-decoder takes all rows at once. A
        decoder-only model would have to be padded on the left, which moves the positions of real tokens: rows
        of equal layout go together instead, without any padding, and nothing has to be masked. With `compile`
        the last row comes several times, with the same result.
        """
        if self.is_encoder_decoder:
            return [self.buckets.padded(range(len(texts)))]
        rows = defaultdict(list)
        for row, text in enumerate(texts):
            ids = self._ids(text)
            rows[len(ids), ids.index(self.image_token_id)].append(row)
        return [self.buckets.padded(each) for each in rows.values()]

    def _all_states(self, frames: Frames, texts: list[str]) -> Iterator[tuple[list[int], Passes]]:
        """What `_states` gives, pass by pass, and the rows of each."""
        looked = self._engine.encode_images(frames) if self._engine is not None else None
        for rows in self._passes(texts):
            of_rows = looked.at(rows) if looked is not None else None
            yield rows, self._states(frames[rows], [texts[row] for row in rows], of_rows)

    def _states(self, frames: Frames, texts: list[str], looked: ImageFeatures | None = None) -> Passes:
        """Input states [B, L, I + P, D] in Hidden's order, generated ids [B, N], their states [B, L, N, D].

        looked: what the engine saw in the frames; None = it has not looked yet.
        """
        if self._engine is None:
            return self._states_of_generate(frames, texts)
        looked = looked or self._engine.encode_images(frames)
        before, chosen, after = self._engine.states(looked, texts, self._decoding(frames, texts))
        return before[:, :, self._order(self.ids(texts))], chosen, after

    def _states_of_generate(self, frames: Frames, texts: list[str]) -> Passes:
        inputs, count = self.inputs(frames, texts), self.new_tokens
        out = self.model.generate(
            **inputs,
            max_new_tokens=count + 1,
            logits_processor=[self._decoding(frames, texts)],
            output_hidden_states=True if self.is_encoder_decoder else list(self.options.layers),
            return_dict_in_generate=True,
        )
        steps = out.decoder_hidden_states if self.is_encoder_decoder else out.hidden_states
        given = out.encoder_hidden_states if self.is_encoder_decoder else steps[0]
        before = self._chosen_layers(given)[:, :, self._order(inputs["input_ids"])]
        made = [self._chosen_layers(step)[:, :, -1:] for step in steps[1:]]
        first = out.sequences.shape[1] - count - 1
        return before, out.sequences[:, first : first + count], torch.cat([before[:, :, :0], *made], dim=2)

    def _chosen_layers(self, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """float32 [B, L, T, D] of a model's tuple of hidden states."""
        return torch.stack([states[layer] for layer in self.options.layers], dim=1).float()

    def _order(self, ids: torch.Tensor) -> torch.Tensor:
        """Positions of the image tokens, then those of the others; the same for all rows of a pass."""
        image = ids[0] == self.image_token_id
        return torch.cat([image.nonzero().flatten(), (~image).nonzero().flatten()])

    def _decoding(self, frames: Frames, texts: list[str]) -> Decoding:
        options, steps = self.options, self.new_tokens + 1
        numbers = uniforms(options.seed, frames, texts, steps) if options.generation == "sample" else None
        return Decoding(self._eos, options.min_new_tokens, numbers, options.temperature)

    def _before_end(self, chosen: torch.Tensor) -> torch.Tensor:
        """bool [B, N]: True up to and including the token that ends the answer."""
        ends = torch.isin(chosen, torch.tensor(self._eos, device=chosen.device, dtype=chosen.dtype))
        return ends.cumsum(1) - ends.long() == 0

    def _decode(self, chosen: torch.Tensor) -> list[str]:
        real = self._before_end(chosen)
        rows = [ids[keep].tolist() for ids, keep in zip(chosen, real, strict=True)]
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def concatenate(parts: Sequence[Hidden]) -> Hidden:
    """The states of some rows after those of others, in equal spans."""
    if len(parts) == 1:
        return parts[0]
    states, mask = (torch.cat([getattr(part, name) for part in parts]) for name in ("states", "mask"))
    return Hidden(states, mask, parts[0].spans, [answer for part in parts for answer in part.answers])


def _take_over_decoding(model: Any) -> tuple[int, ...]:
    """Drops the checkpoint's preferences for decoding (beams, penalties, forced tokens); returns its EOS ids.

    EOS is dropped too: `generate` then always makes all its tokens, so that every row has a state at every
    position and what follows the end of an answer is ours to mask.
    """
    ends = model.generation_config.eos_token_id
    # BLIP-2 and InstructBLIP hand `generate` on to the language model inside them.
    inner: Any = getattr(model, "language_model", None)
    for module in (model, inner):
        if (old := getattr(module, "generation_config", None)) is not None:
            ends = old.eos_token_id if ends is None else ends
            kept = {name: getattr(old, name) for name in ("bos_token_id", "pad_token_id", "decoder_start_token_id")}
            module.generation_config = GenerationConfig(**kept)
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)


def _own_end(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """int64 [B, T]: the rows, padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _spans(image: int, prompt: int, generated: int) -> dict[str, slice]:
    input_end = image + prompt
    return {
        "image": slice(0, image),
        "prompt": slice(image, input_end),
        "generated": slice(input_end, input_end + generated),
    }


def check_batch(frames: Frames, texts: list[str] | None = None) -> None:
    """ValueError unless frames are uint8 [B, H, W, 3], and texts, if any, one for each."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; a batch is uint8 [B, H, W, 3], RGB, B >= 1")
    if texts is not None and len(texts) != len(frames):
        raise ValueError(f"{len(texts)} texts for {len(frames)} frames; give one text per frame")

"""Base class of all families of VLM: batching, generation, and the layout of the hidden states.

    frames, prompts --layout--> token ids with image placeholders --\\
    frames --------pixels-----> inputs of the vision tower ----------> language model --> Hidden

The unmodified Hugging Face model computes everything. Its first forward pass returns the states of the whole input,
each later pass the state of one generated token. The last token of `generate` is not fed back and has no state.
Therefore one more token than requested is generated and dropped, and N generated tokens have N states.

    model's order   BOS  USER :  [image x I]  where is it ?  ASSISTANT :   left  of  you  </s>
    Hidden's order  |--- image: I ---|--- prompt: P, padded on the right ---|--- generated: N ---|

Image and prompt together are the whole input: "prompt" is every input token that is not an image token, in the model's
order, with the tokens of the chat template and special tokens. In an encoder-decoder model (Florence-2, Flan-T5) image
and prompt states come from the encoder's layers, generated ones from the decoder's.

Letters in shapes: B rows, M images of all rows, L layers, T tokens, D width of a state, H x W pixels of a frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from typing_extensions import Self

from pr2l.core.errors import UserError
from pr2l.core.messages import Message
from pr2l.core.types import Frames, Hidden, Tokens
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import Engine, PassStates, distinct, layers_needed, reading_depth, shortened
from pr2l.vlms.compile import Buckets
from pr2l.vlms.conversation import Conversation, Images, Prompt, Prompts, as_prompts, image_count, images_of
from pr2l.vlms.decoding import Decoding, uniforms
from pr2l.vlms.options import OPTIMIZATIONS, Defaults, Optimization
from pr2l.vlms.pixels import Pixels

__all__ = ["IGNORE_INDEX", "OPTIMIZATIONS", "VLM", "Defaults", "Optimization", "check_batch"]

IGNORE_INDEX = -100  # a target that the loss ignores, as in transformers


class VLM:
    """A frozen vision-language model. A family is a subclass that defines the layout of its input.

    Args:
        path: A local folder or a Hub id.
        options: Options of the VLM.

    Attributes:
        options: Options of the VLM.
        config: Config of the whole model.
        model: The unmodified transformers model.
        tokenizer: Its tokenizer.
        image_size: Side in pixels of the square that the vision tower reads; with aspect=native the square root of the
            largest area.
        picture_size: Height and width in pixels of the pictures that the vision tower reads.
        hidden_size: D, width of a hidden state.
        vision_length: Number of tokens of the vision tower per image, as in `vision`.
        vision_size: Width of these tokens.
        token_ids: Function from a prompt to the token ids of the model's whole input.
    """

    # A family whose image may be anywhere in the text overrides this with both orders.
    token_orders: tuple[str, ...] = ("image_first",)
    # Whether backends/local.py runs the forward passes; False = transformers' `generate`, or a server.
    has_engine = True
    # Whether a pass may continue from keys and values of the input's beginning: causal attention, positions that follow
    # from the length, and no further inputs per token.
    can_share_prefix = False
    # Number of layers that early exit keeps above the highest chosen one.
    spare_layers = 0
    # The type id of generated tokens, in a family whose tokens have types.
    answer_type = 0

    def __init__(self, path: str, options: Defaults) -> None:
        self.options = options
        self.config = self.read_config(path)
        self._check_options(path)
        self.model = self.read_model(path)
        self.read_processors(path)
        self.image_size = options.image_size or self.default_image_size()
        self.picture_size = self._picture_size()
        self._eos = _take_over_decoding(self.model) or _own_end(self.tokenizer)
        self.hidden_size = int(self.config.get_text_config().hidden_size)
        self.vision_length, self.vision_size = self._probe_vision()
        if self.is_encoder_decoder:
            self._check_length(self.new_tokens + 1, f"new_tokens={options.new_tokens}")
        self.buckets = Buckets(options.compile)
        self.token_ids = lru_cache(maxsize=4096)(self._checked_layout)
        self._image_places = lru_cache(maxsize=4096)(self._find_images)
        self._engine = Engine(self) if self.has_engine and "own_passes" not in options.disable else None

    @classmethod
    def load(cls, path: str, options: Defaults | None = None) -> Self:
        """Load a checkpoint.

        Args:
            path: A local folder, a Hub id, or the name of a VLM that ships with pr2l, such as "tiny".
            options: None = the defaults.

        Raises:
            UserError: There is no such checkpoint, or the options do not fit it.
        """
        return cls(checkpoint.locate(path), options or Defaults())

    # Methods that a family overrides.

    def read_config(self, path: str) -> Any:
        """Read the config of the whole model."""
        return checkpoint.read_config(path)

    def read_model(self, path: str) -> Any:
        """Read the unmodified model, ready for inference."""
        device, dtype, seed = self.options.device, self.options.dtype, self.options.random_weights
        return checkpoint.read_model(path, device, dtype, self.read_weights, seed)

    def read_weights(self, path: str, dtype: torch.dtype) -> Any:
        """Read the unmodified model onto the CPU, without layers that the options do not need.

        Args:
            path: A local folder or a Hub id.
            dtype: Type of the weights.
        """
        return checkpoint.read_weights(path, dtype, self.short_config())

    def read_processors(self, path: str) -> None:
        """Read the tokenizer, the image processor, and any other part that the family needs."""
        self.tokenizer = checkpoint.read_tokenizer(path)
        self.image_processor = checkpoint.read_image_processor(path)

    def layout(self, text: str) -> list[int]:
        """Return the token ids of the model's whole input for one text, with image_length() adjacent placeholders."""
        raise NotImplementedError

    def conversation_layout(self, conversation: Conversation) -> list[int]:
        """Return the token ids of the model's whole input for a conversation, with image_length() placeholders per
        image.

        Raises:
            UserError: The family does not support such a conversation.
        """
        return self.layout(self.plain_text(conversation))

    def plain_text(self, prompt: Prompt) -> str:
        """Return the text of a prompt, for a family whose input is one image followed by one text.

        Raises:
            UserError: The prompt is a conversation with more parts, or in another order.
        """
        if isinstance(prompt, str):
            return prompt
        (role, parts), *others = prompt.turns
        if others or role != "user" or parts[0] is not None or None in parts[1:]:
            raise UserError(
                f"a {self.config.model_type} takes one image and then one text, not the conversation {prompt}."
                " Use a family with a chat template, such as smolvlm or qwen2_5_vl, or one message of the user that"
                " holds an image and then text."
            )
        return "\n".join(part for part in parts if part is not None)

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        """Return the model's image inputs for frames uint8 [M, H, W, 3]."""
        return {"pixel_values": self.preprocess(frames)}

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return further model inputs that depend on the text; none for most families.

        Args:
            prompts: B prompts.
            ids: int64 [B, T], their token ids with padding.
        """
        return {}

    def image_features(self, frames: Frames) -> torch.Tensor:
        """Return the vision tower's tokens [M, N, V], after the projection unless the projection uses the prompt."""
        features = self.encode_images(frames).pooler_output
        return features if isinstance(features, torch.Tensor) else torch.stack(list(features))

    def image_length(self) -> int:
        """Return the number of tokens that one image takes in the language model's input."""
        return self.vision_length

    def default_image_size(self) -> int:
        """Return the side in pixels of the square for which the vision tower was made."""
        size = self.config.vision_config.image_size
        return int(size if isinstance(size, int) else size[0])

    def native_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the picture that the vision tower reads for a frame, with aspect=native.

        Args:
            height: Height of the frame in pixels.
            width: Width of the frame in pixels.

        Returns:
            Height and width in pixels.

        Raises:
            UserError: The family reads squares only.
        """
        raise UserError(
            f"aspect=native is not possible with a {self.config.model_type}, whose vision tower reads squares; use"
            " aspect=letterbox, or a Qwen-VL."
        )

    @property
    def image_token_id(self) -> int:
        """Token id of one image placeholder in the input."""
        return int(self.config.image_token_id)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer converts to control tokens, at any position."""
        return tuple(
            {*self.tokenizer.all_special_tokens, str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))}
        )

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the language model has an encoder for the input and a decoder for the answer."""
        return bool(self.config.get_text_config().is_encoder_decoder)

    @property
    def depth(self) -> int:
        """Number of layers; for an encoder-decoder, the smaller of the two numbers, as layers are taken from both."""
        text = self.config.get_text_config()
        names = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
        return int(min(getattr(text, name) for name in names if getattr(text, name, None) is not None))

    @property
    def language_model(self) -> Any:
        """The module that takes `lm_inputs` and has a head for logits; its attribute `model` has no head."""
        return self.model

    def encode_images(self, frames: Frames) -> Any:
        """Return the image features that `lm_inputs` takes: a tensor, or the output of get_image_features.

        Args:
            frames: uint8 [M, H, W, 3].
        """
        return self.model.get_image_features(**self.pixels(frames), return_dict=True)

    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Return language-model inputs with precomputed image features.

        Args:
            image_features: Result of `encode_images` for the prompts' images, in order.
            prompts: B prompts; unless the model is an encoder-decoder, all with the same number of token ids.
        """
        ids = self.ids(prompts)  # all of one length: without padding, no mask is needed
        return {"input_ids": ids, "mm_encoder_outputs": {"image": image_features}, **self.text_inputs(prompts, ids)}

    @property
    def image_sees_later_text(self) -> bool:
        """Whether image tokens attend to text that comes after them, as in an encoder."""
        return self.is_encoder_decoder

    # Methods for users of a VLM.

    def key(self) -> dict[str, Any]:
        """Return everything that states depend on beside frame and text, as JSON values."""
        dtype = "int8" if self.options.dtype == "int8" else str(self.model.dtype).removeprefix("torch.")
        # An option with its default is left out, so that embeddings stored before the option existed are found.
        defaults = Defaults()
        newer = ("random_weights", "aspect", "frame_size")
        unused = {name for name in newer if getattr(self.options, name) == getattr(defaults, name)}
        options = self.options.model_dump(mode="json", exclude={"device", "disable", "compile", "server"} | unused)
        return {"family": type(self).__name__, **self._source, **options, "dtype": dtype, "image_size": self.image_size}

    @property
    def image_sees_prompt(self) -> bool:
        """Whether the states of image tokens depend on the prompt."""
        return self.options.token_order == "text_first" or self.image_sees_later_text

    @property
    def new_tokens(self) -> int:
        """N, the number of generated tokens that have states; 0 without generation."""
        return 0 if self.options.generation == "none" else self.options.new_tokens

    def prompt_length(self, prompts: Iterable[str] | Iterable[Sequence[Message]] | Iterable[Prompt]) -> int:
        """Return P for some prompts: the number of input tokens of the longest prompt, without image tokens."""
        ids = map(self.token_ids, as_prompts(list(prompts)))  # type: ignore[arg-type]
        return max(len(row) - row.count(self.image_token_id) for row in ids)

    @torch.no_grad()
    def vision(self, frames: Frames) -> Tokens:
        """Return the vision tower's own tokens, which do not depend on a prompt.

        Args:
            frames: uint8 [M, H, W, 3].

        Returns:
            float32 values [M, vision_length, vision_size], with a mask of True.
        """
        self._check_frames(frames)
        pieces = self.buckets.pieces(len(frames))
        parts = [self.image_features(frames[self.buckets.padded(rows)])[: len(rows)] for rows in pieces]
        values = torch.cat(parts).float()
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @torch.no_grad()
    def hidden(self, frames: Images, prompts: Prompts, prompt_tokens: int | None = None) -> Hidden:
        """Return the hidden states of the chosen layers at image, prompt and generated tokens.

        Args:
            frames: One image per row, uint8 [B, H, W, 3]; or, with messages, a list of uint8 [H, W, 3] per row.
            prompts: One text per row, which the options put before or after its image; or one conversation per row in
                transformers' chat format, with a part {"type": "image"} for each of the row's images.
            prompt_tokens: P, at least prompt_length(prompts); None = the longest prompt of this batch.

        Returns:
            float32 states [B, L, I + P + N, D], where I is the largest number of image tokens of a row. States of
            padding, and of positions after the end of a generated answer, are zero and masked.

        Raises:
            UserError: The family does not support such a conversation, or a prompt is longer than prompt_tokens.
        """
        frames, rows_prompts = self.batch(frames, prompts)
        length, device = self.image_length(), self.model.device
        counts = torch.tensor([image_count(prompt) for prompt in rows_prompts], device=device)[:, None] * length
        spans = _spans(int(counts.max()), self._prompt_width(rows_prompts, prompt_tokens), self.new_tokens)
        total = spans["generated"].stop
        states = torch.zeros(len(rows_prompts), len(self.options.layers), total, self.hidden_size, device=device)
        mask = torch.zeros(len(rows_prompts), total, dtype=torch.bool, device=device)
        lengths = torch.tensor([len(self.token_ids(prompt)) for prompt in rows_prompts], device=device)[:, None]
        for span, real in ((spans["image"], counts), (spans["prompt"], lengths - counts)):
            mask[:, span] = torch.arange(span.stop - span.start, device=device) < real
        answers = [""] * len(rows_prompts)
        for piece in self.buckets.pieces(len(rows_prompts)):
            for rows, output in self.passes(*self._select(frames, rows_prompts, piece)):
                places = [piece[row] for row in rows]
                images = int(counts[places[0]])
                states[places, :, :images] = output.inputs[:, :, :images]
                text = output.inputs[:, :, images:]
                states[places, :, spans["prompt"].start : spans["prompt"].start + text.shape[2]] = text
                states[places, :, spans["generated"]] = output.generated
                mask[places, spans["generated"]] = self._before_end(output.tokens)
                for place, answer in zip(places, self._decode(output.tokens), strict=True):
                    answers[place] = answer
        return Hidden(states.masked_fill_(~mask[:, None, :, None], 0.0), mask, spans, answers)

    def answer(self, frames: Images, prompts: Prompts, new_tokens: int) -> list[str]:
        """Generate greedy answers as text, without special tokens.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.
            new_tokens: Largest number of tokens of an answer, its end token included.

        Returns:
            B texts.
        """
        return [self.decode(ids) for ids in self.generate(frames, prompts, new_tokens)]

    @torch.no_grad()
    def generate(
        self,
        frames: Images,
        prompts: Prompts,
        new_tokens: int,
        *,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """Generate token ids.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.
            new_tokens: Largest number of tokens of an answer, its end token included.
            samples: Answers per prompt.
            temperature: Sampling temperature; 0 = greedy, with equal samples of a prompt.
            seed: Seed of sampling. An answer depends on the seed, its images, its prompt and its index among the
                samples, not on the other rows of the batch.

        Returns:
            B x samples rows of token ids, with the samples of a prompt next to each other. An answer's end token is its
            last.

        Raises:
            UserError: The model was loaded without its upper layers.
        """
        self.check_complete()
        frames, prompts = self.batch(frames, prompts)
        longest = 0 if self.is_encoder_decoder else max(len(self.token_ids(prompt)) for prompt in prompts)
        self._check_length(longest + new_tokens, f"an answer of {new_tokens} tokens")
        draws = samples if temperature else 1
        repeated = [row for row in range(len(prompts)) for _ in range(draws)]
        numbers = uniforms(seed, self._split(frames, prompts), prompts, new_tokens, draws) if temperature else None
        frames, prompts = self._select(frames, prompts, repeated)
        answers: list[list[int]] = [[]] * len(prompts)
        for rows in self._groups(prompts):
            inputs = self.inputs(*self._select(frames, prompts, rows))
            decoding = Decoding(self._eos, 0, None if numbers is None else numbers[rows], temperature or 1.0)
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=new_tokens,
                eos_token_id=list(self._eos) or None,
                pad_token_id=self._pad,
                logits_processor=[decoding],
            )
            # Before the answer an encoder-decoder returns its start token, other models return their input.
            tokens = tokens[:, 1 if self.is_encoder_decoder else inputs["input_ids"].shape[1] :]
            for row, ids, real in zip(rows, tokens, self._before_end(tokens), strict=True):
                answers[row] = ids[real].tolist()
        return answers if temperature else [ids for ids in answers for _ in range(samples)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's token ids, without special tokens and surrounding space."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def inputs(self, frames: Images, prompts: Prompts) -> dict[str, torch.Tensor]:
        """Return the inputs of the unmodified model.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.

        Returns:
            input_ids and attention_mask [B, T], padded on the right, the image inputs, and the `text_inputs`.
        """
        frames, prompts = self.batch(frames, prompts)
        ids = self.ids(prompts)
        return {
            "input_ids": ids,
            "attention_mask": self.mask(prompts),
            **self.pixels(frames),
            **self.text_inputs(prompts, ids),
        }

    def training_inputs(
        self, frames: Images, prompts: Prompts, answers: Sequence[str | Sequence[int]]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the model's inputs with the answers appended, and the targets of its logits.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.
            answers: One answer per row: a text, which is tokenised by itself and gets the model's end token, or token
                ids, which are used as they are.

        Returns:
            Inputs, and targets int64 [B, T] of the logits [B, T, V]. The target at a position is the answer's token
            that the logits at this position predict, and IGNORE_INDEX elsewhere. If the model has the option
            logits_to_keep, T covers only the last positions, from the first answer on.

        Raises:
            UserError: The model was loaded without its upper layers, or an answer contains an image token.
        """
        self.check_complete()
        inputs = self.inputs(frames, prompts)
        answer_ids = [
            [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], *self._eos[:1]]
            if isinstance(answer, str)
            else list(answer)
            for answer in answers
        ]
        longest = 0 if self.is_encoder_decoder else inputs["input_ids"].shape[1]
        self._check_length(longest + max(map(len, answer_ids)), "an answer to learn from")
        if self.is_encoder_decoder:
            targets = _padded(answer_ids, IGNORE_INDEX).to(self.model.device)
            return inputs | {"labels": targets}, targets
        if any(self.image_token_id in ids for ids in answer_ids):
            raise UserError(
                "an answer holds an image token, which stands for an image that is not there; leave it out."
            )
        lengths = inputs["attention_mask"].sum(1).tolist()
        real, types = ([[value] * len(ids) for ids in answer_ids] for value in (1, self.answer_type))
        per_token = {
            "input_ids": answer_ids,
            "attention_mask": real,
            "token_type_ids": types,
            "mm_token_type_ids": types,
        }
        for key, values in per_token.items():
            if key not in inputs:
                continue
            rows = zip(inputs[key].tolist(), lengths, values, strict=True)
            fill = self._pad if key == "input_ids" else 0
            inputs[key] = _padded([[*row[:length], *end] for row, length, end in rows], fill).to(inputs[key])
        # The logits that predict a token are one position before it.
        ends = zip(lengths, answer_ids, strict=True)
        before = [[*[IGNORE_INDEX] * (length - 1), *ids, IGNORE_INDEX] for length, ids in ends]
        targets = _padded(before, IGNORE_INDEX).to(self.model.device)
        if "logits_to_keep" in signature(self.model.forward).parameters:  # logits of image tokens would fill the memory
            inputs["logits_to_keep"] = targets.shape[1] - min(lengths) + 1
            targets = targets[:, -inputs["logits_to_keep"] :]
        return inputs, targets

    def check_complete(self) -> None:
        """Raise UserError if the model was loaded without its upper layers, which answers and training need."""
        if self._engine is not None and not self._engine.is_complete:
            raise UserError(
                f"this {self.config.model_type} was loaded with generation=none, without the layers above those in"
                f" layers={list(self.options.layers)}; to have it answer or learn, load it with generation=greedy."
            )

    # Methods for families and backends.

    def batch(self, frames: Images, prompts: Prompts) -> tuple[Frames, list[Prompt]]:
        """Check a batch and convert it to one form.

        Args:
            frames: As in `hidden`.
            prompts: As in `hidden`.

        Returns:
            The images of all rows in order, uint8 [M, H, W, 3], and the prompts, with messages converted to
            conversations.

        Raises:
            ValueError: The number or the shape of the images does not match the prompts.
            UserError: A conversation is invalid.
        """
        rows = as_prompts(prompts)
        if not isinstance(frames, np.ndarray):
            if [len(images) for images in frames] != (counts := [image_count(prompt) for prompt in rows]):
                raise ValueError(
                    f"rows have {[len(images) for images in frames]} images, their prompts refer to {counts}"
                )
            pictures = [image for images in frames for image in images]
            for picture in pictures:
                self._check_frames(np.asarray(picture)[None])
            if len({picture.shape for picture in pictures}) > 1:
                pictures = [self.fit(picture[None])[0] for picture in pictures]
            frames = np.stack(pictures)
        else:
            self._check_frames(frames)
        if not len(rows) or len(frames) != (count := sum(map(image_count, rows))):
            raise ValueError(
                f"{len(rows)} prompts with {count if rows else 0} images for {len(frames)} frames; give one text per"
                " frame, or messages with one image part per frame"
            )
        return frames, rows

    def fit(self, frames: Frames) -> Frames:
        """Stretch or pad frames uint8 [M, H, W, 3] to pictures uint8 [M, *picture_size, 3] for the vision tower."""
        return self._pixels.fit(frames)

    def preprocess(self, frames: Frames) -> torch.Tensor:
        """Convert frames uint8 [M, H, W, 3] to the vision tower's input [M, 3, *picture_size].

        Apart from the geometry, the result equals that of the checkpoint's image processor.
        """
        return self._pixels(frames)

    def ids(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the token ids of the inputs, int64 [B, T], padded on the right."""
        return _padded([self.token_ids(prompt) for prompt in prompts], self._pad).to(self.model.device)

    def mask(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the attention mask, int64 [B, T]: 1 for token ids, 0 for padding."""
        return _padded([[1] * len(self.token_ids(prompt)) for prompt in prompts], 0).to(self.model.device)

    def embed_inputs(self, prompts: Sequence[Prompt], features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return embeddings of the input with image features in place of the image placeholders, and the attention
        mask.

        Args:
            prompts: B prompts.
            features: [B, I, D], features of the prompts' images, as wide as the embeddings.
        """
        ids = self.ids(prompts)
        words = self.model.get_input_embeddings()(ids)
        places = (ids == self.image_token_id)[..., None]
        return {"inputs_embeds": words.masked_scatter(places, features.to(words)), "attention_mask": self.mask(prompts)}

    def distinct(self, frames: Frames) -> tuple[list[int], list[int]]:
        """Find repeated frames as `backends.local.distinct` does; none if shared_vision is disabled."""
        rows = list(range(len(frames)))
        return (rows, rows) if "shared_vision" in self.options.disable else distinct(frames)

    def passes(self, frames: Frames, prompts: list[Prompt]) -> Iterator[tuple[list[int], PassStates]]:
        """Run the model on a batch, and yield the states of rows that go through the model together.

        Args:
            frames: uint8 [M, H, W, 3], from `batch`.
            prompts: B prompts, from `batch`.

        Yields:
            Indices of rows, and their states. Input states are in Hidden's order: image tokens, then the others.
        """
        features = self._engine.encode_images(frames) if self._engine is not None else None
        for rows in self._groups(prompts):
            of_rows = self._select(frames, prompts, rows)
            if self._engine is None or features is None:
                yield rows, self._passes_of_generate(*of_rows)
            else:
                images = features.select(images_of(prompts, rows))
                states = self._engine.run(images, of_rows[1], self._decoding(*of_rows))
                yield rows, states._replace(inputs=states.inputs[:, :, self._order(self.ids(of_rows[1]))])

    def short_config(self) -> Any | None:
        """Return a config with only the layers that are needed; None = read the whole model.

        With random_weights it is None, because all layers have to be drawn, one after the other.
        """
        if self.options.random_weights is not None:
            return None
        needed = layers_needed(self)
        return shortened(self.config, needed) if needed < reading_depth(self.config) else None

    # Internals.

    def _passes_of_generate(self, frames: Frames, prompts: list[Prompt]) -> PassStates:
        """Return the same states from `generate`, for families without passes of their own."""
        inputs, count = self.inputs(frames, prompts), self.new_tokens
        out = self.model.generate(
            **inputs,
            max_new_tokens=count + 1,
            logits_processor=[self._decoding(frames, prompts)],
            output_hidden_states=True if self.is_encoder_decoder else list(self.options.layers),
            return_dict_in_generate=True,
        )
        steps = out.decoder_hidden_states if self.is_encoder_decoder else out.hidden_states
        input_states = out.encoder_hidden_states if self.is_encoder_decoder else steps[0]
        ordered = self._chosen_layers(input_states)[:, :, self._order(inputs["input_ids"])]
        generated = [self._chosen_layers(step)[:, :, -1:] for step in steps[1:]]
        first = out.sequences.shape[1] - count - 1
        tokens = out.sequences[:, first : first + count]
        return PassStates(ordered, tokens, torch.cat([ordered[:, :, :0], *generated], dim=2))

    def _chosen_layers(self, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the chosen layers of a model's tuple of hidden states, float32 [B, L, T, D]."""
        return torch.stack([states[layer] for layer in self.options.layers], dim=1).float()

    def _order(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the positions of the image tokens, then those of the others; they are equal for all rows of a pass."""
        image = ids[0] == self.image_token_id
        return torch.cat([image.nonzero().flatten(), (~image).nonzero().flatten()])

    def _groups(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Group the rows that can go through the model together.

        An encoder masks padding on the right exactly, so rows of an encoder-decoder may differ in length. A
        decoder-only model would need padding on the left, which moves the positions of real tokens. Therefore its rows
        of equal layout form a group, without any padding or mask. With `compile` the last row of a group is repeated,
        with the same result.
        """
        groups = defaultdict(list)
        for row, prompt in enumerate(prompts):
            length = 0 if self.is_encoder_decoder else len(self.token_ids(prompt))
            groups[self._image_places(prompt), length].append(row)
        return [self.buckets.padded(rows) for rows in groups.values()]

    def _select(self, frames: Frames, prompts: list[Prompt], rows: list[int]) -> tuple[Frames, list[Prompt]]:
        """Return some rows of a batch, with their images."""
        return frames[images_of(prompts, rows)], [prompts[row] for row in rows]

    def _split(self, frames: Frames, prompts: Sequence[Prompt]) -> list[Frames]:
        """Return the images of each row, uint8 [images, H, W, 3]."""
        return [frames[images_of(prompts, [row])] for row in range(len(prompts))]

    def _decoding(self, frames: Frames, prompts: Sequence[Prompt]) -> Decoding:
        options, steps = self.options, self.new_tokens + 1
        sampled = options.generation == "sample"
        numbers = uniforms(options.seed, self._split(frames, prompts), prompts, steps) if sampled else None
        return Decoding(self._eos, options.min_new_tokens, numbers, options.temperature)

    def _before_end(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return a mask, bool [B, N]: True up to and including the token that ends the answer."""
        ends = torch.isin(tokens, torch.tensor(self._eos, device=tokens.device, dtype=tokens.dtype))
        return ends.cumsum(1) - ends.long() == 0

    def _decode(self, tokens: torch.Tensor) -> list[str]:
        real = self._before_end(tokens)
        return [self.decode(ids[keep].tolist()) for ids, keep in zip(tokens, real, strict=True)]

    @cached_property
    def _source(self) -> dict[str, str]:
        return checkpoint.source(self.config.name_or_path)

    @cached_property
    def _pixels(self) -> Pixels:
        model, letterbox = self.model, self.options.aspect == "letterbox"
        return Pixels(self.image_processor, self.picture_size, model.device, model.dtype, letterbox=letterbox)

    @property
    def _pad(self) -> int:
        """Id of padding, which is always masked; 0 if the tokenizer has none."""
        return int(self.tokenizer.pad_token_id or 0)

    def _picture_size(self) -> tuple[int, int]:
        """Return the height and the width of the pictures that the vision tower reads."""
        if self.options.aspect != "native":
            return self.image_size, self.image_size
        if self.options.frame_size is None:
            raise UserError("aspect=native needs frame_size=[height, width] of the frames; see vlm_options.frame_size.")
        return self.native_size(*self.options.frame_size)

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
        """Return the number and the width of the vision tower's tokens, from one black picture."""
        try:
            with torch.no_grad():
                features = self.image_features(np.zeros((1, *self.picture_size, 3), dtype=np.uint8))
        except (ValueError, RuntimeError, IndexError) as error:
            raise UserError(
                f"the vision tower of {self.config.model_type} does not take image_size={self.image_size} ({error});"
                f" it was made for image_size={self.default_image_size()}."
            ) from error
        return features.shape[1], features.shape[2]

    def _checked_layout(self, prompt: Prompt) -> tuple[int, ...]:
        ids = tuple(self.layout(prompt) if isinstance(prompt, str) else self.conversation_layout(prompt))
        count, expected = ids.count(self.image_token_id), self.image_length() * image_count(prompt)
        if count != expected:
            token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
            raise UserError(
                f"the prompt {str(prompt)!r} gives {count} image tokens, and its images take {expected};"
                f" leave {token!r} out of the prompt, images are put in for you."
            )
        answer = 0 if self.is_encoder_decoder else self.new_tokens
        self._check_length(len(ids) + answer, f"the prompt {str(prompt)[:60]!r}")
        return ids

    @cached_property
    def _positions(self) -> int | None:
        """Length of the longest sequence if positions are learned; None = positions are computed, for any length."""
        model = self.language_model
        stacks = [model.get_encoder(), model.get_decoder()] if self.is_encoder_decoder else [model.get_decoder()]
        for stack in stacks:
            for name, module in stack.named_modules():
                if name.rpartition(".")[2] == "embed_positions" and isinstance(module, torch.nn.Embedding):
                    return int(self.config.get_text_config().max_position_embeddings)
        return None

    def _check_length(self, tokens: int, what: str) -> None:
        if self._positions is not None and tokens > self._positions:
            raise UserError(
                f"{what} is too long: {tokens} tokens of image, text and answer, and this {self.config.model_type} has"
                f" positions for {self._positions}. Use a shorter prompt or fewer new tokens."
            )

    def _find_images(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the positions of the image tokens in the input."""
        return tuple(place for place, token in enumerate(self.token_ids(prompt)) if token == self.image_token_id)

    def _prompt_width(self, prompts: Sequence[Prompt], prompt_tokens: int | None) -> int:
        longest = self.prompt_length(prompts)
        if prompt_tokens is not None and prompt_tokens < longest:
            raise UserError(
                f"a prompt of this batch has {longest} tokens, more than prompt_tokens={prompt_tokens};"
                f" take prompt_tokens from prompt_length() of every prompt that can occur."
            )
        return longest if prompt_tokens is None else prompt_tokens

    def _check_frames(self, frames: Frames) -> None:
        check_batch(frames)
        size = self.options.frame_size
        if self.options.aspect == "native" and frames.shape[1:3] not in (size, self.picture_size):
            raise UserError(
                f"frames are {frames.shape[1]} x {frames.shape[2]} pixels, and this VLM was loaded with"
                f" frame_size={list(size or ())}; with aspect=native, load it with the size of the frames."
            )


def _take_over_decoding(model: Any) -> tuple[int, ...]:
    """Drop the checkpoint's settings for decoding (beams, penalties, forced tokens), and return its EOS ids.

    EOS is dropped too. `generate` then always makes all its tokens, so that every row has a state at every position,
    and this module masks the positions after the end of an answer.
    """
    ends = model.generation_config.eos_token_id
    # BLIP-2 and InstructBLIP call `generate` of the language model inside them.
    inner: Any = getattr(model, "language_model", None)
    for module in (model, inner):
        if (old := getattr(module, "generation_config", None)) is not None:
            ends = old.eos_token_id if ends is None else ends
            names = ("bos_token_id", "pad_token_id", "decoder_start_token_id")
            module.generation_config = GenerationConfig(**{name: getattr(old, name) for name in names})
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)


def _own_end(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Return the rows, padded on the right, as int64 [B, T]."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _spans(image: int, prompt: int, generated: int) -> dict[str, slice]:
    input_end = image + prompt
    return {
        "image": slice(0, image),
        "prompt": slice(image, input_end),
        "generated": slice(input_end, input_end + generated),
    }


def check_batch(frames: Frames) -> None:
    """Raise ValueError unless frames are uint8 [M, H, W, 3] with M >= 1."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; a batch is uint8 [B, H, W, 3], RGB, B >= 1")

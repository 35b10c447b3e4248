"""What differs between families of VLMs: the parts of a checkpoint, and the inputs of its model.

    text or conversation --layout--> token ids with image placeholders --\\
                                                                          lm_inputs --> language model
    frames --pixels--> inputs of the vision tower --encode_images--------/

A family overrides methods of `Family`, down to "Methods that a family calls". `pr2l.vlms.base.VLM` adds what users of a
VLM call.

Letters in shapes: B rows, M images of all rows, I image tokens, T tokens, D width of a state, H x W pixels of a frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from pr2l.core import registry
from pr2l.core.errors import TooLong, UserError
from pr2l.core.types import Frames
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import (
    EncoderDecoder,
    TransformersEncoderDecoder,
    layers_needed,
    reading_depth,
    shortened,
)
from pr2l.vlms.compile import Buckets
from pr2l.vlms.conversation import (
    Conversation,
    Prompt,
    Video,
    change_texts,
    split_videos,
    visuals,
)
from pr2l.vlms.options import Defaults
from pr2l.vlms.pixels import Pixels
from pr2l.vlms.plain_text import control_tokens, encode, interrupt
from pr2l.vlms.token_ids import padded


class Family:
    """A checkpoint, and the layout of its model's input. Families derive from its subclass `VLM`.

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
        vision_length: Number of tokens of the vision tower per image, as in `VLM.vision`.
        vision_size: Width of these tokens.
        buckets: Batch sizes of the forward passes.
        token_ids: Function from a prompt to the token ids of the model's whole input.
        image_places: Function from a prompt to the positions of the image tokens in the input.
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
    # Whether a conversation may have a video, which the model reads as one input.
    takes_videos = False
    # The chat template, if the family uses one.
    template: str | None = None

    def __init__(self, path: str, options: Defaults) -> None:
        self.options = options
        self.config = self.read_config(path)
        self.check_options(path)
        self.model = self.read_model(path)
        self.read_processors(path)
        self.image_size = options.image_size or self.default_image_size()
        self.picture_size = self._picture_size()
        self.hidden_size = self.state_size()
        self.vision_length, self.vision_size = self.probe_vision()
        if self.is_encoder_decoder:
            self.check_length(self.new_tokens + 1, f"new_tokens={options.new_tokens}")
        self.buckets = Buckets(options.compile)
        self.token_ids = lru_cache(maxsize=4096)(self._checked_layout)
        self.image_places = lru_cache(maxsize=4096)(self._find_images)

    # The checkpoint.

    @staticmethod
    def read_config(path: str) -> Any:
        """Read the config of the whole model.

        Args:
            path: A local folder or a Hub id.

        Returns:
            A transformers config, whose `get_text_config` gives the sizes of the language model.
        """
        return checkpoint.read_config(path)

    def read_model(self, path: str) -> Any:
        """Read the unmodified model, ready for inference.

        Args:
            path: A local folder or a Hub id.

        Returns:
            The model on the device and in the dtype of the options, in evaluation mode, with frozen weights.
        """
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
        """Read the tokenizer, the image processor, and any other part that the family needs.

        Sets `tokenizer` and `image_processor`.

        Args:
            path: A local folder or a Hub id.
        """
        self.tokenizer = checkpoint.read_tokenizer(path)
        self.image_processor = checkpoint.read_image_processor(path)

    def check_options(self, path: str) -> None:
        """Check the options before the model is read.

        Args:
            path: A local folder or a Hub id.

        Raises:
            UserError: An option does not fit the checkpoint.
        """
        if self.options.token_order not in self.token_orders:
            raise UserError(
                f"token_order={self.options.token_order!r} is not possible with {path!r}: a"
                f" {self.config.model_type} has its image at a fixed position. Use token_order=image_first, or a"
                f" family that accepts images anywhere in the text, such as llava, smolvlm or qwen2_5_vl."
            )
        if self.options.compile and (not self.has_engine or "own_passes" in self.options.disable):
            raise UserError(
                f"compile=true is not possible with {path!r}: a {self.config.model_type} runs transformers' `generate`."
                f" Use compile=false, or another family (`pr2l list vlms`)."
            )
        depth = self.depth
        if bad := [layer for layer in self.options.layers if not -depth - 1 <= layer <= depth]:
            raise UserError(
                f"layers={list(self.options.layers)}: {path!r} has {depth} layers, so {bad} is out of range;"
                f" use 0 (embeddings) to {depth}, or -{depth + 1} to -1 from the end."
            )

    # The layout of the input.

    def layout(self, text: str) -> list[int]:
        """Return the token ids of the model's whole input for one text, with image_length() adjacent placeholders.

        Args:
            text: The prompt, without image placeholders.
        """
        raise NotImplementedError

    def conversation_layout(self, conversation: Conversation) -> list[int]:
        """Return the token ids of the model's whole input for a conversation, with image_length() placeholders per
        image.

        Args:
            conversation: Messages with any number of images. By default, only what `plain_text` accepts is supported.

        Raises:
            UserError: The family does not support such a conversation.
        """
        return self.layout(self.plain_text(conversation))

    def plain_text(self, prompt: Prompt) -> str:
        """Return the text of a prompt, for a family whose input is one image followed by one text.

        Args:
            prompt: A text, or one user message of an image and then texts, which are joined by line breaks.

        Raises:
            UserError: The prompt is a conversation with more parts, or in another order.
        """
        if isinstance(prompt, str):
            return prompt
        (role, parts), *others = prompt.turns
        if others or role != "user" or parts[0] is not None or None in parts[1:]:
            raise UserError(
                f"a {self.config.model_type} takes one image and then one text, not the conversation {prompt}."
                " Use a family with a chat template, such as smolvlm or qwen2_5_vl, or one message of the user with"
                " an image and then text."
            )
        return "\n".join(part for part in parts if isinstance(part, str))

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return further model inputs that depend on the text; none for most families.

        Args:
            prompts: B prompts.
            ids: int64 [B, T], their token ids with padding.
        """
        return {}

    @property
    def image_token_id(self) -> int:
        """Token id of one image placeholder in the input."""
        return int(self.config.image_token_id)

    @property
    def image_token(self) -> str:
        """Text of one image token."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    @property
    def video_token_id(self) -> int:
        """Token id of one video placeholder in the input, in a family that takes videos."""
        return int(self.config.video_token_id)

    @property
    def video_token(self) -> str:
        """Text of one video token."""
        return str(self.tokenizer.convert_ids_to_tokens(self.video_token_id))

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Token ids of the placeholders of images and videos."""
        return (self.image_token_id, self.video_token_id) if self.takes_videos else (self.image_token_id,)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer converts to control tokens, at any position."""
        return tuple({*self.tokenizer.all_special_tokens, *self._visual_tokens})

    def plain(self, prompt: Prompt) -> Prompt:
        """Return a prompt whose special tokens are interrupted, so that `encode` reads them as text.

        With special_tokens=control the prompt is returned unchanged.

        Args:
            prompt: A text or a conversation.
        """
        if self.options.special_tokens == "control":
            return prompt
        return change_texts(prompt, lambda text: interrupt(text, self._control_tokens))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text, which may be interrupted.

        Args:
            text: Text, or the result of `plain`.
            add_special_tokens: Whether to add the tokens that the tokenizer puts around a text.
        """
        return encode(self.tokenizer, text, add_special_tokens)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Texts that stand for an image or a video."""
        return (self.image_token,)

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        return control_tokens(self.tokenizer, self.template, *self.placeholders)

    def image_length(self) -> int:
        """Return the number of tokens that one image takes in the language model's input."""
        return self.vision_length

    def video_grids(self, video: Video) -> list[int]:
        """Return the numbers of tokens of a video in the language model's input, one per grid, the oldest first.

        Args:
            video: A video, in a family that takes videos.
        """
        raise NotImplementedError

    def grids(self, prompt: Prompt) -> list[int]:
        """Return the numbers of tokens of all images and videos of a prompt, one per grid, in order.

        Args:
            prompt: A text or a conversation.

        Raises:
            UserError: The prompt has a video, and the family takes none.
        """
        lengths = []
        for visual in visuals(prompt):
            if visual is not None and not self.takes_videos:
                raise UserError(
                    f"a {self.config.model_type} takes no videos. Use {' or '.join(video_families())}, or pass the"
                    f" frames as images: {{type: image, frames: {visual.frames}}} in a prompt file."
                )
            lengths += [self.image_length()] if visual is None else self.video_grids(visual)
        return lengths

    # The images.

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        """Return the model's image inputs for frames uint8 [M, H, W, 3].

        Args:
            frames: The images of all rows, in order.

        Returns:
            Keyword arguments of the model's `get_image_features`.
        """
        return {"pixel_values": self.preprocess(frames)}

    def video_pixels(self, videos: Sequence[Frames]) -> dict[str, torch.Tensor]:
        """Return the model's video inputs, in a family that takes videos.

        Args:
            videos: Frames of each video, uint8 [F, H, W, 3], at least one video.

        Returns:
            Keyword arguments of the model's `get_video_features`.
        """
        raise NotImplementedError

    def visual_inputs(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Return the unmodified model's image and video inputs.

        Args:
            frames: uint8 [M, H, W, 3], the images of all rows, with the frames of their videos.
            prompts: B prompts.
        """
        images, videos = split_videos(frames, prompts)
        return (self.pixels(images) if len(images) else {}) | (self.video_pixels(videos) if videos else {})

    def fit(self, frames: Frames) -> Frames:
        """Stretch or pad frames uint8 [M, H, W, 3] to pictures uint8 [M, *picture_size, 3] for the vision tower.

        Args:
            frames: RGB frames of equal size. They are padded to a square first with aspect=letterbox.
        """
        return self._pixels.fit(frames)

    def image_features(self, frames: Frames) -> torch.Tensor:
        """Return the vision tower's tokens [M, N, V], after the projection unless the projection uses the prompt.

        Args:
            frames: uint8 [M, H, W, 3].
        """
        features = self.encode_images(frames).pooler_output
        return features if isinstance(features, torch.Tensor) else torch.stack(list(features))

    def default_image_size(self) -> int:
        """Return the side in pixels of the square for which the vision tower was made."""
        size = self.config.vision_config.image_size
        return int(size if isinstance(size, int) else size[0])

    def default_picture_size(self) -> tuple[int, int]:
        """Return the height and the width to which frames are stretched: those of a square of `image_size`."""
        return self.image_size, self.image_size

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

    def probe_vision(self) -> tuple[int, int]:
        """Return the number and the width of the vision tower's tokens, from one black picture.

        Raises:
            UserError: The vision tower does not accept pictures of `picture_size`.
        """
        try:
            with torch.no_grad():
                features = self.image_features(np.zeros((1, *self.picture_size, 3), dtype=np.uint8))
        except (ValueError, RuntimeError, IndexError) as error:
            raise UserError(
                f"the vision tower of {self.config.model_type} does not accept image_size={self.image_size} ({error});"
                f" its default is image_size={self.default_image_size()}."
            ) from error
        return features.shape[1], features.shape[2]

    # The language model.

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the language model has an encoder for the input and a decoder for the answer."""
        return bool(self.config.get_text_config().is_encoder_decoder)

    def state_size(self) -> int:
        """Return the width of a hidden state."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def depth(self) -> int:
        """Number of layers, see `layers_of`."""
        return self.layers_of(self.config)

    @staticmethod
    def layers_of(config: Any) -> int:
        """Return the number of layers; for an encoder-decoder the smaller number, as layers are taken from both.

        Args:
            config: Config of the whole model.
        """
        text = config.get_text_config()
        names = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
        return int(min(getattr(text, name) for name in names if getattr(text, name, None) is not None))

    @property
    def language_model(self) -> Any:
        """The module that takes `lm_inputs` and has a head for logits; its attribute `model` has no head."""
        return self.model

    def encoder_decoder(self) -> EncoderDecoder:
        """Return the passes of the language model, of a family whose language model is an encoder-decoder."""
        return TransformersEncoderDecoder(self.language_model)

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

    def video_lm_inputs(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Return language-model inputs of prompts with videos, whose features are computed here.

        Args:
            frames: As in `visual_inputs`.
            prompts: B prompts with the same images and videos and the same number of token ids.
        """
        images, videos = split_videos(frames, prompts)
        features = {"video": self.model.get_video_features(**self.video_pixels(videos), return_dict=True)}
        if len(images):
            features["image"] = self.encode_images(images)
        ids = self.ids(prompts)
        return {"input_ids": ids, "mm_encoder_outputs": features, **self.text_inputs(prompts, ids)}

    @property
    def image_sees_later_text(self) -> bool:
        """Whether image tokens attend to text that comes after them, as in an encoder."""
        return self.is_encoder_decoder

    @cached_property
    def max_positions(self) -> int | None:
        """Number of learned positions, beyond which a sequence is too long; None = positions are computed."""
        model = self.language_model
        stacks = [model.get_encoder(), model.get_decoder()] if self.is_encoder_decoder else [model.get_decoder()]
        for stack in stacks:
            for name, module in stack.named_modules():
                if name.rpartition(".")[2] == "embed_positions" and isinstance(module, torch.nn.Embedding):
                    return int(self.config.get_text_config().max_position_embeddings)
        return None

    # Methods that a family calls.

    @property
    def new_tokens(self) -> int:
        """N, the number of generated tokens that have states; 0 without generation."""
        return 0 if self.options.generation == "none" else self.options.new_tokens

    def preprocess(self, frames: Frames) -> torch.Tensor:
        """Convert frames uint8 [M, H, W, 3] to the vision tower's input [M, 3, *picture_size].

        Apart from the geometry, the result equals that of the checkpoint's image processor.

        Args:
            frames: RGB frames of equal size.

        Returns:
            The input in the model's dtype, on its device.
        """
        return self._pixels(frames)

    def ids(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the token ids of the inputs, int64 [B, T], padded on the right.

        Args:
            prompts: B prompts; T is the length of the longest.
        """
        return padded([self.token_ids(prompt) for prompt in prompts], self.pad_token_id).to(self.model.device)

    def mask(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the attention mask, int64 [B, T]: 1 for token ids, 0 for padding.

        Args:
            prompts: B prompts; T is the length of the longest.
        """
        return padded([[1] * len(self.token_ids(prompt)) for prompt in prompts], 0).to(self.model.device)

    @property
    def pad_token_id(self) -> int:
        """Id of padding, which is always masked; 0 if the tokenizer has none."""
        return int(self.tokenizer.pad_token_id or 0)

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

    def short_config(self) -> Any | None:
        """Return a config with only the layers that are needed; None = read the whole model.

        With random_weights it is None, because all layers have to be drawn, one after the other.
        """
        if self.options.random_weights is not None:
            return None
        needed = layers_needed(self)
        return shortened(self.config, needed) if needed < reading_depth(self.config) else None

    def check_length(self, tokens: int, what: str) -> None:
        """Raise TooLong if a sequence is longer than the model's learned positions.

        Args:
            tokens: Length of the sequence.
            what: Subject of the error message, such as "the prompt".
        """
        if self.max_positions is not None and tokens > self.max_positions:
            raise TooLong(
                f"{what} is too long: image, text and answer have {tokens} tokens, and this {self.config.model_type}"
                f" has {self.max_positions} positions. Use a shorter prompt or fewer new tokens."
            )

    def preprocess_videos(self, frames: Frames) -> torch.Tensor:
        """Convert frames of videos as `preprocess` does images, with the checkpoint's settings for videos.

        Args:
            frames: uint8 [M, H, W, 3], frames of one or more videos.
        """
        return self._video_pixels(frames)

    # Internals.

    @cached_property
    def _pixels(self) -> Pixels:
        return self._preprocessor(self.image_processor)

    @cached_property
    def _video_pixels(self) -> Pixels:
        return self._preprocessor(checkpoint.video_settings(self.config.name_or_path, self.image_processor))

    def _preprocessor(self, processor: Any) -> Pixels:
        model, letterbox = self.model, self.options.aspect == "letterbox"
        return Pixels(processor, self.picture_size, model.device, model.dtype, letterbox=letterbox)

    def _picture_size(self) -> tuple[int, int]:
        """Return the height and the width of the pictures that the vision tower reads."""
        if self.options.aspect == "stretch":
            return self.default_picture_size()
        if self.options.aspect == "letterbox":
            return self.image_size, self.image_size
        if self.options.frame_size is None:
            raise UserError("aspect=native needs frame_size=[height, width] of the frames; see vlm_options.frame_size.")
        return self.native_size(*self.options.frame_size)

    def _checked_layout(self, prompt: Prompt) -> tuple[int, ...]:
        plain = self.plain(prompt)
        expected = sum(self.grids(prompt))
        ids = tuple(self.layout(plain) if isinstance(plain, str) else self.conversation_layout(plain))
        count = sum(map(ids.count, self.visual_token_ids))
        if count != expected:
            names = " and ".join(map(repr, self._visual_tokens))
            raise UserError(
                f"the prompt {str(prompt)!r} has {count} image tokens, but its images have {expected};"
                f" leave {names} out of the prompt, because pr2l inserts the images, or use"
                " vlm_options.special_tokens=text."
            )
        answer = 0 if self.is_encoder_decoder else self.new_tokens
        self.check_length(len(ids) + answer, f"the prompt {str(prompt)[:60]!r}")
        return ids

    def _find_images(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the positions of the image and video tokens in the input."""
        return tuple(place for place, token in enumerate(self.token_ids(prompt)) if token in self.visual_token_ids)

    @property
    def _visual_tokens(self) -> tuple[str, ...]:
        return (self.image_token, self.video_token) if self.takes_videos else (self.image_token,)


def video_families() -> list[str]:
    """Return the names of the families that take videos."""
    loaders = {name: registry.load("vlms", name).load for name in registry.names("vlms")}
    return [name for name, load in loaders.items() if getattr(getattr(load, "__self__", None), "takes_videos", False)]

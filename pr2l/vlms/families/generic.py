"""Any other AutoModelForImageTextToText, with its own Hugging Face processor, checked when it is loaded.

The architecture is unknown here. Therefore the states of one frame, for the whole input and a generated answer, are
compared with the output_hidden_states of the unmodified model. If they differ, the model is refused, and the error
states the difference. Frames are made square first; the processor may then cut them into tiles, and image_length()
counts the tokens. A family with a file of its own is faster, and short: see pr2l/vlms/families/llava.py.
"""

from __future__ import annotations

from functools import cached_property
from inspect import signature

import numpy as np
import torch

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import PassStates, chosen_layers
from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.conversation import Conversation, Images, Prompts, image_count, images_by_row
from pr2l.vlms.pixels import GREY
from pr2l.vlms.resize import pad_to_square, resize
from pr2l.vlms.token_ids import image_tokens_first

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES: tuple[str, ...] = ()  # for every model_type that no other family lists

# Largest difference allowed, relative to the largest state; half precision rounds more.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
INT8_TOLERANCE = 5e-2  # the step of rounding depends on the range of activations in a pass: a text, or one token
UNKNOWN_SIZE = 336  # pixels, if the config has no size of the vision tower
QUESTIONS = ["what is this ?", "where am I ?"]


class Generic(ChatVLM):
    """Family for models of unknown architecture.

    Args:
        path: A local folder or a Hub id.
        options: Options of the VLM.

    Raises:
        UserError: The states differ from those of the unmodified model, or the processor is not supported.
    """

    has_engine = False

    def __init__(self, path: str, options: Defaults) -> None:
        super().__init__(path, options)
        self._prove(path)

    def read_processors(self, path: str) -> None:
        self._processor = checkpoint.read_processor(path)
        self.tokenizer, self.image_processor = self._processor.tokenizer, self._processor.image_processor
        self.template = self._processor.chat_template

    def default_image_size(self) -> int:
        try:
            return super().default_image_size()
        except AttributeError:
            return UNKNOWN_SIZE

    @property
    def image_token_id(self) -> int:
        for holder in (self.config, self._processor):
            if isinstance(token := getattr(holder, "image_token_id", None), int):
                return token
        raise UserError(f"the config of a {self.config.model_type} does not name its image token; {_NEXT_STEP}")

    @property
    def placeholder(self) -> str:
        return str(getattr(self._processor, "image_token", self.image_token))

    def image_length(self) -> int:
        return self._image_length

    @cached_property
    def _image_length(self) -> int:
        return self.layout("").count(self.image_token_id)

    def layout(self, text: str) -> list[int]:
        ids: list[int] = self.inputs(self._black, [text])["input_ids"][0].tolist()
        return ids

    def conversation_layout(self, conversation: Conversation) -> list[int]:
        black = np.repeat(self._black, image_count(conversation), axis=0)
        ids: list[int] = self.inputs(black, [conversation])["input_ids"][0].tolist()
        return ids

    def fit(self, frames: Frames) -> Frames:
        if self.options.aspect == "letterbox":
            mean = getattr(self.image_processor, "image_mean", None)
            colour = [GREY] * 3 if mean is None else [round(255 * value) for value in mean]
            frames = pad_to_square(frames, np.array(colour, np.uint8))
        return resize(frames, self.picture_size)

    def inputs(self, frames: Images, prompts: Prompts) -> dict[str, torch.Tensor]:
        frames, rows = self.batch(frames, prompts)
        written = [self.write(row) if isinstance(row, str) else self.write_conversation(row) for row in rows]
        special = not self.tokenizer.bos_token or not written[0].startswith(self.tokenizer.bos_token)
        processed = self._processor(
            images=[list(pictures) for pictures in images_by_row(self.fit(frames), rows)],
            text=written,
            padding=True,
            padding_side="right",
            add_special_tokens=special,
            return_tensors="pt",
        )
        device, dtype = self.model.device, self.model.dtype
        return {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in processed.items()}

    def image_features(self, frames: Frames) -> torch.Tensor:
        if not self._has_image_features:
            raise UserError(f"a {self.config.model_type} does not return its vision tower's tokens; {_NEXT_STEP}")
        accepted = signature(self.model.get_image_features).parameters
        inputs = self.inputs(frames, [""] * len(frames))
        output = self.model.get_image_features(**{key: inputs[key] for key in accepted if key in inputs}).pooler_output
        parts = [output] if isinstance(output, torch.Tensor) else list(output)
        flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        return flat.reshape(len(frames), -1, flat.shape[-1])

    @cached_property
    def image_sees_later_text(self) -> bool:
        """Whether image tokens attend to later text, measured with two questions about one picture."""
        first, second = (self._states_of_one(question).inputs[:, :, : self.image_length()] for question in QUESTIONS)
        return _difference(first, second) > self._tolerance

    @property
    def _tolerance(self) -> float:
        return INT8_TOLERANCE if self.options.dtype == "int8" else TOLERANCE[self.model.dtype]

    @property
    def _has_image_features(self) -> bool:
        return hasattr(self.model, "get_image_features")

    @property
    def _black(self) -> Frames:
        return np.zeros((1, self.image_size, self.image_size, 3), dtype=np.uint8)

    @property
    def _noise(self) -> Frames:
        return np.random.default_rng(0).integers(0, 256, self._black.shape, dtype=np.uint8)

    def probe_vision(self) -> tuple[int, int]:
        return super().probe_vision() if self._has_image_features else (0, 0)

    @torch.no_grad()
    def _states_of_one(self, question: str) -> PassStates:
        return next(self.passes(self._noise, [question]))[1]

    @torch.no_grad()
    def _prove(self, path: str) -> None:
        """Raise UserError unless the states of one frame equal those of the unmodified model."""
        states = self._states_of_one(QUESTIONS[0])
        ours = torch.cat([states.inputs, states.generated], dim=2)
        difference = _difference(ours, self._unmodified(states.tokens))
        if not difference <= self._tolerance:
            raise UserError(
                f"{path!r} ({self.config.model_type}) is refused, because its states differ from those of the"
                f" unmodified model by up to {difference:.1e} of the largest state; {_NEXT_STEP}"
            )

    def _unmodified(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return the states [1, L, I + P + N, D] of one plain forward pass over the input and the chosen answer."""
        inputs = self.inputs(self._noise, QUESTIONS[:1])
        order, count = image_tokens_first(inputs["input_ids"], self.image_token_id), chosen.shape[1]
        layers = self.options.layers
        if self.is_encoder_decoder:
            start = self.model.generation_config.decoder_start_token_id
            fed = torch.cat([torch.full_like(inputs["input_ids"][:, :1], start), chosen], dim=1)
            out = self.model(**inputs, decoder_input_ids=fed, output_hidden_states=True)
            before, after = (
                chosen_layers(out.encoder_hidden_states, layers),
                chosen_layers(out.decoder_hidden_states, layers),
            )
            return torch.cat([before[:, :, order], after[:, :, 1:]], dim=2)
        longer = {"input_ids": chosen, "attention_mask": torch.ones_like(chosen)}
        for key, value in inputs.items():
            if value.shape == inputs["input_ids"].shape and key not in longer:
                longer[key] = torch.zeros_like(chosen, dtype=value.dtype)  # type ids: text is 0
        inputs |= {key: torch.cat([inputs[key], more], dim=1) for key, more in longer.items()}
        whole = chosen_layers(self.model(**inputs, output_hidden_states=True).hidden_states, layers)
        length = whole.shape[2] - count
        return torch.cat([whole[:, :, order], whole[:, :, length:]], dim=2)


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest state."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


_NEXT_STEP = "use a model of a known family (`pr2l list vlms`), or write one in pr2l/vlms/families/."

load = Generic.load

"""What encoders of a frozen vision model share: its weights, what it reads, and which of its tokens are kept.

    frames --stretched, normalised--> the model's square --model--> Seen --option `tokens`--> Tokens

As everywhere here a frame is stretched to the square, not cropped: the processors of CLIP, DINOv2, ResNet, VC-1 and R3M
would cut off the left and the right of what the agent sees. Within that geometry the pixels are the processor's own.
The precision and the device are those of `vlm_options`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.states import pool_grid, pooled_length
from pr2l.vlms import checkpoint
from pr2l.vlms.base import check_batch
from pr2l.vlms.pixels import Pixels

Read = TypeVar("Read")


class VisionDefaults(BaseModel):
    """Options that all these encoders have; an encoder file gives `weights` its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    tokens: Literal["all", "cls", "mean"] = "all"  # class token and patches; the model's summary; the patches' mean


class SquareDefaults(VisionDefaults):
    """Options of those whose patches form a square."""

    image_tokens: PositiveInt | None = None  # of all: average the patches to so many (a square number); None = keep all


class Seen(NamedTuple):
    """What a model made of B frames.

    summary: [B, D], what the model itself sums a picture up in: its class token, or what stands for it. before:
    [B, 0 or 1, D], the class token as it stands before the patches. patches: [B, N, D], row by row.
    """

    summary: Tensor
    before: Tensor
    patches: Tensor


def places(out: Any) -> Seen:
    """The places of the last feature map [B, D, H, W] as patches, and their mean as the summary."""
    patches = out.last_hidden_state.flatten(2).transpose(1, 2)
    return Seen(out.pooler_output.flatten(1), patches[:, :0], patches)


class VisionEncoder(Encoder):
    """An encoder file fills in `read`, `read_pixels` and `look`."""

    costly = True

    def __init__(self, source: EncoderSource, options: VisionDefaults) -> None:
        self.options = options
        self.image_tokens = options.image_tokens if isinstance(options, SquareDefaults) else None
        if self.image_tokens is not None and options.tokens != "all":
            raise UserError(
                f"encoder_options: image_tokens={self.image_tokens} with tokens={options.tokens}, which is one token"
                " anyway; leave one of them out."
            )
        wanted = source.vlm_options
        self.model: Any = checkpoint.read_model(options.weights, wanted.device, wanted.dtype, self.read)
        self.quantised = wanted.dtype == "int8"
        self.pixels = self.read_pixels()
        seen = self._seen(np.zeros((1, *source.frame_shape), np.uint8))
        pooled_length(seen.before.shape[1] + seen.patches.shape[1], self.image_tokens)
        _, self.tokens, self.width = self._kept(seen).shape

    @abstractmethod
    def read(self, weights: str, dtype: torch.dtype) -> nn.Module:
        """The frozen model, on the CPU. Raises UserError, with the next step, where the weights are missing."""

    @abstractmethod
    def read_pixels(self) -> Callable[[Frames], Tensor]:
        """From frames uint8 [B, H, W, 3] to what the model reads, [B, 3, S, S] in its type and on its device."""

    @abstractmethod
    def look(self, pixels: Tensor) -> Seen:
        """What the model makes of its pixels."""

    def source(self) -> dict[str, str]:
        """Which weights these are."""
        return checkpoint.source(self.options.weights)

    @cached_property
    def _source(self) -> dict[str, str]:
        return self.source()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def key(self) -> dict[str, Any]:
        dtype = "int8" if self.quantised else str(self.dtype).removeprefix("torch.")
        kept = self.options.model_dump(mode="json", exclude={"weights"})
        return {"encoder": type(self).__module__, "weights": self._source, "options": kept, "dtype": dtype}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        values = self._kept(self._seen(frames))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @torch.no_grad()
    def _seen(self, frames: Frames) -> Seen:
        check_batch(frames)
        return Seen(*(part.float() for part in self.look(self.pixels(frames))))

    def _kept(self, seen: Seen) -> Tensor:
        """float32 [B, T, D]."""
        if self.options.tokens == "cls":
            return seen.summary[:, None]
        if self.options.tokens == "mean":
            return seen.patches.mean(dim=1, keepdim=True)
        every = torch.cat([seen.before, seen.patches], dim=1)
        return pool_grid(every[:, None], self.image_tokens)[:, 0]


class HubEncoder(VisionEncoder):
    """A class of transformers, whose checkpoint is a Hub id or a folder; its file names the class."""

    model_class: ClassVar[Any]
    model_types: ClassVar[tuple[str, ...]]  # of config.json, that the class can read
    advice: ClassVar[str] = ""  # a sentence for those who gave another

    def read(self, weights: str, dtype: torch.dtype) -> nn.Module:
        kind = fetched(weights, lambda: PreTrainedConfig.get_config_dict(weights)[0].get("model_type"))
        if kind not in self.model_types:
            able = " or ".join(self.model_types)
            raise UserError(f"encoder_options: weights={weights!r} is a {kind}, not a {able}. {self.advice}".rstrip())
        return whole(self.model_class, weights, dtype)

    def read_pixels(self) -> Callable[[Frames], Tensor]:
        weights = self.options.weights
        processor = fetched(weights, lambda: AutoImageProcessor.from_pretrained(weights, backend="pil"))
        side = processor.crop_size if getattr(processor, "do_center_crop", None) else processor.size
        return Pixels(processor, int(side.height or side.shortest_edge), self.device, self.dtype)

    def look(self, pixels: Tensor) -> Seen:
        """Of a vision transformer: patches come last, a class token, if any, first, registers between the two."""
        out = self.model(pixels)
        states, patch = out.last_hidden_state, self.model.config.patch_size
        first = states.shape[1] - (pixels.shape[2] // patch) * (pixels.shape[3] // patch)
        return Seen(out.pooler_output, states[:, : min(first, 1)], states[:, first:])


def whole(model_class: Any, weights: str, dtype: torch.dtype) -> Any:
    """The pretrained model. UserError where it lacks weights: transformers would fill in random numbers."""

    def read() -> Any:
        with checkpoint.surplus_unreported():
            return model_class.from_pretrained(weights, dtype=dtype, output_loading_info=True)

    model, report = fetched(weights, read)
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"encoder_options: weights={weights!r} is no whole {model_class.__name__}: it lacks {len(missing)} weights,"
            f" such as {missing[0]}. Fetch it anew, or save it with save_pretrained."
        )
    return model


def fetched(weights: str, read: Callable[[], Read]) -> Read:
    """What `read` gives, from a Hub id or a folder; UserError, with the next step, where it is not to be had."""
    try:
        return read()
    except (OSError, SafetensorError) as error:  # the latter of half a download, or a pointer that git-lfs left
        reason = str(error).strip().splitlines()[0]
        if Path(weights).is_dir():
            raise UserError(f"encoder_options: the folder weights={weights!r} is not complete: {reason}") from error
        raise UserError(
            f"encoder_options: weights={weights!r} is neither a folder on this machine nor a model that could be"
            f" fetched from the Hugging Face Hub ({reason}). Check the spelling and the network; some models ask for"
            f" access on their page first. Without a network: `hf download {weights} --local-dir FOLDER` elsewhere,"
            " then encoder_options.weights=FOLDER."
        ) from error


class FileEncoder(VisionEncoder):
    """A model published as one file of weights; its file says where that is had."""

    published: ClassVar[str]  # where the file comes from
    entry: ClassVar[str]  # the part of what torch.save wrote that holds the weights

    def read_tensors(self, weights: str) -> dict[str, Tensor]:
        """Name of each weight -> the weight, in float32 or as it was saved, on the CPU."""
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"encoder_options: weights={weights!r} is no file on this machine. Fetch it from {self.published} and"
                " give its place as encoder_options.weights."
            )
        if path.suffix == ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise UserError(f"{path} is no whole .safetensors file ({error}). Fetch it anew.") from error
        return saved_by_torch(path, self.entry)

    def source(self) -> dict[str, str]:
        path = Path(self.options.weights).expanduser()
        return {"name": path.name, "revision": f"sha256 {digest.of_files(path.parent, [path])}"}


def saved_by_torch(path: Path, entry: str) -> dict[str, Tensor]:
    """Tensors only: whatever else the pickle inside may hold is refused, and never run."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise UserError(
            f"{path} holds more than tensors, or is damaged, and is not read: {reason}. If you trust it, save a copy of"
            f" each tensor of its {entry!r} with safetensors.torch.save_file, and give that file."
        ) from error
    if not isinstance(held, dict) or not isinstance(held.get(entry), dict):
        has = ", ".join(map(repr, list(held)[:8])) if isinstance(held, dict) else f"a {type(held).__name__} alone"
        raise UserError(f"{path} has no entry {entry!r} with weights; it has {has or 'none'}.")
    return dict(held[entry])


def loaded(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> nn.Module:
    """The model with these weights; UserError unless every name and shape fits."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(f"encoder_options: weights={path!r} does not fit: {first}") from error
    return model


def as_torchvision(resample: int) -> Any:
    """An image processor that divides by 255 and normalises with ImageNet's colours; resample: one of PIL's filters."""
    return SimpleNamespace(
        resample=resample,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )

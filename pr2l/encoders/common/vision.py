"""Encoders of a frozen vision model: loading of weights, preprocessing of frames, and choice of tokens.

    frames --stretched, normalised--> the model's square --model--> VisionOutput --option `tokens`--> Tokens

A frame is stretched to the square, not cropped: the processors of CLIP, DINOv2, ResNet, VC-1 and R3M would cut off the
left and the right of the agent's view. Otherwise the pixels equal those of the model's own processor. The precision and
the device are those of `vlm_options`.
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
from einops import rearrange
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pr2l.core import digest
from pr2l.core.errors import UserError, first_line
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.states import pool_grid, pooled_length
from pr2l.vlms import checkpoint
from pr2l.vlms.pixels import Pixels, check_batch

Value = TypeVar("Value")

# Errors that torch and transformers raise on damaged or foreign weights and configs.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class VisionDefaults(BaseModel):
    """Options of all encoders of a vision model; each encoder sets the default of `weights`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    # all = class token and patches; cls = the model's own summary of the image; mean = the patches' mean
    tokens: Literal["all", "cls", "mean"] = "all"


class SquareDefaults(VisionDefaults):
    """Options of encoders whose patches form a square grid."""

    # with tokens=all: average the patches to this square number; None = keep all
    image_tokens: PositiveInt | None = None


class VisionOutput(NamedTuple):
    """Output of a vision model for B frames.

    Attributes:
        summary: [B, D], the model's own summary of an image: its class token, or a pooled feature if it has none.
        class_token: [B, 0 or 1, D], the class token that comes before the patches, if the model has one.
        patches: [B, N, D], row by row.
    """

    summary: Tensor
    class_token: Tensor
    patches: Tensor


def from_feature_map(output: Any) -> VisionOutput:
    """Convert the output of a transformers ResNet.

    The positions of the last feature map [B, D, H, W] become patches; their mean is the summary.

    Args:
        output: Output with `last_hidden_state` [B, D, H, W] and `pooler_output` [B, D, 1, 1].

    Returns:
        H x W patches, row by row, and no class token.
    """
    patches = rearrange(output.last_hidden_state, "b d h w -> b (h w) d")
    return VisionOutput(rearrange(output.pooler_output, "b d 1 1 -> b d"), patches[:, :0], patches)


class VisionEncoder(Encoder):
    """Base class of encoders of a vision model; a subclass implements `load_model`, `preprocessing` and `forward`.

    Args:
        source: Frame shape of the environment, and device and dtype (vlm_options).
        options: Weights, and the choice of tokens.

    Raises:
        UserError: The weights cannot be loaded, or the options do not fit the model.
    """

    costly = True

    def __init__(self, source: EncoderSource, options: VisionDefaults) -> None:
        self.options = options
        self.image_tokens = options.image_tokens if isinstance(options, SquareDefaults) else None
        if self.image_tokens is not None and options.tokens != "all":
            raise UserError(
                f"encoder_options: image_tokens={self.image_tokens} needs patches, but tokens={options.tokens} has"
                " none; leave out one of the two."
            )
        vlm_options = source.vlm_options
        self.model: Any = checkpoint.read_model(options.weights, vlm_options.device, vlm_options.dtype, self.load_model)
        self.quantised = vlm_options.dtype == "int8"
        self.pixels = read_pretrained(options.weights, self.preprocessing)
        try:
            output = self._run(np.zeros((1, *source.frame_shape), np.uint8))
        except UNREADABLE as error:
            raise UserError(
                f"encoder_options: the model weights={options.weights!r} cannot encode a frame of shape"
                f" {list(source.frame_shape)}: {error}. Check whether its preprocessor_config.json belongs to this"
                " model."
            ) from error
        pooled_length(output.class_token.shape[1] + output.patches.shape[1], self.image_tokens)
        _, self.tokens, self.width = self._select(output).shape

    @abstractmethod
    def load_model(self, weights: str, dtype: torch.dtype) -> nn.Module:
        """Load the frozen model on the CPU.

        Args:
            weights: The option `weights`: a Hub id, a folder or a file.
            dtype: Type of the loaded weights.

        Raises:
            UserError: The weights are missing, damaged or of another model; the error names the next step.
        """

    @abstractmethod
    def preprocessing(self) -> Callable[[Frames], Tensor]:
        """Return a function from frames uint8 [B, H, W, 3] to the model's input [B, 3, S, S], in its dtype.

        Errors of damaged or missing files need no handling: they become UserErrors, as in `read_pretrained`.
        """

    @abstractmethod
    def forward(self, pixels: Tensor) -> VisionOutput:
        """Run the model on preprocessed frames [B, 3, S, S].

        Args:
            pixels: Result of the function that `preprocessing` returned, in the model's dtype, on its device.
        """

    def source(self) -> dict[str, str]:
        """Return the name and the revision of the weights."""
        return checkpoint.source(self.options.weights)

    @cached_property
    def _source(self) -> dict[str, str]:
        return self.source()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the model's weights."""
        return next(self.model.parameters()).dtype

    def key(self) -> dict[str, Any]:
        dtype = "int8" if self.quantised else str(self.dtype).removeprefix("torch.")
        options = self.options.model_dump(mode="json", exclude={"weights"})
        return {"encoder": type(self).__module__, "weights": self._source, "options": options, "dtype": dtype}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        values = self._select(self._run(frames))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @torch.no_grad()
    def _run(self, frames: Frames) -> VisionOutput:
        check_batch(frames)
        return VisionOutput(*(states.float() for states in self.forward(self.pixels(frames))))

    def _select(self, output: VisionOutput) -> Tensor:
        """Return the tokens that the options choose, float32 [B, T, D]."""
        if self.options.tokens == "cls":
            return output.summary[:, None]
        if self.options.tokens == "mean":
            return output.patches.mean(dim=1, keepdim=True)
        tokens = torch.cat([output.class_token, output.patches], dim=1)
        return pool_grid(tokens[:, None], self.image_tokens)[:, 0]


class HubEncoder(VisionEncoder):
    """Base class of encoders of a transformers class, whose checkpoint is a Hub id or a folder."""

    model_class: ClassVar[Any]
    model_types: ClassVar[tuple[str, ...]]  # values of model_type in config.json that the class can load
    advice: ClassVar[str] = ""  # a sentence for the error about a checkpoint of another type

    def load_model(self, weights: str, dtype: torch.dtype) -> nn.Module:
        kind = read_pretrained(weights, lambda: PreTrainedConfig.get_config_dict(weights)[0].get("model_type"))
        if kind not in self.model_types:
            allowed = " or ".join(map(repr, self.model_types))
            raise UserError(
                f"encoder_options: weights={weights!r} has the model type {kind!r}, but this encoder reads {allowed}."
                f" {self.advice}".rstrip()
            )
        return load_pretrained(self.model_class, weights, dtype)

    def preprocessing(self) -> Callable[[Frames], Tensor]:
        weights = self.options.weights
        options = {"backend": "pil", **checkpoint.NO_CODE}
        processor = AutoImageProcessor.from_pretrained(weights, **options)
        side = processor.crop_size if getattr(processor, "do_center_crop", None) else processor.size
        return Pixels(processor, int(side.height or side.shortest_edge), self.device, self.dtype)

    def forward(self, pixels: Tensor) -> VisionOutput:
        """Run a vision transformer.

        Its states are in the order class token (if any), registers, patches; registers are dropped.

        Args:
            pixels: [B, 3, S, S]; S is a multiple of the model's patch size.
        """
        output = self.model(pixels)
        states, patch = output.last_hidden_state, self.model.config.patch_size
        first = states.shape[1] - (pixels.shape[2] // patch) * (pixels.shape[3] // patch)
        return VisionOutput(output.pooler_output, states[:, : min(first, 1)], states[:, first:])


def load_pretrained(model_class: Any, weights: str, dtype: torch.dtype) -> Any:
    """Load a model with a class of transformers.

    Args:
        model_class: A class with `from_pretrained`.
        weights: A Hub id or a folder.
        dtype: Type of the loaded weights.

    Raises:
        UserError: The checkpoint cannot be read, or lacks weights, which transformers would fill with random numbers.
    """

    def read() -> Any:
        with checkpoint.surplus_unreported():
            return model_class.from_pretrained(weights, dtype=dtype, output_loading_info=True, **checkpoint.NO_CODE)

    model, report = read_pretrained(weights, read)
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"encoder_options: weights={weights!r} is not a complete {model_class.__name__}: {len(missing)} weights are"
            f" missing, such as {missing[0]}. Download it again, or save the model with save_pretrained."
        )
    return model


def read_pretrained(weights: str, read: Callable[[], Value]) -> Value:
    """Call a function that reads from a Hub id or a folder, and explain its errors.

    Args:
        weights: The Hub id or the folder, for error messages.
        read: Function that reads it.

    Returns:
        The result of `read`.

    Raises:
        UserError: `read` failed; the error names the reason and the next step.
    """
    try:
        with checkpoint.late_progress_bars():
            return read()
    except UserError:
        raise
    except (*UNREADABLE, OSError, SafetensorError) as error:
        if checkpoint.needs_code(error):
            raise UserError(f"encoder_options: weights={weights!r} {checkpoint.NEEDS_CODE}") from error
        reason = first_line(error)
        if Path(weights).is_dir() or not isinstance(error, OSError):
            raise UserError(
                f"encoder_options: weights={weights!r} is incomplete, damaged or not a transformers model: {reason}."
                " Download it again, or save the model with save_pretrained."
            ) from error
        raise UserError(
            f"encoder_options: weights={weights!r} is not a folder on this machine, and the download from the Hugging"
            f" Face Hub failed ({reason}). Check the spelling and the network; for some models you have to request"
            f" access on their page first. Without a network, run `hf download {weights} --local-dir FOLDER` on another"
            " machine, and set encoder_options.weights=FOLDER."
        ) from error


class FileEncoder(VisionEncoder):
    """Base class of encoders of a model that is published as one file; a subclass implements `build_model`."""

    published: ClassVar[str]  # where the file can be downloaded
    entry: ClassVar[str]  # the entry of the file's dict that holds the weights

    @abstractmethod
    def build_model(self, tensors: Mapping[str, Tensor], path: str) -> nn.Module:
        """Return the model with these weights; their shapes give the model's sizes.

        Args:
            tensors: Name -> weight, as published.
            path: Path of the file, for error messages.
        """

    def load_model(self, weights: str, dtype: torch.dtype) -> nn.Module:
        tensors = self.read_tensors(weights)
        try:
            return self.build_model(tensors, weights).to(dtype)
        except UNREADABLE as error:
            raise UserError(
                f"encoder_options: weights={weights!r} does not have the shapes of the published model ({error})."
                f" Download it from {self.published} and set encoder_options.weights to its path."
            ) from error

    def read_tensors(self, weights: str) -> dict[str, Tensor]:
        """Read a file of weights.

        Args:
            weights: Path of a .safetensors file or of the published file.

        Returns:
            Name -> weight, in the dtype of the file, on the CPU.

        Raises:
            UserError: There is no such file, it is damaged, or it contains something else.
        """
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"encoder_options: weights={weights!r} is not a file on this machine. Download it from {self.published}"
                " and set encoder_options.weights to its path."
            )
        if path.suffix == ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise UserError(f"{path} is not a complete .safetensors file: {error}. Download it again.") from error
        return read_torch_file(path, self.entry)

    def source(self) -> dict[str, str]:
        path = Path(self.options.weights).expanduser()
        return {"name": path.name, "revision": f"sha256 {digest.of_files(path.parent, [path])}"}


def read_torch_file(path: Path, entry: str) -> dict[str, Tensor]:
    """Read the tensors in one entry of a file that torch.save wrote.

    Only tensors are read. A file with other pickled objects is refused, and their code is never executed.

    Args:
        path: The file, which holds a dict.
        entry: Key of the dict whose value is a dict of weights.

    Returns:
        Name -> weight, on the CPU.

    Raises:
        UserError: The file is damaged, contains other objects, or has no such entry.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error) or "the file ends too early").splitlines()[0]
        raise UserError(
            f"{path} is damaged or contains more than tensors, so pr2l does not read it: {reason}. Download it again."
            f" If you trust it, save the tensors of its entry {entry!r} with safetensors.torch.save_file, and use that"
            " file."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(entry), dict):
        entries = ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} has no entry {entry!r} with weights; it has {entries or 'no entries'}.")
    weights: dict[str, Any] = content[entry]
    if strange := [name for name, weight in weights.items() if not isinstance(weight, Tensor)]:
        raise UserError(
            f"{path}: {strange[0]!r} in the entry {entry!r} is not a tensor; the file may belong to another model."
        )
    return dict(weights)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> nn.Module:
    """Load weights into a model and return the model.

    Args:
        model: Model to load into.
        weights: Name -> weight, for all weights of the model.
        path: Path of the file, for error messages.

    Raises:
        UserError: A name or a shape does not match the model.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(
            f"encoder_options: the weights in {path!r} do not have the shapes of the model that they describe: {first}"
        ) from error
    return model


def imagenet_processor(resample: int) -> Any:
    """Return an image processor that divides by 255 and normalises with ImageNet's mean and standard deviation.

    Args:
        resample: Number of one of PIL's resampling filters.
    """
    return SimpleNamespace(
        resample=resample,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )

"""Image processors of transformers that have no PIL version, without torchvision.

Such a processor calls a few functions of torchvision.transforms.v2.functional. The functions here do the same in torch,
with the kernels that torchvision calls. pr2l resizes a frame itself before, so that what remains is usually a division
and a subtraction. Where torchvision is installed, transformers uses it, and nothing here runs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import image_processing_backends, image_utils
from transformers.image_utils import PILImageResampling


class InterpolationMode(Enum):
    """Filters of `resize`, with torch's names."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.LANCZOS)
MODES = {
    PILImageResampling[mode.name]: mode for mode in InterpolationMode if mode.name in PILImageResampling.__members__
}
MODES[PILImageResampling.NEAREST] = InterpolationMode.NEAREST_EXACT


def resize(
    image: Tensor,
    size: Sequence[int],
    interpolation: InterpolationMode | int = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool = True,
) -> Tensor:
    """Resize pictures.

    Args:
        image: [..., C, H, W].
        size: New height and width in pixels.
        interpolation: Filter, or PIL's number of it.
        max_size: Not used; size has both sides.
        antialias: Whether a filter is widened where a picture shrinks, as PIL does.
    """
    if tuple(size) == tuple(image.shape[-2:]):
        return image
    interpolation = MODES[PILImageResampling(interpolation)] if isinstance(interpolation, int) else interpolation
    smooth, as_it_is = interpolation in SMOOTH, image.is_floating_point() or image.dtype == torch.uint8
    flat = image.reshape(-1, *image.shape[-3:])
    resized = interpolate(
        flat if as_it_is else flat.float(),
        size=list(size),
        mode=interpolation.value,
        align_corners=False if smooth else None,
        antialias=antialias and smooth,
    )
    if not as_it_is:
        resized = resized.round_().to(image.dtype)
    return resized.reshape(*image.shape[:-2], *size)


def pad(image: Tensor, padding: Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> Tensor:
    """Pad pictures.

    Args:
        image: [..., C, H, W].
        padding: Pixels on the left, above, on the right and below; or on both sides, and above and below.
        fill: Value of the padding, or one per channel.
        padding_mode: Not used; the padding is constant.
    """
    left, top, right, bottom = padding if len(padding) == 4 else (*padding, *padding)
    height, width = image.shape[-2:]
    colour = torch.as_tensor(0 if fill is None else fill, dtype=image.dtype, device=image.device)
    shape = (*image.shape[:-2], height + top + bottom, width + left + right)
    padded = colour.reshape(-1, 1, 1).expand(shape).clone()
    padded[..., top : top + height, left : left + width] = image
    return padded


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Cut a rectangle out of pictures.

    Args:
        image: [..., C, H, W].
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
    """
    return image[..., top : top + height, left : left + width]


def normalize(image: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    """Subtract the mean of each channel, and divide by its standard deviation.

    Args:
        image: [..., C, H, W].
        mean: One value per channel.
        std: One value per channel.
        inplace: Whether to change the pictures themselves.
    """
    mean, std = (torch.as_tensor(value, dtype=image.dtype, device=image.device) for value in (mean, std))
    image = image if inplace else image.clone()
    return image.sub_(mean.reshape(-1, 1, 1)).div_(std.reshape(-1, 1, 1))


def to_dtype(image: Tensor, dtype: torch.dtype, scale: bool = False) -> Tensor:
    """Convert the type of pictures.

    Args:
        image: Any shape.
        dtype: Type of the result.
        scale: Whether to convert between integers from 0 to 255 and floating point from 0 to 1.
    """
    if image.dtype == dtype or not scale or (image.is_floating_point() and dtype.is_floating_point):
        return image.to(dtype)
    if torch.uint8 not in (image.dtype, dtype):
        raise NotImplementedError(f"scaling {image.dtype} to {dtype}; only uint8 and floating point are supported")
    # The products, not quotients, and the number below 256 are torchvision's.
    return image.to(dtype).mul_(1 / 255) if dtype.is_floating_point else image.mul(255 + 1.0 - 1e-3).to(dtype)


def pil_to_tensor(picture: Image.Image) -> Tensor:
    """Return the pixels of a picture, uint8 [C, H, W].

    Args:
        picture: RGB or grey.
    """
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def grayscale_to_rgb(image: Tensor) -> Tensor:
    """Return pictures with three equal channels; others as they are.

    Args:
        image: [..., C, H, W].
    """
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def rgb_to_grayscale(image: Tensor, num_output_channels: int = 1) -> Tensor:
    """Return the luminance of pictures.

    Args:
        image: RGB, [..., 3, H, W].
        num_output_channels: 1, or 3 equal ones.
    """
    red, green, blue = image.float().unbind(-3)
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).to(image.dtype).unsqueeze(-3)
    return grey.expand(*grey.shape[:-3], num_output_channels, *grey.shape[-2:])


def real_class(dummy: Any) -> Any:
    """Return a class of transformers for which it holds a dummy, because torchvision is missing.

    Args:
        dummy: What transformers has under the name of the class.
    """
    with _in_place_of_torchvision() as stand_in:
        _complete(stand_in)
        return getattr(importlib.import_module(dummy.__module__), dummy.__name__)


def _complete(stand_in: ModuleType) -> None:
    """Set what the two modules that all image processors share would have imported from torchvision."""
    for module in (image_processing_backends, image_utils):
        shared: Any = module
        shared.tvF, shared.pil_to_tensor, shared.InterpolationMode = stand_in, pil_to_tensor, InterpolationMode
        shared.pil_torch_interpolation_mapping = MODES
        shared.torch_pil_interpolation_mapping = {mode: filter for filter, mode in MODES.items()}
        shared.is_torchvision_greater_or_equal = lambda version: True  # has all filters


@contextmanager
def _in_place_of_torchvision() -> Iterator[ModuleType]:
    """Let `import torchvision.transforms.v2.functional` return this module, while an image processor is imported."""
    this, names = sys.modules[__name__], ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    modules["torchvision"].transforms = modules[names[1]]
    modules[names[1]].v2, modules[names[2]].functional = modules[names[2]], this
    modules[names[1]].functional, modules[names[1]].InterpolationMode = this, InterpolationMode
    modules |= {"torchvision.transforms.functional": this, "torchvision.transforms.v2.functional": this}
    sys.modules.update(modules)
    try:
        yield this
    finally:
        for name in modules:
            del sys.modules[name]

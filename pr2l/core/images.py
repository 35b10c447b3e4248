"""Reading of image files as frames."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pr2l.core.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes with more than 8 bits per channel
MAX_PIXELS = 64_000_000


def read_image(file: str | Path | BinaryIO, name: str | None = None) -> npt.NDArray[np.uint8]:
    """Read an image file as a frame.

    Other formats are refused before they are decoded, because Pillow runs other programs for some of them.

    Args:
        file: A PNG, JPEG, WebP or BMP file; gray images and palettes become RGB, and transparency is dropped.
        name: Name of the file in errors; None = its path.

    Returns:
        uint8 [H, W, 3], RGB, upright according to the file's EXIF orientation.

    Raises:
        UserError: The file is missing, has another format, is damaged, is too large, or has more than 8 bits per
            channel.
    """
    path = str(file) if name is None else name
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path} has {image.width} x {image.height} pixels; the maximum is {MAX_PIXELS:,} pixels"
                )
            if image.mode in DEEP:
                raise UserError(f"{path} has more than 8 bits per channel ({image.mode}); convert it to 8 bits")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"there is no image file {path!r}") from error
    # struct.error: EXIF data that ends too early
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        formats = ", ".join(FORMATS)
        raise UserError(f"{path} cannot be read as an image ({formats}): {error}") from error

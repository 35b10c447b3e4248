"""Images of messages as PNG files."""

from __future__ import annotations

import base64

import cv2

from pr2l.core.errors import UserError
from pr2l.core.messages import Part
from pr2l.core.types import Frame


def png(image: Frame) -> bytes:
    """Return an image as a PNG file.

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    written, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert written
    return bytes(content.tobytes())


def data_url(image: Frame) -> str:
    """Return an image as a URL that holds a PNG file.

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def image_of(part: Part) -> Frame:
    """Return the image of an image part.

    Args:
        part: A part that is not a text.

    Raises:
        UserError: It is a video.
    """
    if part["type"] != "image":
        raise UserError("an API takes images, not videos; put the frames of the video into image parts")
    return part["image"]

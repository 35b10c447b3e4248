"""Frames of several cameras side by side, and the images that a prompt takes from them.

    cameras    front, wrist
    frame      uint8 [H, 2 W, 3]: front on the left, wrist on the right
    prompt     {type: image, camera: wrist} takes the right half

So several cameras need no other environment, data set or policy than one: an observation has one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pr2l.core.errors import UserError, did_you_mean
from pr2l.core.types import Frames


def side_by_side(images: Sequence[Frames]) -> Frames:
    """Return one frame that has the images of several cameras from left to right.

    Args:
        images: One per camera, uint8 [..., H, W, 3] of equal shape.
    """
    return images[0] if len(images) == 1 else np.concatenate(images, axis=-2)


def camera_width(width: int, cameras: Sequence[str]) -> int:
    """Return the width of each camera's image in a frame.

    Args:
        width: Width of the frame in pixels.
        cameras: Names from left to right; none = the frame is one image.

    Raises:
        UserError: The width is not a multiple of the number of cameras.
    """
    count = max(1, len(cameras))
    if width % count:
        raise UserError(
            f"the prompt has the cameras {', '.join(cameras)}, but frames are {width} pixels wide, not a multiple of"
            f" {count}; a frame must have the images of all cameras side by side, of equal width (frame=[KEY, KEY])."
        )
    return width // count


def take_cameras(messages: Any, cameras: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """Take the key `camera` out of the image and video parts of messages.

    Args:
        messages: Messages that were not checked yet.
        cameras: Names that a part may have; none = parts have no camera.

    Returns:
        The messages without this key, and the camera of each image or video, in order.

    Raises:
        UserError: A part has an unknown camera, or none although there are cameras.
    """
    if not cameras:
        return messages, ()
    names: list[str] = []

    def without(part: Any) -> Any:
        if not isinstance(part, Mapping) or part.get("type") not in ("image", "video"):
            return part
        name = part.get("camera")
        if name not in cameras:
            hint = did_you_mean(str(name), cameras)
            raise UserError(
                f"messages: the {part['type']} {dict(part)} has the camera {name!r}.{hint} Set `camera` to one of the"
                f" prompt's cameras: {', '.join(cameras)}."
            )
        names.append(str(name))
        return {key: value for key, value in part.items() if key != "camera"}

    return [_map_parts(message, without) for message in messages], tuple(names)


def _map_parts(message: Any, change: Any) -> Any:
    if not isinstance(message, Mapping) or not isinstance(content := message.get("content"), list | tuple):
        return message
    return {**message, "content": [change(part) for part in content]}


def history_of(images: Sequence[str]) -> int:
    """Return the number of frames that a prompt needs: the largest number of images of one camera.

    Args:
        images: Camera of each image of the prompt, in order.
    """
    return max(map(list(images).count, images), default=0)


def take_images(frames: Frames, cameras: Sequence[str], images: Sequence[str]) -> Frames:
    """Return the images of a prompt from frames with several cameras.

    Args:
        frames: uint8 [B, K, H, W, 3], the oldest first, with K = history_of(images); or [B, H, W, 3] if K is 1.
        cameras: Names of the cameras in a frame, from left to right.
        images: Camera of each image of the prompt, in order. A camera's images are its last ones, the oldest first.

    Returns:
        uint8 [B, N, H, W / cameras, 3] for N images; without N for one image.
    """
    whole = frames if frames.ndim == 5 else frames[:, None]
    width = camera_width(whole.shape[3], cameras)
    pictures = []
    for number, name in enumerate(images):
        left = list(images[number:]).count(name)  # images of this camera from here to the end
        start = list(cameras).index(name) * width
        pictures.append(whole[:, -left, :, start : start + width])
    return pictures[0] if len(pictures) == 1 else np.stack(pictures, axis=1)

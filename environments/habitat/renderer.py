"""A software renderer of triangles, which makes frames and segmentation in one pass without GPU or display.

habitat-sim draws with OpenGL, and pip packages that draw without a GPU need system libraries (EGL, X11) that a bare
machine lacks. habitat-lab depends on Numba, which makes this loop as fast as these packages. The pixels are the same on
all machines.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from .scene import LEVELS, SIDE, Mesh, texels

NEAR = 0.04  # near clipping plane in metres
FINER = 2  # samples per pixel on each axis


class Renderer:
    """Renderer of a mesh for a camera.

    Args:
        width: The width of a frame in pixels.
        height: The height of a frame in pixels.
        field: The horizontal field of view in degrees.
    """

    def __init__(self, width: int, height: int, field: float) -> None:
        self._size = width, height
        self._focal = FINER * width / 2 / math.tan(math.radians(field) / 2)
        self._texels = texels()

    def draw(self, mesh: Mesh, eye: NDArray[np.float64], heading: float) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Render a frame and its segmentation.

        Args:
            mesh: The triangles.
            eye: The position of the camera (x, y, z) in metres.
            heading: The direction of the camera in radians from -z towards -x.

        Returns:
            The frame, uint8 [H, W, 3], and the owner of each pixel, int64 [H, W]; see `Mesh`.
        """
        width, height = self._size
        image = np.zeros((height * FINER, width * FINER, 3))
        nearness = np.zeros(image.shape[:2])  # 1 / depth; 0 = nothing drawn yet
        owners = np.zeros(image.shape[:2], np.int64)
        _draw(
            mesh.corners,
            mesh.normals,
            mesh.uvs,
            mesh.colours,
            mesh.textures,
            mesh.owners,
            np.asarray(eye, np.float64),
            math.cos(heading),
            math.sin(heading),
            self._focal,
            self._texels,
            image,
            nearness,
            owners,
        )
        mean = image.reshape(height, FINER, width, FINER, 3).mean(axis=(1, 3))
        return np.clip(mean + 0.5, 0, 255).astype(np.uint8), owners[FINER // 2 :: FINER, FINER // 2 :: FINER]


@numba.njit(cache=True)
def _draw(  # type: ignore[no-untyped-def]
    corners, normals, uvs, colours, textures, owners, eye, cosine, sine, focal, texels, image, nearness, owner_image
):
    points = np.empty((4, 5))  # a clipped triangle as right, up, ahead, u, v
    for t in range(corners.shape[0]):
        toward = 0.0
        for axis in range(3):
            toward += normals[t, axis] * (eye[axis] - corners[t, 0, axis])
        if toward <= 0:
            continue
        count = _cut(corners[t], uvs[t], eye, cosine, sine, points)
        for i in range(1, count - 1):
            a, b, c = points[0], points[i], points[i + 1]
            _fill(a, b, c, focal, colours[t], textures[t], owners[t], texels, image, nearness, owner_image)


@numba.njit(cache=True)
def _cut(corners, uvs, eye, cosine, sine, points):  # type: ignore[no-untyped-def]
    """Clip a triangle at NEAR, write it to `points` in camera coordinates, and return its number of corners."""
    camera_points = np.empty((3, 5))
    for i in range(3):
        x, y, z = corners[i, 0] - eye[0], corners[i, 1] - eye[1], corners[i, 2] - eye[2]
        camera_points[i, 0], camera_points[i, 1], camera_points[i, 2] = x * cosine - z * sine, y, -x * sine - z * cosine
        camera_points[i, 3], camera_points[i, 4] = uvs[i, 0], uvs[i, 1]
    count = 0
    for i in range(3):
        here, after = camera_points[i], camera_points[(i + 1) % 3]
        if here[2] >= NEAR:
            points[count] = here
            count += 1
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            points[count] = here + (NEAR - here[2]) / (after[2] - here[2]) * (after - here)
            count += 1
    return count


@numba.njit(cache=True)
def _fill(a, b, c, focal, colour, texture, owner, texels, image, nearness, owner_image):  # type: ignore[no-untyped-def]
    height, width = nearness.shape
    ax, ay = width / 2 + focal * a[0] / a[2], height / 2 - focal * a[1] / a[2]
    bx, by = width / 2 + focal * b[0] / b[2], height / 2 - focal * b[1] / b[2]
    cx, cy = width / 2 + focal * c[0] / c[2], height / 2 - focal * c[1] / c[2]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if abs(area) < 1e-9:
        return
    left, right = max(0, math.ceil(min(ax, bx, cx) - 0.5)), min(width - 1, math.floor(max(ax, bx, cx) - 0.5))
    top, bottom = max(0, math.ceil(min(ay, by, cy) - 0.5)), min(height - 1, math.floor(max(ay, by, cy) - 0.5))
    across_a, across_b = (by - cy) / area, (cy - ay) / area  # change of the barycentric coordinates per column
    for row in range(top, bottom + 1):
        x, y = left + 0.5, row + 0.5
        first_a = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
        first_b = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
        for column in range(left, right + 1):
            wa, wb = first_a + (column - left) * across_a, first_b + (column - left) * across_b
            wc = 1.0 - wa - wb
            if wa < 0 or wb < 0 or wc < 0:
                continue
            # A quantity that is linear in space is linear on the screen after division by depth.
            ka, kb, kc = wa / a[2], wb / b[2], wc / c[2]
            near = ka + kb + kc
            if near <= nearness[row, column]:
                continue
            nearness[row, column] = near
            owner_image[row, column] = owner
            bright = 1.0
            if texture >= 0:
                u, v = (ka * a[3] + kb * b[3] + kc * c[3]) / near, (ka * a[4] + kb * b[4] + kc * c[4]) / near
                i, j = int((v - math.floor(v)) * SIDE) % SIDE, int((u - math.floor(u)) * SIDE) % SIDE
                bright = texels[texture, _level(near * focal), i, j]
            for channel in range(3):
                image[row, column, channel] = colour[channel] * bright


@numba.njit(cache=True)
def _level(pixels):  # type: ignore[no-untyped-def]
    """Return the level of detail for a surface whose metre covers `pixels` pixels."""
    level = 0
    while level < LEVELS - 1 and pixels * 2**level < SIDE:
        level += 1
    return level

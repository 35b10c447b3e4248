"""Image files are read as RGB frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pr2l.core.errors import UserError
from pr2l.core.images import read_image

RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)  # one row of two pixels


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp"])
def test_lossless_files_give_the_same_pixels(tmp_path: Path, name: str) -> None:
    Image.fromarray(RED_GREEN).save(tmp_path / name, lossless=True)
    frame = read_image(tmp_path / name)
    assert frame.dtype == np.uint8 and frame.tolist() == RED_GREEN.tolist()


def test_gray_palette_and_transparent_images_are_converted_to_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(RED_GREEN)
    for mode, expected in (("L", [[[76] * 3, [150] * 3]]), ("P", RED_GREEN.tolist()), ("RGBA", RED_GREEN.tolist())):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
        assert read_image(tmp_path / f"{mode}.png").tolist() == expected, mode


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    Image.fromarray(RED_GREEN).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 0, 0]], [[0, 255, 0]]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "no image file"),
        ("text.png", "cannot be read as an image"),
        ("truncated.png", "cannot be read as an image"),
        ("drawing.png", "cannot be read as an image"),  # an EPS, which Pillow would hand to Ghostscript
        ("deep.png", "more than 8 bits"),
        ("folder.png", "cannot be read as an image"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (200, 200)).save(tmp_path / "complete.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "complete.png").read_bytes()[:60])
    Image.fromarray(RED_GREEN).save(tmp_path / "drawing.png", format="EPS")
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / name)

"""Image files are read as RGB frames."""

import io
import zlib
from contextlib import suppress
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


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data")
def test_damaged_images_are_refused_or_read(tmp_path: Path) -> None:
    """Every changed and every truncated file, with orientation in EXIF; Pillow raises errors of many types."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("PNG", "JPEG", "WEBP", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(RED_GREEN).save(buffer, name, **({} if name == "BMP" else {"exif": exif}))
        content = buffer.getvalue()
        for place in range(len(content)):
            changed = content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
            for bad in (changed, content[:place]):
                with suppress(UserError):
                    assert read_image(io.BytesIO(bad), "it").dtype == np.uint8


@pytest.mark.parametrize(("kind", "kept"), [(b"IHDR", 10), (b"eXIf", 6)])
def test_png_with_a_short_chunk_and_a_right_checksum_is_refused(kind: bytes, kept: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(RED_GREEN).save(buffer, "PNG", exif=exif)
    content = buffer.getvalue()
    start = content.index(kind)
    size = int.from_bytes(content[start - 4 : start], "big")
    chunk = content[start : start + 4 + kept]
    short = kept.to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with pytest.raises(UserError, match="it cannot be read as an image"):
        read_image(io.BytesIO(content[: start - 4] + short + content[start + 8 + size :]), "it")


@pytest.mark.parametrize("side", [8_001, 30_000])
def test_image_with_too_many_pixels_is_refused(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"large\.png .*(maximum is 64,000,000 pixels|exceeds limit)"):
        read_image(tmp_path / "large.png")

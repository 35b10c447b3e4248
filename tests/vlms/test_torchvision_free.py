"""Functions that replace those of torchvision in image processors that have no PIL version."""

import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_parts import frames

from pr2l.vlms import torchvision_free as free


def tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize(("name", "largest"), [("BILINEAR", 1), ("BICUBIC", 1), ("LANCZOS", 1)])
@pytest.mark.parametrize("size", [(20, 14), (50, 61)])
def test_resize_is_within_rounding_of_pil(name, largest, size):
    pictures = frames(2, 32, 40)
    ours = free.resize(tensor(pictures), size, free.InterpolationMode[name])
    resized = [Image.fromarray(picture).resize(size[::-1], Image.Resampling[name]) for picture in pictures]
    theirs = tensor(np.stack([np.asarray(picture) for picture in resized]))
    assert ours.dtype == torch.uint8 and ours.shape == theirs.shape
    assert (ours.int() - theirs.int()).abs().max() <= largest


def test_picture_of_the_right_size_is_not_changed():
    picture = tensor(frames(1, 32, 32))
    assert free.resize(picture, (32, 32)) is picture
    assert torch.equal(
        free.resize(picture, (16, 16), 3), free.resize(picture, (16, 16), free.InterpolationMode.BICUBIC)
    )


def test_pad_crop_and_normalize():
    picture = torch.arange(12, dtype=torch.float32).reshape(1, 3, 2, 2)
    padded = free.pad(picture, (1, 2, 3, 4), fill=[7, 8, 9])
    assert padded.shape == (1, 3, 8, 6) and torch.equal(free.crop(padded, 2, 1, 2, 2), picture)
    assert padded[0, :, 0, 0].tolist() == [7, 8, 9]
    assert torch.equal(free.pad(picture, (1, 2)), free.pad(picture, (1, 2, 1, 2)))
    normal = free.normalize(picture, [1.0, 2.0, 3.0], [2.0, 2.0, 4.0])
    assert normal[0, :, 0, 0].tolist() == [-0.5, 1.0, 1.25] and picture[0, 0, 0, 0] == 0


def test_conversions():
    picture = tensor(frames(1, 4, 4))
    unit = free.to_dtype(picture, torch.float32, scale=True)
    assert torch.allclose(unit, picture / 255) and torch.equal(free.to_dtype(unit, torch.uint8, scale=True), picture)
    pil = Image.fromarray(frames(1, 4, 4)[0])
    assert torch.equal(free.pil_to_tensor(pil), picture[0])
    assert (free.rgb_to_grayscale(picture)[0, 0] - free.pil_to_tensor(pil.convert("L"))[0].float()).abs().max() <= 1
    assert free.grayscale_to_rgb(picture[:, :1]).shape == picture.shape


def same_bits(ours, theirs):
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_same_bits_as_torchvision(kind, channels):
    """Needs torchvision, which the locked environment leaves out; torchvision 0.28 gave the same bits."""
    real = pytest.importorskip("torchvision.transforms.v2.functional")
    picture = tensor(frames(2, 37, 53))[:, :channels]
    picture = picture if kind == "uint8" else real.to_dtype(picture, torch.float32, scale=True)
    for mode in (free.InterpolationMode[name] for name in ("NEAREST", "NEAREST_EXACT", "BILINEAR", "BICUBIC")):
        for size in ((20, 30), (90, 70)):
            theirs = real.resize(picture, list(size), interpolation=real.InterpolationMode(mode.value))
            same_bits(free.resize(picture, size, mode), theirs)
    for fill in (0, 7, None):
        same_bits(free.pad(picture, [1, 2, 3, 4], fill=fill), real.pad(picture, [1, 2, 3, 4], fill=fill))
    same_bits(free.crop(picture, 2, 3, 10, 12), real.crop(picture, 2, 3, 10, 12))
    for dtype in (torch.uint8, torch.float16, torch.float32):
        for scale in (True, False):
            same_bits(free.to_dtype(picture, dtype, scale=scale), real.to_dtype(picture, dtype, scale=scale))
    unit, colour = real.to_dtype(picture, torch.float32, scale=True), [0.5] * channels
    same_bits(free.normalize(unit, colour, colour), real.normalize(unit, colour, colour))
    if channels == 3:
        same_bits(free.rgb_to_grayscale(picture, 3), real.rgb_to_grayscale(picture, 3))
    else:
        same_bits(free.grayscale_to_rgb(picture), real.grayscale_to_rgb(picture))


def test_scaling_between_integers_is_refused():
    with pytest.raises(NotImplementedError, match="int32"):
        free.to_dtype(torch.zeros(3, 2, 2, dtype=torch.int32), torch.float32, scale=True)


def test_nothing_called_torchvision_stays_imported():
    processor = free.real_class(transformers.Cohere2VisionImageProcessor)(size={"height": 32, "width": 32})
    pixels = processor(images=[Image.fromarray(frames(1, 32, 32)[0])], return_tensors="pt")["pixel_values"]
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (processor.image_mean, processor.image_std))
    expected = torch.from_numpy((tensor(frames(1, 32, 32)).numpy() / 255 - mean) / std).float()
    torch.testing.assert_close(pixels[:1], expected, rtol=0, atol=1e-6)
    assert "torchvision" not in sys.modules or "site-packages" in str(sys.modules["torchvision"].__file__)


@pytest.mark.parametrize("mode", ["BILINEAR", "BICUBIC"])
def test_equal_to_torchvision_where_it_is_installed(mode):
    theirs = pytest.importorskip("torchvision.transforms.v2.functional")
    from torchvision.transforms import InterpolationMode

    picture = tensor(frames(2, 32, 40))
    expected = theirs.resize(picture, [20, 14], InterpolationMode[mode], antialias=True)
    assert torch.equal(free.resize(picture, (20, 14), free.InterpolationMode[mode]), expected)
    assert torch.equal(free.pad(picture, (1, 2, 3, 4), fill=5), theirs.pad(picture, [1, 2, 3, 4], fill=5))
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    assert torch.equal(free.normalize(picture / 255, mean, std), theirs.normalize(picture / 255, mean, std))

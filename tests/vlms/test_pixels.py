"""The fast preprocessing of frames equals the image processors of transformers bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_parts import frames
from transformers import CLIPImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pr2l.vlms.pixels import Pixels
from pr2l.vlms.resize import FILTERS, goes_down_first, pad_to_square, resize, stretched

# Without crops and tiles, as a frame is always one stretched square here.
OPTIONS = {
    CLIPImageProcessorPil: {"do_center_crop": False},
    BlipImageProcessorPil: {},
    Gemma3ImageProcessorPil: {"do_pan_and_scan": False},
    GotOcr2ImageProcessorPil: {"crop_to_patches": False},
    SiglipImageProcessorPil: {},
}

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = [("cpu", False), ("cpu", True), pytest.param("cuda", True, marks=NO_GPU)]


@pytest.mark.parametrize("processor_class", OPTIONS)
@pytest.mark.parametrize("size", [28, 160])
@pytest.mark.parametrize(("device", "in_torch"), DEVICES)
def test_pixels_equal_the_image_processor(processor_class, size, device, in_torch):
    processor = processor_class(size={"height": size, "width": size}, **OPTIONS[processor_class])
    pictures = frames(3, 120, 160)
    pixels = Pixels(processor, size, torch.device(device), torch.float32)
    assert pixels.in_torch == (device == "cuda")
    pixels.in_torch = in_torch
    ours = pixels(pictures).cpu()
    theirs = processor(list(pictures), return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, theirs) and ours.is_contiguous()


def test_disabled_steps_are_left_out():
    processor = SiglipImageProcessorPil(do_rescale=False, do_normalize=False)
    pictures = frames(2, 40, 40)
    ours = Pixels(processor, 40, torch.device("cpu"), torch.float32)(pictures)
    assert torch.equal(ours, torch.from_numpy(pictures).permute(0, 3, 1, 2).float())


def stretched_in_torch(pictures, size, resample):
    """Stretch pictures uint8 [B, H, W, 3] in torch."""
    down_first = goes_down_first(*pictures.shape[1:3], (size, size), resample)
    assert down_first is not None
    ours = stretched(torch.from_numpy(pictures).permute(0, 3, 1, 2), (size, size), resample, down_first)
    assert ours.dtype == torch.uint8 and ours.is_contiguous()
    return ours.permute(0, 2, 3, 1).numpy()


# With fewer new pixels, the order of the passes might make no difference.
sides = st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(8, 70))


@settings(deadline=None)
@given(st.sampled_from([*FILTERS]), sides, st.integers(0, 2**32 - 1))
def test_stretching_a_batch_in_torch_equals_pil(resample, sides, seed):
    height, width, size = sides
    pictures = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    pictures[1] = pictures[1] // 128 * 255  # black and white: negative weights exceed the range of a byte
    theirs = [np.asarray(Image.fromarray(picture).resize((size, size), resample)) for picture in pictures]
    assert np.array_equal(stretched_in_torch(pictures, size, resample), theirs)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("height", "width", "size"), [(120, 160, 512), (480, 640, 384), (601, 799, 336)])
def test_stretching_large_pictures_in_torch_equals_pil(resample, height, width, size):
    pictures = frames(1, height, width)
    assert np.array_equal(stretched_in_torch(pictures, size, resample), resize(pictures, size, resample))


def test_order_of_forward_passes_changes_rounding():
    pictures = torch.from_numpy(frames(1, 40, 50)).permute(0, 3, 1, 2)
    one, other = (stretched(pictures, (30, 30), Image.Resampling.BICUBIC, order) for order in (False, True))
    assert not torch.equal(one, other)


def test_filters_that_torch_lacks_use_pil():
    pictures = frames(2, 12, 16)
    pixels = Pixels(SiglipImageProcessorPil(resample=4), 8, torch.device("cpu"), torch.float32)
    assert goes_down_first(12, 16, (8, 8), pixels.resample) is None
    pixels.in_torch = True
    assert np.array_equal(pixels.resize(pictures).permute(0, 2, 3, 1), resize(pictures, 8, Image.Resampling.BOX))


def test_wide_frame_is_not_cropped():
    wide = frames(1, 10, 40) // 2
    wide[:, :, :10] = wide[:, :, -10:] = 255
    square = resize(wide, 10)
    assert square.shape == (1, 10, 10, 3)
    assert square[:, :, 0].min() > 250 and square[:, :, -1].min() > 250


# Aspect ratio.

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(height, width):
    """Return a frame whose left half is red and whose right half is blue, uint8 [1, height, width, 3]."""
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[:, :, : width // 2], frame[:, :, width // 2 :] = RED, BLUE
    return frame


def test_letterbox_pads_both_sides_evenly():
    """A tall phone screen in a square, by hand: 2 x 6 pixels become 6 x 6, the picture in columns 2 and 3."""
    square = pad_to_square(two_halves(6, 2), np.array((1, 2, 3), np.uint8))
    assert square.shape == (1, 6, 6, 3)
    columns = [(1, 2, 3), (1, 2, 3), RED, BLUE, (1, 2, 3), (1, 2, 3)]
    assert (square == np.array(columns, np.uint8)[None, None]).all()
    wide = pad_to_square(two_halves(2, 5), np.array((1, 2, 3), np.uint8))
    assert wide.shape == (1, 5, 5, 3)
    assert [tuple(row[0]) for row in wide[0]] == [(1, 2, 3), RED, RED, (1, 2, 3), (1, 2, 3)]  # an odd pixel below
    same = two_halves(4, 4)
    assert pad_to_square(same, np.zeros(3, np.uint8)) is same


@pytest.mark.parametrize(("normalize", "padding"), [(True, (127, 102, 51)), (False, (127, 127, 127))])
def test_padding_has_the_mean_colour_of_the_processor(normalize, padding):
    mean = [0.5, 0.4, 0.2]
    processor = SiglipImageProcessorPil(do_normalize=normalize, image_mean=mean, image_std=[0.5] * 3)
    pixels = Pixels(processor, 36, torch.device("cpu"), torch.float32, letterbox=True)
    assert pixels.padding == padding
    fitted = pixels.fit(two_halves(36, 18))
    assert fitted.shape == (1, 36, 36, 3)
    assert (fitted[0, :, [0, 35]] == padding).all() and (fitted[0, :, [9, 26]] == [[RED], [BLUE]]).all()
    values = pixels(two_halves(36, 18))
    assert values.shape == (1, 3, 36, 36)
    if normalize:
        assert values[..., 0].abs().max() < 0.01  # the mean becomes 0


def test_without_letterbox_a_tall_frame_is_stretched():
    pixels = Pixels(SiglipImageProcessorPil(), 36, torch.device("cpu"), torch.float32)
    fitted = pixels.fit(two_halves(36, 18))
    assert (fitted[0, :, [0, 35]] == [[RED], [BLUE]]).all()


def test_pictures_that_are_not_square():
    pixels = Pixels(SiglipImageProcessorPil(), (20, 40), torch.device("cpu"), torch.float32)
    pictures = frames(3, 33, 50)
    pixels.in_torch = True
    in_torch = pixels.resize(pictures)
    pixels.in_torch = False
    assert in_torch.shape == (3, 3, 20, 40) and torch.equal(in_torch, pixels.resize(pictures))

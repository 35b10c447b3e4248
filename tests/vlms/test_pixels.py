"""The fast path from frames to pixels against the image processors of the Hub's families, bit for bit."""

import pytest
import torch
from tiny_parts import frames
from transformers import CLIPImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pr2l.vlms._pixels import Pixels, squared

# What would change the geometry is switched off, since here a frame is always one stretched square.
WHOLE = {
    CLIPImageProcessorPil: {"do_center_crop": False},
    BlipImageProcessorPil: {},
    Gemma3ImageProcessorPil: {"do_pan_and_scan": False},
    GotOcr2ImageProcessorPil: {"crop_to_patches": False},
    SiglipImageProcessorPil: {},
}


@pytest.mark.parametrize("processor_class", WHOLE)
@pytest.mark.parametrize("size", [28, 160])
def test_the_result_is_the_image_processors(processor_class, size):
    processor = processor_class(size={"height": size, "width": size}, **WHOLE[processor_class])
    pictures = frames(3, 120, 160)
    ours = Pixels(processor, size, torch.device("cpu"), torch.float32)(pictures)
    theirs = processor(list(pictures), return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, theirs) and ours.is_contiguous()


def test_steps_that_the_checkpoint_switches_off_are_left_out():
    processor = SiglipImageProcessorPil(do_rescale=False, do_normalize=False)
    pictures = frames(2, 40, 40)
    ours = Pixels(processor, 40, torch.device("cpu"), torch.float32)(pictures)
    assert torch.equal(ours, torch.from_numpy(pictures).permute(0, 3, 1, 2).float())


def test_the_sides_of_a_wide_frame_stay_in_the_picture():
    wide = frames(1, 10, 40) // 2
    wide[:, :, :10] = wide[:, :, -10:] = 255
    square = squared(wide, 10)
    assert square.shape == (1, 10, 10, 3)
    assert square[:, :, 0].min() > 250 and square[:, :, -1].min() > 250

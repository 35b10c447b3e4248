"""Frames that are not square: stretched, letterboxed, or in their own shape."""

import numpy as np
import pytest
import torch
from test_families import CASES, TEXTS, N, close, folder, stacked, unmodified, vlm
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.encoders import prompted
from pr2l.encoders.base import EncoderSource
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.qwen import QwenVL

CASE = {case.name: case for case in CASES}
QWEN = [case for case in CASES if case.name in ("qwen2_5_vl", "qwen3_vl")]
PHONE = (78, 36)  # a screen of 19.5 : 9

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
qwen_cases = pytest.mark.parametrize("case", QWEN, ids=lambda case: case.name)


@all_cases
def test_a_letterbox_is_the_padded_frame(case):
    """The same states as of the frame that was padded by hand beforehand; a square frame is left alone."""
    phone = frames(2, *PHONE)
    letterbox = vlm(case, aspect="letterbox")
    ours = letterbox.hidden(phone, TEXTS[:2])
    if case.name != "prismatic":  # whose towers have two mean colours
        square = np.empty((2, 78, 78, 3), np.uint8)
        square[:] = letterbox.fit(phone)[0, 0, 0]
        square[:, :, 21:57] = phone
        close(ours.states, vlm(case).hidden(square, TEXTS[:2]).states)
    assert (ours.states - vlm(case).hidden(phone, TEXTS[:2]).states).abs().max() > 1e-3
    squares = frames(2, case.size, case.size)
    close(letterbox.hidden(squares, TEXTS[:2]).states, vlm(case).hidden(squares, TEXTS[:2]).states)


@qwen_cases
@torch.no_grad()
def test_a_native_picture_is_what_the_processor_makes_of_the_frame(case):
    """Pixels, tokens and states are those of the unmodified model, whose own processor keeps the shape of a frame."""
    phone = frames(1, *PHONE)
    native = vlm(case, aspect="native", frame_size=PHONE, image_size=128)
    inputs = case.inputs(folder(case), phone[0], TEXTS[0], "image_first")
    ours = native.inputs(phone, TEXTS[:1])
    assert torch.equal(ours["image_grid_thw"], inputs["image_grid_thw"])
    rows, columns = ours["image_grid_thw"][0, 1:].tolist()
    assert rows > 2 * columns - 2 and native.image_length() == rows * columns // 4
    close(ours["pixel_values"], inputs["pixel_values"])
    hidden = native.hidden(phone, TEXTS[:1])
    states = stacked(unmodified(case)(**inputs, output_hidden_states=True).hidden_states)
    image = inputs["input_ids"][0] == unmodified(case).config.image_token_id
    close(hidden.states[:, :, hidden.spans["image"]], states[:, :, image])
    close(hidden.states[:, :, hidden.spans["prompt"]], states[:, :, ~image])


@qwen_cases
def test_image_size_bounds_a_native_picture(case):
    small = vlm(case, aspect="native", frame_size=PHONE, image_size=32)
    height, width = small.picture_size
    assert isinstance(small, QwenVL) and height > width and height * width <= 32**2
    assert small.hidden(frames(1, *PHONE), TEXTS[:1]).spans["image"].stop == small.image_length() < 16


def test_native_pictures_need_a_family_and_a_size():
    with pytest.raises(UserError, match="aspect=native is not possible with a llava"):
        vlm(CASE["llava"], aspect="native", frame_size=PHONE)
    with pytest.raises(UserError, match=r"aspect=native needs frame_size=\[height, width\]"):
        vlm(QWEN[0], aspect="native")
    with pytest.raises(ValueError, match="frame_size is only for aspect=native"):
        Defaults(frame_size=PHONE)
    with pytest.raises(UserError, match=r"frames are 40 x 40 pixels.*frame_size=\[78, 36\]"):
        vlm(QWEN[0], aspect="native", frame_size=PHONE, image_size=128).hidden(frames(1, 40, 40), TEXTS[:1])


def test_a_key_names_the_aspect_only_where_it_is_not_the_default():
    llava = CASE["llava"]
    assert not {"aspect", "frame_size"} & set(vlm(llava).key())
    assert vlm(llava, aspect="letterbox").key()["aspect"] == "letterbox"
    native = vlm(QWEN[0], aspect="native", frame_size=PHONE, image_size=128).key()
    assert native["aspect"] == "native" and native["frame_size"] == [*PHONE]


def test_several_native_images_stand_in_one_conversation():
    case = CASE["qwen2_5_vl"]
    model = load_vlm(str(folder(case)), Defaults(aspect="native", frame_size=PHONE, image_size=64, new_tokens=N))
    images = list(frames(2, *PHONE))
    image, text = {"type": "image"}, {"type": "text", "text": "is it near ?"}
    hidden = model.hidden([images], [[{"role": "user", "content": [image, image, text]}]])
    assert (
        hidden.spans["image"].stop == 2 * model.image_length() and hidden.mask[0, : hidden.spans["prompt"].stop].all()
    )


def test_an_encoder_takes_the_size_of_its_frames():
    case = CASE["qwen2_5_vl"]
    options = Defaults(aspect="native", image_size=64, generation="none")
    source = EncoderSource(str(folder(case)), options, None, [{}], (*PHONE, 3), ())
    encoder = prompted.create(source, prompted.Defaults())
    assert encoder.vlm.options.frame_size == PHONE
    assert encoder.encode(frames(2, *PHONE), [{}, {}]).values.shape[:2] == (2, encoder.tokens)
    with pytest.raises(UserError, match="image_tokens=4 pools a square grid"):
        prompted.create(source, prompted.Defaults(image_tokens=4))

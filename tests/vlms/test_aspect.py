"""Frames that are not square: stretched, letterboxed, or in their own shape."""

import numpy as np
import pytest
import torch
from small_vlms import CASE, NEW_TOKENS, TEXTS, all_cases, assert_close, folder, load, stacked, unmodified, vlm
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.encoders import prompted
from pr2l.encoders.base import EncoderSource
from pr2l.vlms.base import Defaults
from pr2l.vlms.qwen import QwenVL

QWEN = [CASE["qwen2_5_vl"], CASE["qwen3_vl"]]
PHONE = (78, 36)  # a screen of 19.5 : 9

qwen_cases = pytest.mark.parametrize("case", QWEN, ids=lambda case: case.name)


@all_cases
def test_letterbox_equals_padding_by_hand(case):
    """A square frame is not padded."""
    phone = frames(2, *PHONE)
    letterbox = vlm(case, aspect="letterbox")
    ours = letterbox.hidden(phone, TEXTS[:2])
    if case.name != "prismatic":  # whose towers have two mean colours
        square = np.empty((2, 78, 78, 3), np.uint8)
        square[:] = letterbox.fit(phone)[0, 0, 0]
        square[:, :, 21:57] = phone
        assert_close(ours.states, vlm(case).hidden(square, TEXTS[:2]).states)
    assert (ours.states - vlm(case).hidden(phone, TEXTS[:2]).states).abs().max() > 1e-3
    squares = frames(2, case.size, case.size)
    assert_close(letterbox.hidden(squares, TEXTS[:2]).states, vlm(case).hidden(squares, TEXTS[:2]).states)


@qwen_cases
@torch.no_grad()
def test_native_aspect_equals_the_unmodified_model(case):
    """The model's own processor keeps the aspect ratio of a frame."""
    phone = frames(1, *PHONE)
    native = vlm(case, aspect="native", frame_size=PHONE, image_size=128)
    inputs = case.inputs(folder(case), phone[0], TEXTS[0], "image_first")
    ours = native.inputs(phone, TEXTS[:1])
    assert torch.equal(ours["image_grid_thw"], inputs["image_grid_thw"])
    rows, columns = ours["image_grid_thw"][0, 1:].tolist()
    assert rows > 2 * columns - 2 and native.image_length() == rows * columns // 4
    assert_close(ours["pixel_values"], inputs["pixel_values"])
    hidden = native.hidden(phone, TEXTS[:1])
    states = stacked(unmodified(case)(**inputs, output_hidden_states=True).hidden_states)
    image = inputs["input_ids"][0] == unmodified(case).config.image_token_id
    assert_close(hidden.states[:, :, hidden.spans["image"]], states[:, :, image])
    assert_close(hidden.states[:, :, hidden.spans["prompt"]], states[:, :, ~image])


@qwen_cases
def test_image_size_limits_the_area_of_a_native_picture(case):
    small = vlm(case, aspect="native", frame_size=PHONE, image_size=32)
    height, width = small.picture_size
    assert isinstance(small, QwenVL) and height > width and height * width <= 32**2
    assert small.hidden(frames(1, *PHONE), TEXTS[:1]).spans["image"].stop == small.image_length() < 16


def test_native_aspect_is_refused_without_family_or_frame_size():
    with pytest.raises(UserError, match="aspect=native.*llava.*aspect=letterbox"):
        vlm(CASE["llava"], aspect="native", frame_size=PHONE)
    with pytest.raises(UserError, match=r"frame_size=\[height, width\]"):
        vlm(QWEN[0], aspect="native")
    with pytest.raises(ValueError, match="frame_size is only for aspect=native"):
        Defaults(frame_size=PHONE)
    with pytest.raises(UserError, match=r"frames are 40 x 40 pixels.*frame_size=\[78, 36\]"):
        vlm(QWEN[0], aspect="native", frame_size=PHONE, image_size=128).hidden(frames(1, 40, 40), TEXTS[:1])


def test_key_contains_aspect_unless_it_is_the_default():
    llava = CASE["llava"]
    assert not {"aspect", "frame_size"} & set(vlm(llava).key())
    assert vlm(llava, aspect="letterbox").key()["aspect"] == "letterbox"
    native = vlm(QWEN[0], aspect="native", frame_size=PHONE, image_size=128).key()
    assert native["aspect"] == "native" and native["frame_size"] == [*PHONE]


def test_conversation_with_two_native_images():
    case = CASE["qwen2_5_vl"]
    model = load(case, aspect="native", frame_size=PHONE, image_size=64, new_tokens=NEW_TOKENS)
    images = list(frames(2, *PHONE))
    image, text = {"type": "image"}, {"type": "text", "text": "is it near ?"}
    hidden = model.hidden([images], [[{"role": "user", "content": [image, image, text]}]])
    assert (
        hidden.spans["image"].stop == 2 * model.image_length() and hidden.mask[0, : hidden.spans["prompt"].stop].all()
    )


def test_encoder_sets_frame_size_from_the_environment():
    case = CASE["qwen2_5_vl"]
    options = Defaults(aspect="native", image_size=64, generation="none")
    source = EncoderSource(str(folder(case)), options, None, [{}], (*PHONE, 3), ())
    encoder = prompted.create(source, prompted.Defaults())
    assert encoder.vlm.options.frame_size == PHONE
    assert encoder.encode(frames(2, *PHONE), [{}, {}]).values.shape[:2] == (2, encoder.tokens)
    with pytest.raises(UserError, match="image_tokens=4.*square"):
        prompted.create(source, prompted.Defaults(image_tokens=4))

"""Chat messages: construction, checks, and images."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pr2l.core.errors import UserError
from pr2l.core.messages import check_messages, count_images, from_text, image_part, split_images

IMAGE = {"type": "image"}
FRAME, OTHER_FRAME = np.zeros((4, 6, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
VIDEO = {"type": "video", "frames": 4, "fps": 2.0}
CLIP = np.arange(3 * 4 * 6 * 3, dtype=np.uint8).reshape(3, 4, 6, 3)


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({}, [IMAGE, text("where ?")]),
        ({"text_first": True}, [text("where ?"), IMAGE]),
        ({"images": 2}, [IMAGE, IMAGE, text("where ?")]),
        ({"images": 0}, [text("where ?")]),
    ],
)
def test_from_text_creates_one_user_message(options, content) -> None:
    messages = from_text("where ?", **options)
    assert messages == [{"role": "user", "content": content}]
    assert count_images(messages) == options.get("images", 1)


def test_from_text_of_an_empty_text_has_no_text_part() -> None:
    assert from_text("") == [{"role": "user", "content": [IMAGE]}]


def test_check_messages_copies_and_converts_strings_to_text_parts() -> None:
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": (IMAGE, text("where ?"), IMAGE)})
    checked = check_messages(messages)
    assert checked == [
        {"role": "system", "content": [text("be brief")]},
        {"role": "user", "content": [IMAGE, text("where ?"), IMAGE]},
    ]
    assert count_images(checked) == 2
    checked[1]["content"].clear()
    assert len(messages[1]["content"]) == 3


@given(st.text())
def test_messages_from_text_are_valid(prompt: str) -> None:
    assert check_messages(from_text(prompt)) == from_text(prompt)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"at least one message, got \[\]"),
        ("where ?", "at least one message, got 'where \\?'"),
        (["where ?"], r"m\[0\]: .*the keys role and content"),
        ([{"role": "user"}], r"m\[0\]: the key 'content' is missing"),
        ([{"role": "usr", "content": "a"}], "unknown role 'usr'. Did you mean 'user'"),
        ([{"role": ["user"], "content": "a"}], r"unknown role \['user'\]"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], r"m\[1\]: only the first message"),
        ([{"role": "user", "content": []}], r"m\[0\].content: expected text or a list of parts, got \[\]"),
        ([{"role": "user", "content": "a", "contents": "b"}], "unknown key 'contents'. Did you mean 'content'"),
        ([{"role": "user", "content": ["a"]}], r"m\[0\].content\[0\]: expected a mapping with the key 'type'"),
        ([{"role": "user", "content": [{"type": "img"}]}], "unknown type 'img'. Did you mean 'image'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the key 'text' is missing"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], r"content\[0\].text: expected text, got 3"),
        (
            [{"role": "user", "content": [{"type": "image", "image": FRAME}]}],
            "unknown key 'image'.*marks the place",
        ),
        ([{"role": "user", "content": [{"type": "image", "url": "a.png"}]}], "unknown key 'url'"),
        ([{"role": "assistant", "content": [IMAGE]}], "'assistant' cannot have an image"),
        ([{"role": "assistant", "content": [VIDEO]}], "'assistant' cannot have a video; move the video"),
        ([{"role": "user", "content": [{"type": "video"}]}], r"content\[0\]: the key 'frames' is missing"),
        ([{"role": "user", "content": [VIDEO | {"frames": 0}]}], "whole number of at least 1, got 0"),
        ([{"role": "user", "content": [VIDEO | {"frames": True}]}], "whole number of at least 1, got True"),
        ([{"role": "user", "content": [VIDEO | {"fps": 0}]}], "frames per second, a number above 0, got 0"),
        ([{"role": "user", "content": [VIDEO | {"fp": 1}]}], "unknown key 'fp'. Did you mean 'fps'"),
        ([{"role": "user", "content": [VIDEO | {"video": CLIP}]}], "unknown key 'video'.*marks the place of a video"),
    ],
)
def test_invalid_messages_are_refused_with_position_and_reason(value, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_messages(value, "m")


def test_split_images_separates_images_from_messages() -> None:
    messages = [
        {"role": "user", "content": [image_part(FRAME), text("where ?")]},
        {"role": "assistant", "content": "left"},
        {"role": "user", "content": [text("and now ?"), {"type": "image", "image": OTHER_FRAME}]},
    ]
    without_images, images = split_images(messages)
    assert images[0] is FRAME and images[1] is OTHER_FRAME and len(images) == 2
    assert without_images == [
        {"role": "user", "content": [IMAGE, text("where ?")]},
        {"role": "assistant", "content": [text("left")]},
        {"role": "user", "content": [text("and now ?"), IMAGE]},
    ]
    assert messages[0]["content"][0]["image"] is FRAME  # the argument is not changed


def test_video_has_two_frames_a_second_unless_it_says_so() -> None:
    parts = [{"type": "video", "frames": 4}, IMAGE, {"type": "video", "frames": 2, "fps": 10}]
    [checked] = check_messages([{"role": "user", "content": parts}])
    assert checked["content"] == [VIDEO, IMAGE, {"type": "video", "frames": 2, "fps": 10.0}]
    assert count_images([checked]) == 7


def test_split_images_separates_the_frames_of_videos_from_messages() -> None:
    parts = [{"type": "video", "video": CLIP, "fps": 5}, text("and now ?"), image_part(FRAME)]
    without_images, images = split_images([{"role": "user", "content": parts}])
    assert without_images == [
        {"role": "user", "content": [{"type": "video", "frames": 3, "fps": 5.0}, text("and now ?"), IMAGE]}
    ]
    assert np.array_equal(images[:3], CLIP) and images[3] is FRAME and len(images) == 4


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (VIDEO, r"m\[0\].content\[0\]: the key 'video' is missing"),
        ({"type": "video", "video": FRAME}, r"expected an array uint8 \[F, H, W, 3\].*got an array uint8 \[4, 6, 3\]"),
        ({"type": "video", "video": [FRAME]}, "got a list; `numpy.stack`"),
        (IMAGE, r"m\[0\].content\[0\]: the image part has no image; add the key 'image'"),
        ({**IMAGE, "image": "a.png"}, r"content\[0\].image: expected an array uint8 \[H, W, 3\], RGB, got a str"),
        ({**IMAGE, "image": FRAME / 255}, r"got an array float64 \[4, 6, 3\]"),
        ({**IMAGE, "image": FRAME[None]}, r"got an array uint8 \[1, 4, 6, 3\]"),
        ({**IMAGE, "image": FRAME[..., :1]}, r"got an array uint8 \[4, 6, 1\]"),
        ({**IMAGE, "image": FRAME[:0]}, r"got an array uint8 \[0, 6, 3\]"),
        ({**IMAGE, "image": FRAME, "url": "a.png"}, "unknown key 'url'.*Allowed keys: type, image"),
    ],
)
def test_split_images_refuses_invalid_images(part, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_images([{"role": "user", "content": [part]}], "m")


def test_import_does_not_import_torch() -> None:
    script = "import sys, pr2l.core.messages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0

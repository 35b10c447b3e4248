"""Several cameras in a frame: composition, and the images that a prompt takes."""

import numpy as np
import pytest

from pr2l.core.cameras import camera_width, side_by_side
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt

CAMERAS = ("front", "wrist")


def prompt(*parts, cameras=CAMERAS):
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]
    return Prompt(name="test", messages=messages, cameras=cameras, why="", source="")


def image(camera, **more):
    return {"type": "image", "camera": camera, **more}


def frames(rows, history):
    """Return frames uint8 [rows, history, 2, 4, 3]; front has the value 10 * time + row, wrist that plus 100."""
    values = np.add.outer(np.arange(rows), 10 * np.arange(history)).astype(np.uint8)
    front = np.broadcast_to(values[..., None, None, None], (rows, history, 2, 2, 3))
    return side_by_side([front, front + 100])


def values(images):
    assert images.shape[-3:] == (2, 2, 3) and (images == images[..., :1, :1, :1]).all()
    return images[..., 0, 0, 0].tolist()


def test_each_image_of_a_prompt_is_one_camera():
    loaded = prompt(image("wrist"), image("front"))
    assert loaded.images == 1
    assert values(loaded.images_in(frames(2, 1)[:, 0])) == [[100, 0], [101, 1]]
    assert values(prompt(image("wrist")).images_in(frames(2, 1)[:, 0])) == [100, 101]


def test_each_camera_has_its_own_last_frames():
    loaded = prompt(image("front", frames=3), image("wrist"), {"type": "video", "camera": "wrist", "frames": 2})
    assert loaded.images == 3
    assert loaded.views == ("front", "front", "front", "wrist", "wrist")
    assert values(loaded.images_in(frames(1, 3))) == [[0, 10, 20, 100, 110, 120]]


def test_without_cameras_frames_are_the_images():
    plain = prompt({"type": "image", "frames": 2}, cameras=())
    batch = frames(2, 2)
    assert plain.images_in(batch) is batch and plain.images == 2
    assert plain.key() == {"prompt": plain.template}  # as before cameras existed, so that stored embeddings are found


def test_cameras_are_part_of_the_key():
    keys = [prompt(image(first), image(second)).key() for first, second in (CAMERAS, CAMERAS[::-1], ("front", "front"))]
    assert keys[0] != keys[1] != keys[2] != keys[0]
    assert "camera" not in str(keys[0]["prompt"])  # the VLM gets plain messages


@pytest.mark.parametrize(
    ("parts", "cameras", "message"),
    [
        ([image("wirst")], CAMERAS, "camera 'wirst'. Did you mean 'wrist'.*one of the prompt's cameras: front, wrist"),
        ([{"type": "image"}], CAMERAS, "has the camera None.*one of the prompt's cameras"),
        ([image("front")], (), "unknown key 'camera'"),
    ],
)
def test_wrong_cameras_are_refused(parts, cameras, message):
    with pytest.raises(UserError, match=message):
        prompt(*parts, cameras=cameras)


def test_prompt_with_cameras_needs_messages():
    with pytest.raises(UserError, match="needs `messages:`"):
        Prompt(name="test", text="where ?", cameras=CAMERAS, why="", source="")


def test_width_of_a_frame_is_a_multiple_of_the_cameras():
    assert camera_width(8, CAMERAS) == 4 and camera_width(7, ()) == 7
    with pytest.raises(UserError, match="cameras front, wrist, but frames are 7 pixels wide"):
        camera_width(7, CAMERAS)

"""The last frames of an episode, recorded or running."""

import numpy as np
import pytest

from pr2l.core.frame_history import FrameHistory, last_frames

FRAMES = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)  # frame n has value n


def values(frames):
    return frames[..., 0, 0, 0].tolist()


def test_first_frame_replaces_the_frames_before_an_episode():
    assert values(last_frames(FRAMES, [3, 0, 1], 3)) == [[1, 2, 3], [0, 0, 0], [0, 0, 1]]


def test_one_frame_has_no_axis_for_the_history():
    assert values(last_frames(FRAMES, [3, 0], 1)) == [3, 0]
    assert FrameHistory(1).add(FRAMES[2]).shape == (2, 2, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_running_episode_has_the_frames_of_a_recorded_one(count):
    history = FrameHistory(count)
    history.add(FRAMES[3])
    history.clear()  # the frame of another episode is gone
    running = [history.add(frame) for frame in FRAMES]
    assert np.array_equal(running, last_frames(FRAMES, range(4), count))


def test_history_has_its_own_copies_of_reused_arrays():
    history, frame = FrameHistory(2), FRAMES[0].copy()
    history.add(frame)
    frame[:] = 7
    assert values(history.add(frame)) == [0, 7]

"""Data sets that open: those of earlier versions, and those of other programs; and those that do not, in words."""

import json
from pathlib import Path

import minari
import numpy as np
import pytest
from data_sets import DISCRETE, FRAME, OBSERVATION, write
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from pr2l.core.errors import UserError
from pr2l.data.recording import Recording
from pr2l.training.collect import collect


def elsewhere(folder, observation_space, frames, *, jpeg=False, ends=(True, False), context=None):
    """A data set of one episode that another program recorded: no contexts, no success, nothing but Minari's own."""
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", observation_space, DISCRETE, jpeg_encoding=jpeg)
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__})
    steps = len(frames) - 1
    episode = EpisodeBuffer(
        observations=frames if isinstance(observation_space, spaces.Box) else {"frame": frames},
        actions=list(range(steps)),
        rewards=[1.0] * steps,
        terminations=[False] * (steps - 1) + [ends[0]],
        truncations=[False] * (steps - 1) + [ends[1]],
    )
    storage.update_episodes([episode])
    return folder


def test_a_data_set_of_an_earlier_version_opens(tmp_path):
    """Environment and task were in its description alone; contexts were those of the episodes' starts."""
    episodes = [{"rewards": [1.0, 2.0], "terminated": True, "choices": [3, 4]}, {"rewards": [3.0], "terminated": False}]
    about = {"description": "oracle plays toy/colours, train episodes from seed 0", "noise": 0.1}
    recording = Recording(write(tmp_path / "old", episodes, **about))
    assert (recording.environment, recording.task) == ("toy", "colours")
    assert recording.episodes == 2 and len(recording) == 5 and recording.frame_shape == (1, 2, 3)
    first, second = recording.episode(0), recording.episode(1)
    assert first.actions.tolist() == [0, 1] and first.expert_actions.tolist() == [3, 4]
    assert first.terminated.tolist() == [False, True] and second.truncated.tolist() == [True]
    assert second.expert_actions is None and first.contexts == [{"target": "armor"}] * 3
    assert recording.key.keys() == {"name", "episodes", "frames", "sha256"}  # those that stores were made under


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("jpeg", [True, False])
def test_a_data_set_of_another_program_opens(tmp_path, bare, jpeg):
    """Frames alone or in a dict, lossless or as JPEG; an episode that just stops was cut off."""
    space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    frames = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None, None] * 60, (4, 16, 16, 3))
    observation_space = space if bare else spaces.Dict(frame=space)
    folder = elsewhere(tmp_path / "other", observation_space, frames, jpeg=jpeg, ends=(False, False))
    recording = Recording(folder)
    assert recording.observation_space == spaces.Dict(frame=space)
    ((read, contexts),) = recording.batches(0, 9)
    assert contexts == [{}] * 4 and np.abs(read.astype(int) - frames).max() <= 2 * jpeg
    episode = recording.episode(0)
    assert episode.proprio is None and episode.truncated.tolist() == [False, False, True]
    assert not episode.terminated.any() and recording.environment is None


FLOATS = spaces.Box(0, 1, (2, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("space", "frames", "message"),
    [
        (FLOATS, np.zeros((3, 2, 2, 3), np.float32), r"float32 \[2, 2, 3\]; .*uint8.*\* 255\).round"),
        (spaces.Dict(frame=FLOATS), np.zeros((3, 2, 2, 3), np.float32), r"float32 .*\* 255\).round"),
        (FRAME, np.zeros((3, 1, 2, 3), np.float64), r"frames of episode 0 .* are float64 \[3, 1, 2, 3\]"),
        (spaces.Box(0, 255, (2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8), r"uint8 \[2, 2\]; .*\[H, W, 3\]"),
        (spaces.Box(0, 255, (2, 2, 4), np.uint8), np.zeros((3, 2, 2, 4), np.uint8), r"\[2, 2, 4\]"),
        (spaces.Box(-1, 1, (4,)), np.zeros((3, 4), np.float32), r"\[H, W, 3\]"),
    ],
)
def test_frames_that_are_no_pictures_are_refused(tmp_path, space, frames, message):
    with pytest.raises(UserError, match=message):
        Recording(elsewhere(tmp_path / "a", space, frames))


def test_what_else_is_no_recording_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder `data`; `pr2l collect` makes one"):
        Recording(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="no data set that Minari can read"):
        Recording(tmp_path)
    with pytest.raises(UserError, match="must be frames, .* or a Dict whose 'frame' is one"):
        Recording(write(tmp_path / "a", [], observation_space=spaces.Dict(image=FRAME)))
    with pytest.raises(UserError, match="has no complete episode"):
        Recording(write(tmp_path / "b", []))


def test_actions_that_an_earlier_version_rounded_are_refused(tmp_path):
    write(tmp_path / "a", [{"rewards": [0.0], "terminated": True}], action_space=DISCRETE)
    metadata = tmp_path / "a" / "data" / "metadata.json"
    box = minari.serialization.serialize_space(spaces.Box(-1, 1, (), np.float32))
    text = metadata.read_text().replace(*(json_text(space) for space in (DISCRETE, box)))
    metadata.write_text(text)
    with pytest.raises(UserError, match="stored as int64.*rounded the actions of Box spaces"):
        Recording(tmp_path / "a").episode(0)


def json_text(space):
    return json.dumps(space if isinstance(space, str) else minari.serialization.serialize_space(space))


def test_infos_that_were_kept_come_back(write_plugin, tmp_path):
    write_plugin("environments", "toy", (Path(__file__).parents[1] / "toy_world.py").read_text())
    collect("toy", "colours", tmp_path / "a", episodes=2, infos=("measures", "success"))
    recording = Recording(tmp_path / "a")
    assert (recording.environment, recording.task) == ("toy", "colours")
    steps = len(recording.episode(1).rewards)
    assert recording.infos(1, "measures") == [{"seconds": step / 2} for step in range(steps + 1)]
    assert recording.infos(1, "success").dtype == bool and len(recording.infos(1, "success")) == steps + 1
    with pytest.raises(UserError, match="no infos\\['labels'\\]; it has: measures, success"):
        recording.infos(1, "labels")


def test_the_spaces_are_those_of_the_environment(tmp_path):
    recording = Recording(write(tmp_path / "a", [{"rewards": [0.0], "terminated": True}]))
    assert recording.observation_space == OBSERVATION and recording.action_space == DISCRETE

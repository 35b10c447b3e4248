"""Reading of data sets of this version, earlier versions and other programs, and errors for invalid ones."""

import json

import h5py
import minari
import numpy as np
import pytest
from data_sets import DISCRETE, FRAME, OBSERVATION, write
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from toy_runs import TOY_WORLD

from pr2l.core.errors import UserError
from pr2l.data.recording import Recording
from pr2l.training.collect import collect


def write_minari(folder, observation_space, frames, *, jpeg=False, ends=(True, False), context=None):
    """Write a data set of one episode with the metadata of Minari only: no contexts, no success."""
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


def test_data_set_of_an_earlier_version(tmp_path):
    """Environment and task were in the description only, and an episode had one context."""
    episodes = [{"rewards": [1.0, 2.0], "terminated": True, "choices": [3, 4]}, {"rewards": [3.0], "terminated": False}]
    metadata = {"description": "oracle plays toy/colours, train episodes from seed 0", "noise": 0.1}
    recording = Recording(write(tmp_path / "old", episodes, **metadata))
    assert (recording.environment, recording.task) == ("toy", "colours")
    assert recording.episodes == 2 and len(recording) == 5 and recording.frame_shape == (1, 2, 3)
    first, second = recording.episode(0), recording.episode(1)
    assert first.actions.tolist() == [0, 1] and first.expert_actions.tolist() == [3, 4]
    assert first.terminated.tolist() == [False, True] and second.truncated.tolist() == [True]
    assert second.expert_actions is None and first.contexts == [{"target": "armor"}] * 3
    assert recording.key.keys() == {"name", "episodes", "frames", "sha256"}  # the key of existing stores


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("jpeg", [True, False])
def test_data_set_of_another_program(tmp_path, bare, jpeg):
    """An episode that is neither terminated nor truncated counts as truncated."""
    space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    frames = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None, None] * 60, (4, 16, 16, 3))
    observation_space = space if bare else spaces.Dict(frame=space)
    folder = write_minari(tmp_path / "other", observation_space, frames, jpeg=jpeg, ends=(False, False))
    recording = Recording(folder)
    assert recording.observation_space == spaces.Dict(frame=space)
    ((batch, contexts),) = recording.batches(0, 9)
    assert contexts == [{}] * 4 and np.abs(batch.astype(int) - frames).max() <= 2 * jpeg
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
def test_observations_that_are_not_images_raise(tmp_path, space, frames, message):
    with pytest.raises(UserError, match=message):
        Recording(write_minari(tmp_path / "a", space, frames))


def test_folders_that_are_not_data_sets_raise(tmp_path):
    with pytest.raises(UserError, match="no folder `data`"):
        Recording(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="not a data set"):
        Recording(tmp_path)
    with pytest.raises(UserError, match="a Dict whose 'frame'"):
        Recording(write(tmp_path / "a", [], observation_space=spaces.Dict(image=FRAME)))
    with pytest.raises(UserError, match="no complete episode"):
        Recording(write(tmp_path / "b", []))


def test_rounded_actions_of_an_earlier_version_raise(tmp_path):
    write(tmp_path / "a", [{"rewards": [0.0], "terminated": True}], action_space=DISCRETE)
    metadata = tmp_path / "a" / "data" / "metadata.json"
    box = minari.serialization.serialize_space(spaces.Box(-1, 1, (), np.float32))
    text = metadata.read_text().replace(*(json_text(space) for space in (DISCRETE, box)))
    metadata.write_text(text)
    with pytest.raises(UserError, match="stored as int64.*rounded the actions of Box spaces"):
        Recording(tmp_path / "a").episode(0)


def json_text(space):
    return json.dumps(space if isinstance(space, str) else minari.serialization.serialize_space(space))


def test_infos_are_read(write_plugin, tmp_path):
    write_plugin("environments", "toy", TOY_WORLD)
    collect("toy", "colours", tmp_path / "a", episodes=2, infos=("measures", "success"))
    recording = Recording(tmp_path / "a")
    assert (recording.environment, recording.task) == ("toy", "colours")
    steps = len(recording.episode(1).rewards)
    assert recording.infos(1, "measures") == [{"seconds": step / 2} for step in range(steps + 1)]
    assert recording.infos(1, "success").dtype == bool and len(recording.infos(1, "success")) == steps + 1
    with pytest.raises(UserError, match="'labels'.*measures, success"):
        recording.infos(1, "labels")


def test_spaces_of_the_environment(tmp_path):
    recording = Recording(write(tmp_path / "a", [{"rewards": [0.0], "terminated": True}]))
    assert recording.observation_space == OBSERVATION and recording.action_space == DISCRETE


ONE_EPISODE = [{"rewards": [0.0, 1.0], "terminated": True}]


@pytest.mark.parametrize("size", [0, 100, 5_000, -100])
def test_truncated_file_of_another_program_is_refused(tmp_path, size):
    """It has no digests, as collect.json has them."""
    folder = write(tmp_path / "a", ONE_EPISODE)
    file = folder / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match="a is not a data set that Minari can read: .*Record it again"):
        Recording(folder)


@pytest.mark.parametrize(
    "name", ["", "/observations", "/observations/frame", "/observations/proprio", "/actions", "/rewards"]
)
def test_missing_array_of_another_program_is_refused(tmp_path, name):
    folder = write(tmp_path / "a", ONE_EPISODE)
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        del file[f"episode_0{name}"]
    with pytest.raises(UserError, match="a is not a data set that Minari can read: KeyError"):
        Recording(folder).episode(0)


@pytest.mark.parametrize(("name", "value"), [("context", "red"), ("total_steps", "many")])
def test_wrong_attribute_of_another_program_is_refused(tmp_path, name, value):
    folder = write(tmp_path / "a", [{**ONE_EPISODE[0], "contexts": [{"colour": "red"}]}])
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        file["episode_0"].attrs[name] = value
    with pytest.raises(UserError, match="a is not a data set that Minari can read"):
        Recording(folder)

"""Labelled examples from simulator labels, tables of pictures, recordings and played episodes."""

import json

import numpy as np
import pytest
from PIL import Image

from pr2l.core.errors import UserError
from pr2l.data.labelled_frames import Source
from pr2l.data.manifest import LABELS
from pr2l.prompting.examples import GROUP, from_recording, from_table, of_labels, play
from pr2l.training.collect import collect

IMP = {"name": "imp", "box": (0, 40, 20, 80), "distance": 0.6}
FAR_IMP = {"name": "imp", "box": (140, 40, 160, 80), "distance": 2.5}
SPECK = {"name": "demon", "box": (0, 0, 2, 2), "distance": 5.6}
WALKS = """
import gymnasium as gym
import numpy as np
from pydantic import BaseModel


class Defaults(BaseModel):
    pass


class Task:
    contexts = ({"target": "imp"}, {})


class TaskWithoutTarget:
    contexts = ({},)


TASKS = {"walk": Task(), "other": TaskWithoutTarget()}


def kinds(task):
    return ("imp",)


def make(task, options, *, split, labels):
    return Walks()


def oracle(task):
    raise ValueError("nobody has scripted this task")


class Walks(gym.Env):
    '''Episode n lasts 2n + 1 steps; its frames have the value n, and every second frame shows an imp.'''

    action_space, episode = gym.spaces.Discrete(2), -1
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (120, 160, 3), np.uint8))

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return self.look(), self.info()

    def step(self, action):
        self.time += 1
        return self.look(), 0.0, self.time > 2 * self.episode, False, self.info()

    def look(self):
        return {"frame": np.full((120, 160, 3), self.episode, np.uint8)}

    def info(self):
        imp = {"name": "imp", "box": (0, 40, 20, 80), "distance": 0.6}
        return {"context": {}, "success": False, "labels": [imp] * (self.time % 2)}
"""
CONTEXTS = tuple({"target": name} for name in ("imp", "demon", "marine"))


def labelled(labels, seed=0):
    frames = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 120, 160, 3), np.uint8)
    return of_labels(frames, labels, np.arange(len(labels)) // 4, CONTEXTS, seed)


def test_labels_are_those_of_the_nearest_target():
    result = labelled([[FAR_IMP, IMP]] * 40)
    present = result.present
    assert set(result.direction[present]) == {"far left"} and set(result.distance[present]) == {"near"}
    assert {context["target"] for context, shown in zip(result.contexts, present, strict=True) if shown} == {"imp"}
    assert set(result.direction[~present]) == {""}
    assert 10 <= present.sum() <= 30


def test_targets_that_are_too_small_in_the_frame_are_not_named():
    result = labelled([[IMP, SPECK]] * 20)
    assert {context["target"] for context in result.contexts} == {"imp", "marine"}


def test_present_and_absent_targets_are_balanced():
    result = labelled([[IMP], [], [], []] * 10)
    assert abs(2 * result.present.sum() - len(result)) <= 2
    assert len(result) < 40


def test_each_target_is_present_in_half_of_the_frames_that_name_it():
    """Each of two targets is in every second frame."""
    demon = {**IMP, "name": "demon"}
    result = labelled([[IMP], [demon]] * 100)
    for name in ("imp", "demon"):
        rows = [context["target"] == name for context in result.contexts]
        assert result.present[rows].mean() == pytest.approx(0.5, abs=0.1)


def test_examples_depend_on_the_seed_and_keep_the_groups_of_their_frames():
    labels = [[IMP], [], [FAR_IMP], [IMP, FAR_IMP]] * 10
    first, same_seed, other_seed = labelled(labels), labelled(labels), labelled(labels, seed=1)
    assert first.contexts == same_seed.contexts and first.contexts != other_seed.contexts
    assert (first.groups == first.frames[:, 0, 0, 0] // 4).all()


def test_examples_with_histories_are_those_without():
    """A prompt of fewer images takes the last frames of the history."""
    labels = [[IMP], [], [FAR_IMP], [IMP, FAR_IMP]] * 10
    numbers = np.arange(len(labels), dtype=np.uint8)[:, None] + np.array([0, 100, 200], np.uint8)
    frames = numbers[..., None, None, None] * np.ones((120, 160, 3), np.uint8)
    groups = np.arange(len(labels)) // 4
    after, alone = (of_labels(part, labels, groups, CONTEXTS, 0) for part in (frames, frames[:, -1]))
    assert after.frame_history == 3 and alone.frame_history == 1
    assert after.contexts == alone.contexts and (after.direction == alone.direction).all()
    assert np.array_equal(after.last_frames(1), alone.frames)
    assert np.array_equal(after.last_frames(2), after.frames[:, 1:]) and after.last_frames(3).shape[1] == 3
    assert after.spread(5).frame_history == 3
    with pytest.raises(UserError, match="last 4 frames.*examples have 3.*frame_history=4"):
        after.last_frames(4)


def test_spread_takes_evenly_spaced_examples():
    result = labelled([[IMP]] * 41)
    few = result.spread(3)
    rows = [0, round((len(result) - 1) / 2), len(result) - 1]
    assert few.frames[:, 0, 0, 0].tolist() == result.frames[rows, 0, 0, 0].tolist()
    assert few.contexts == [result.contexts[row] for row in rows]
    assert len(result.spread(1000)) == len(result)


@pytest.mark.parametrize("field", ["frames", "contexts", "present", "direction", "distance", "groups"])
def test_digest_depends_on_every_field(field):
    first, second = labelled([[IMP], []] * 10), labelled([[IMP], []] * 10)
    assert first.digest == second.digest
    changed = labelled([[IMP], []] * 10)
    getattr(changed, field)[-1] = {"target": "door"} if field == "contexts" else getattr(changed, field)[-1] == 0
    assert first.digest != changed.digest


def test_labels_leave_out_frames_without_a_direction():
    result = labelled([[IMP], []] * 20)
    values, rows = result.labels()["direction"]
    assert set(values) == {"far left"} and (rows == np.flatnonzero(result.present)).all()


def write_table(folder, text, sizes=((8, 6), (8, 6))):
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "labels.csv").write_text(text, encoding="utf-8")


def test_table_of_pictures(tmp_path):
    header = "file,target,present,direction,distance,group\n"
    write_table(tmp_path, header + "0.png,spider,yes,far left,near,walk\n1.png,spider,no,,,walk\n")
    result = from_table(tmp_path)
    assert result.frames.shape == (2, 6, 8, 3) and result.frames[:, 0, 0, 0].tolist() == [0, 1]
    assert result.contexts == [{"target": "spider"}] * 2
    assert result.present.tolist() == [True, False]
    assert result.direction.tolist() == ["far left", ""] and result.distance.tolist() == ["near", ""]
    assert len(set(result.groups)) == 1


def test_table_needs_only_the_column_present(tmp_path):
    write_table(tmp_path, "file,present\n0.png,yes\n1.png,no\n")
    result = from_table(tmp_path)
    assert result.contexts == [{}, {}] and len(set(result.groups)) == 2
    assert len(result.labels()["direction"][1]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,present\n0.png,yes\n", "needs the columns `file` and `present`"),
        ("file,present\n", "needs the columns"),
        ("file,present\n0.png,yess\n", "line 2: present is 'yess'; allowed: yes, no. Did you mean 'yes'?"),
        ("file,present\n0.png,\n", "line 2: `present` is empty"),
        ("file,present,direction\n0.png,yes,lefft\n", "Did you mean 'left'?"),
        ("file,present\n9.png,yes\n", "9.png (named in labels.csv)"),
    ],
)
def test_invalid_table_raises_with_the_line_and_value(tmp_path, text, message):
    write_table(tmp_path, text)
    with pytest.raises(UserError) as error:
        from_table(tmp_path)
    assert message in str(error.value)


def test_table_saved_by_a_spreadsheet(tmp_path):
    """Excel's "CSV UTF-8" begins with a byte order mark, its CSV may be Latin-1, and empty cells may be missing."""
    write_table(tmp_path, "\ufefffile,present,target\r\n0.png,yes,caf\u00e9\r\n1.png,no\r\n")
    result = from_table(tmp_path)
    assert result.contexts == [{"target": "caf\u00e9"}, {"target": ""}]
    (tmp_path / "labels.csv").write_text("file,target,present\n0.png,caf\u00e9,yes\n", encoding="latin-1")
    with pytest.raises(UserError, match="labels.csv is not in UTF-8"):
        from_table(tmp_path)
    write_table(tmp_path, "present,file\nyes,0.png\nno\n")
    with pytest.raises(UserError, match=r"\(named in labels.csv\) cannot be read as an image"):
        from_table(tmp_path)


def test_pictures_of_different_sizes_raise(tmp_path):
    write_table(tmp_path, "file,present\n0.png,yes\n1.png,no\n", sizes=((8, 6), (6, 8)))
    with pytest.raises(UserError, match=r"1\.png is 6x8 and .*0\.png is 8x6"):
        from_table(tmp_path)


def test_recording_with_and_without_labels(examples, tmp_path):
    """Every frame shows doors of two of three colours, so the labels can be compared with the pixels."""
    doors = [{"target": colour} for colour in ("red", "green", "blue")]
    collect("doors", "choose", tmp_path / "with", episodes=30, labels=True)
    result = from_recording(tmp_path / "with", doors, 40, seed=0)
    lines = [json.loads(line) for line in (tmp_path / "with" / LABELS).read_text().splitlines()]
    assert len(lines) == 30 and all(len(line) == 2 for line in lines)
    assert len(result) > 20 and len(set(result.groups)) > 10
    colours = {"red": 0, "green": 1, "blue": 2}
    for frame, context, present in zip(result.frames, result.contexts, result.present, strict=True):
        assert (frame[..., colours[context["target"]]].max() == 255) == present
    after = from_recording(tmp_path / "with", doors, 40, seed=0, frame_history=2)
    assert np.array_equal(after.last_frames(1), result.frames) and after.contexts == result.contexts
    assert after.frame_history == 2
    (tmp_path / "with" / "collect.json").unlink()
    with (tmp_path / "with" / LABELS).open("a") as file:
        file.write('[[{"na')  # as after a kill in an earlier version
    assert from_recording(tmp_path / "with", doors, 40, seed=0).digest == result.digest
    collect("doors", "choose", tmp_path / "without", episodes=1)
    with pytest.raises(UserError, match="--labels"):
        from_recording(tmp_path / "without", CONTEXTS, 10, seed=0)


def play_walks(folder, frames, task="walk"):
    return play(Source(environment="walks", tasks=(task,), frames=frames), folder)


def test_group_of_played_frames_is_an_episode(write_plugin, tmp_path):
    """400 frames include at most GROUP of a longer episode; 30 frames are from ten or more episodes."""
    write_plugin("environments", "walks", WALKS)
    result = play_walks(tmp_path, 400)
    assert (result.groups == result.frames[:, 0, 0, 0]).all()
    assert 10 < np.bincount(result.groups).max() <= GROUP
    assert np.bincount(play_walks(tmp_path, 30).groups).max() <= 3
    assert (play_walks(tmp_path, 400).groups == result.groups).all(), "the stored frames"


def test_task_without_a_target_raises(write_plugin, tmp_path):
    write_plugin("environments", "walks", WALKS)
    with pytest.raises(UserError, match="names a target.*data=FOLDER"):
        play_walks(tmp_path / "sets", 20, "other")
    assert not (tmp_path / "sets").exists(), "no frames are played"

"""Examples from labels, tables and recordings whose truth is known on paper."""

import json

import numpy as np
import pytest
from PIL import Image

from pr2l.core.errors import UserError
from pr2l.data.labelled_frames import Source
from pr2l.prompting.examples import GROUP, from_recording, from_table, of_labels, play
from pr2l.training.collect import LABELS, collect

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


class Nameless:
    contexts = ({},)


TASKS = {"walk": Task(), "other": Nameless()}


def kinds(task):
    return ("imp",)


def make(task, options, *, split, labels):
    return Walks()


def oracle(task):
    raise ValueError("nobody has scripted this task")


class Walks(gym.Env):
    '''Episode n lasts 2n + 1 steps, its frames hold n, and every second one shows an imp.'''

    action_space, episode = gym.spaces.Discrete(2), -1

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


def test_the_truth_about_the_nearest_of_what_is_named():
    known = labelled([[FAR_IMP, IMP]] * 40)
    there = known.present
    assert set(known.direction[there]) == {"far left"} and set(known.distance[there]) == {"near"}
    assert {context["target"] for context, yes in zip(known.contexts, there, strict=True) if yes} == {"imp"}
    assert set(known.direction[~there]) == {""}
    assert 10 <= there.sum() <= 30


def test_what_is_too_small_to_tell_is_not_named():
    known = labelled([[IMP, SPECK]] * 20)
    assert {context["target"] for context in known.contexts} == {"imp", "marine"}


def test_frames_without_anything_are_as_many_as_those_with():
    known = labelled([[IMP], [], [], []] * 10)
    assert abs(2 * known.present.sum() - len(known)) <= 2
    assert len(known) < 40


def test_a_name_alone_tells_nothing():
    """Each of two names is there in every second frame, and named as often where it is not."""
    demon = {**IMP, "name": "demon"}
    known = labelled([[IMP], [demon]] * 100)
    for name in ("imp", "demon"):
        rows = [context["target"] == name for context in known.contexts]
        assert known.present[rows].mean() == pytest.approx(0.5, abs=0.1)


def test_the_same_seed_gives_the_same_examples_and_groups_stay_with_their_frames():
    labels = [[IMP], [], [FAR_IMP], [IMP, FAR_IMP]] * 10
    one, same, other = labelled(labels), labelled(labels), labelled(labels, seed=1)
    assert one.contexts == same.contexts and one.contexts != other.contexts
    assert (one.groups == one.frames[:, 0, 0, 0] // 4).all()


def test_spread_takes_the_ends_and_what_lies_between():
    known = labelled([[IMP]] * 41)
    few = known.spread(3)
    rows = [0, round((len(known) - 1) / 2), len(known) - 1]
    assert few.frames[:, 0, 0, 0].tolist() == known.frames[rows, 0, 0, 0].tolist()
    assert few.contexts == [known.contexts[row] for row in rows]
    assert len(known.spread(1000)) == len(known)


@pytest.mark.parametrize("part", ["frames", "contexts", "present", "direction", "distance", "groups"])
def test_another_word_about_one_frame_is_another_digest(part):
    one, other = labelled([[IMP], []] * 10), labelled([[IMP], []] * 10)
    assert one.digest == other.digest
    other = labelled([[IMP], []] * 10)
    getattr(other, part)[-1] = {"target": "door"} if part == "contexts" else getattr(other, part)[-1] == 0
    assert one.digest != other.digest


def test_truths_leave_out_what_is_not_known():
    known = labelled([[IMP], []] * 20)
    values, rows = known.labels()["direction"]
    assert set(values) == {"far left"} and (rows == np.flatnonzero(known.present)).all()


def write_table(folder, text, sizes=((8, 6), (8, 6))):
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "labels.csv").write_text(text, encoding="utf-8")


def test_a_table_of_pictures(tmp_path):
    header = "file,target,present,direction,distance,group\n"
    write_table(tmp_path, header + "0.png,spider,yes,far left,near,walk\n1.png,spider,no,,,walk\n")
    known = from_table(tmp_path)
    assert known.frames.shape == (2, 6, 8, 3) and known.frames[:, 0, 0, 0].tolist() == [0, 1]
    assert known.contexts == [{"target": "spider"}] * 2
    assert known.present.tolist() == [True, False]
    assert known.direction.tolist() == ["far left", ""] and known.distance.tolist() == ["near", ""]
    assert len(set(known.groups)) == 1


def test_a_table_may_say_no_more_than_presence(tmp_path):
    write_table(tmp_path, "file,present\n0.png,yes\n1.png,no\n")
    known = from_table(tmp_path)
    assert known.contexts == [{}, {}] and len(set(known.groups)) == 2
    assert len(known.labels()["direction"][1]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,present\n0.png,yes\n", "needs the columns `file` and `present`"),
        ("file,present\n", "needs the columns"),
        ("file,present\n0.png,yess\n", "line 2: present is 'yess'; allowed: yes, no. Did you mean 'yes'?"),
        ("file,present\n0.png,\n", "line 2: `present` is empty"),
        ("file,present,direction\n0.png,yes,lefft\n", "Did you mean 'left'?"),
        ("file,present\n9.png,yes\n", "9.png, named in labels.csv, cannot be read"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path, text, message):
    write_table(tmp_path, text)
    with pytest.raises(UserError) as error:
        from_table(tmp_path)
    assert message in str(error.value)


def test_a_table_from_a_spreadsheet(tmp_path):
    """Excel's "CSV UTF-8" begins with a mark; its plain CSV is in another encoding; a line may end too soon."""
    write_table(tmp_path, "\ufefffile,present,target\r\n0.png,yes,caf\u00e9\r\n1.png,no\r\n")
    known = from_table(tmp_path)
    assert known.contexts == [{"target": "caf\u00e9"}, {"target": ""}]
    (tmp_path / "labels.csv").write_text("file,target,present\n0.png,caf\u00e9,yes\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"labels.csv is not in UTF-8; save it again as CSV UTF-8"):
        from_table(tmp_path)
    write_table(tmp_path, "present,file\nyes,0.png\nno\n")
    with pytest.raises(UserError, match=r"named in labels.csv, cannot be read as a picture"):
        from_table(tmp_path)


def test_pictures_of_two_sizes_are_refused(tmp_path):
    write_table(tmp_path, "file,present\n0.png,yes\n1.png,no\n", sizes=((8, 6), (6, 8)))
    with pytest.raises(UserError, match=r"1\.png is 6x8 and .*0\.png is 8x6"):
        from_table(tmp_path)


def test_a_recording_with_labels_and_one_without(examples, tmp_path):
    """Every doors frame shows two of three colours; the recording's labels belong to its frames."""
    doors = [{"target": colour} for colour in ("red", "green", "blue")]
    collect("doors", "choose", tmp_path / "with", episodes=30, labels=True)
    known = from_recording(tmp_path / "with", doors, 40, seed=0)
    lines = [json.loads(line) for line in (tmp_path / "with" / LABELS).read_text().splitlines()]
    assert len(lines) == 30 and all(len(line) == 2 for line in lines)
    assert len(known) > 20 and len(set(known.groups)) > 10
    colours = {"red": 0, "green": 1, "blue": 2}
    for frame, context, there in zip(known.frames, known.contexts, known.present, strict=True):
        assert (frame[..., colours[context["target"]]].max() == 255) == there
    with (tmp_path / "with" / LABELS).open("a") as file:
        file.write('[[{"na')  # as a kill leaves it
    assert from_recording(tmp_path / "with", doors, 40, seed=0).digest == known.digest
    collect("doors", "choose", tmp_path / "without", episodes=1)
    with pytest.raises(UserError, match="collect it again with --labels"):
        from_recording(tmp_path / "without", CONTEXTS, 10, seed=0)


def played(folder, frames, task="walk"):
    return play(Source(environment="walks", tasks=(task,), frames=frames), folder)


def test_a_group_of_played_frames_is_an_episode(write_plugin, tmp_path):
    """The last of 400 frames are of episodes that could give 40 and more; 30 frames are of ten episodes or more."""
    write_plugin("environments", "walks", WALKS)
    known = played(tmp_path, 400)
    assert (known.groups == known.frames[:, 0, 0, 0]).all()
    assert 10 < np.bincount(known.groups).max() <= GROUP
    assert np.bincount(played(tmp_path, 30).groups).max() <= 3
    assert (played(tmp_path, 400).groups == known.groups).all(), "as found again"


def test_a_task_that_names_no_target_is_refused(write_plugin, tmp_path):
    write_plugin("environments", "walks", WALKS)
    with pytest.raises(UserError, match="names a target; give pictures with a table, data=FOLDER"):
        played(tmp_path / "sets", 20, "other")
    assert not (tmp_path / "sets").exists(), "nothing is played in vain"

"""Demonstrations are read exactly, whatever the file looks like, and recorded by `pr2l collect --from`."""

import gzip
import json
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pr2l.core.errors import UserError
from pr2l.environments.habitat import dataset as houses_dataset
from pr2l.environments.habitat import environment as habitat
from pr2l.environments.habitat import replay
from pr2l.environments.habitat.replay import ACTIONS, Replay, read_replays
from pr2l.training.collect import collect

EPISODE = {
    "episode_id": "7",
    "scene_id": "hm3d/train/00800-TEEsavR23oF/TEEsavR23oF.basis.glb",
    "start_position": [-0.25, 0.163, 4],
    "start_rotation": [0, 0.5, 0, -0.75],
    "object_category": "tv_monitor",
    "reference_replay": [
        {"action": "STOP", "agent_state": {"position": [-0.25, 0.163, 4], "sensor_data": {}}},
        {"action": "TURN_LEFT", "agent_state": None},
        {"action": "MOVE_FORWARD"},
        {"action": "STOP"},
    ],
    "goals": [],
    "info": {"geodesic_distance": 3.5},
}


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_an_episode_is_read_without_the_state_at_its_start(tmp_path):
    (episode,) = read_replays(write(tmp_path / "a.json.gz", json.dumps({"episodes": [EPISODE]})))
    assert episode == Replay(
        episode_id="7",
        scene_id="hm3d/train/00800-TEEsavR23oF/TEEsavR23oF.basis.glb",
        goal="tv_monitor",
        position=(-0.25, 0.163, 4.0),
        rotation=(0.0, 0.5, 0.0, -0.75),
        actions=("turn_left", "move_forward", "stop"),
    )


def test_the_file_that_names_the_scenes_has_no_episodes(tmp_path):
    text = json.dumps({"content_scenes_path": "{data_path}/content/{scene}.json.gz", "episodes": []})
    assert list(read_replays(write(tmp_path / "train.json.gz", text))) == []


NUMBERS = st.floats(-100, 100)
EPISODES = st.fixed_dictionaries(
    {
        "episode_id": st.text(max_size=5),
        "scene_id": st.text(max_size=12),
        "start_position": st.lists(NUMBERS, min_size=3, max_size=3),
        "start_rotation": st.lists(NUMBERS, min_size=4, max_size=4),
        "object_category": st.text(max_size=8),
        "reference_replay": st.lists(st.fixed_dictionaries({"action": st.sampled_from(list(ACTIONS))}), min_size=1),
    }
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text('[]{}",:\\é\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"]}\\x', max_size=4), inner, max_size=3),
    max_leaves=8,
)
CONFUSING = st.lists(st.text('[]{}"\\', min_size=1), min_size=1, max_size=3)  # looks like structure, and is not
KEYS = st.text(max_size=6).filter(lambda key: key != "episodes")
OTHERS = st.dictionaries(KEYS, VALUES | CONFUSING, max_size=3)
LAYOUTS = st.fixed_dictionaries({"indent": st.sampled_from([None, 1]), "ensure_ascii": st.booleans()})
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(st.lists(EPISODES, max_size=4), OTHERS, OTHERS, LAYOUTS, st.integers(1, 40))
def test_whatever_stands_around_the_episodes_they_come_back(tmp_path, episodes, before, after, layout, block):
    """In blocks of a few characters, so that everything is cut somewhere."""
    file = write(tmp_path / "a.json.gz", json.dumps({**before, "episodes": episodes, **after}, **layout))
    with patch.object(replay, "BLOCK", block):
        read = list(read_replays(file))
    assert [(one.episode_id, one.scene_id, one.goal) for one in read] == [
        (one["episode_id"], one["scene_id"], one["object_category"]) for one in episodes
    ]
    for one, wanted in zip(read, episodes, strict=True):
        assert [*one.position, *one.rotation] == [*wanted["start_position"], *wanted["start_rotation"]]
        assert list(one.actions) == [ACTIONS[step["action"]] for step in wanted["reference_replay"][1:]]


@FEW
@given(st.lists(EPISODES, min_size=1, max_size=3), OTHERS, st.data())
def test_a_file_that_was_cut_short_is_refused(tmp_path, episodes, before, data):
    """The text, or the compressed file; what was whole before the cut has come by then."""
    whole = json.dumps({**before, "episodes": episodes})
    file = tmp_path / "a.json.gz"
    packed = gzip.compress(whole.encode())
    if data.draw(st.booleans()):
        file.write_bytes(gzip.compress(whole[: data.draw(st.integers(0, len(whole) - 3))].encode()))
    else:
        file.write_bytes(packed[: data.draw(st.integers(1, len(packed) - 9))])
    read = []
    with pytest.raises(ValueError, match="a.json.gz, episode [0-3]: "):
        for one in read_replays(file):
            read.append(one.episode_id)
    assert read == [one["episode_id"] for one in episodes][: len(read)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_replay": None}, "episode 1: its reference_replay is null. An ObjectNav data set with human"),
        ({"reference_replay": []}, "reference_replay is empty"),
        ({"reference_replay": [{}, {"action": "JUMP"}]}, "step {.*JUMP.*}, whose action is none of STOP, MOVE_FORWARD"),
        ({"reference_replay": [{}, "STOP"]}, 'the step "STOP"'),
        ({"start_position": [1, 2]}, r"start_position is \[1, 2\], not 3 numbers"),
        ({"start_rotation": [0, 0, 0, float("nan")]}, "start_rotation is .*NaN.*, not 4 numbers"),
        ({"start_rotation": [0, 0, 0, True]}, "not 4 numbers"),
        ({"object_category": 5}, "its object_category is 5"),
        ({"scene_id": 0}, "its scene_id is 0"),
    ],
)
def test_an_episode_that_is_none_is_named(tmp_path, change, message):
    text = json.dumps({"episodes": [EPISODE, {**EPISODE, **change}]})
    with pytest.raises(ValueError, match=message):
        list(read_replays(write(tmp_path / "a.json.gz", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"episodes": [{"scene_id": "a"}]}', "it has no reference_replay; it has scene_id"),
        ('{"goals_by_category": {}}', "no list `episodes`"),
        ("[]", "expected '{' and found '\\['"),
        ('{"episodes": {}}', "expected '\\[' and found '{'"),
        ('{"episodes": [3]}', "episode 0: it is 3, not an object"),
        ('{"episodes": [{nonsense}]}', "not JSON"),
        ("", "the file ends too early"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_replays(write(tmp_path / "a.json.gz", text)))


def test_a_file_that_is_not_compressed_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"episodes": [EPISODE]}))
    with pytest.raises(ValueError, match="a.json, episode 0: Not a gzipped file"):
        list(read_replays(tmp_path / "a.json"))


def test_a_long_file_is_never_in_memory_as_a_whole(tmp_path):
    goals = {f"scene_{number}": [[0.123456789] * 400, "}" * 100] for number in range(2000)}
    text = json.dumps({"goals_by_category": goals, "episodes": [EPISODE] * 5000})
    file = write(tmp_path / "a.json.gz", text)
    with patch.object(replay, "BLOCK", 1 << 16):
        tracemalloc.start()
        assert sum(1 for _ in read_replays(file)) == 5000
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(text) > 8_000_000 and most < 1_500_000


def test_it_needs_nothing_but_the_standard_library():
    """The simulators' own interpreters have neither torch nor pydantic."""
    source = Path(replay.__file__).read_text()
    named = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert named <= set(sys.stdlib_module_names)


CORRIDOR = '''
"""A corridor of ten places; the frame shows the agent's place and which way it looks. "stop" ends the episode."""
import gymnasium as gym
import numpy as np
from pydantic import BaseModel
from pr2l.environments.habitat.environment import demonstrations
class Defaults(BaseModel):
    pass
class Task:
    id, prompt, horizon, reward, success = "walk", None, 9, "1 for a stop at 5", "a stop at 5"
    contexts = ({"target": "chair"}, {"target": "bed"})
TASKS = {"walk": Task()}
ENDING_ACTIONS = (0,)
def kinds(task): return ()
def make(task, options=None, *, split="train", labels=False): return Corridor()
def begin(env, start):
    scene, goal, (x, _, _), _ = start
    if scene != "corridor": raise ValueError(f"there is no scene {scene}")
    return env.unwrapped.begin(int(x), goal)
class Corridor(gym.Env):
    metadata = {"render_fps": 5}
    action_space = gym.spaces.Discrete(4)
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (1, 2, 3), np.uint8))
    def look(self, success=False):
        frame = np.zeros((1, 2, 3), np.uint8)
        frame[0, 0], frame[0, 1] = self.place, self.way + 1
        return {"frame": frame}, {"context": {"target": self.goal}, "success": success}
    def begin(self, place, goal):
        self.place, self.goal, self.way, self.time = place, goal, 1, 0
        return self.look()
    def reset(self, *, seed=None, options=None): return self.begin(0, "nothing")
    def step(self, action):
        self.time += 1
        self.way = {2: -1, 3: 1}.get(int(action), self.way)
        self.place += self.way * (action == 1)
        reached = bool(action == 0 and self.place == 5)
        return (*self.look(reached)[:1], float(reached), bool(action == 0), self.time == 9, self.look(reached)[1])
'''


def walk(start: float, words: str, scene: str = "corridor", goal: str = "chair") -> dict:
    """A demonstration; words: S = stop, F = forward, L and R = turns, U = look up."""
    names = {"S": "STOP", "F": "MOVE_FORWARD", "L": "TURN_LEFT", "R": "TURN_RIGHT", "U": "LOOK_UP"}
    replay = [{"action": "STOP"}, *({"action": names[word]} for word in words)]
    here = {"scene_id": scene, "object_category": goal, "start_position": [start, 0, 0], "reference_replay": replay}
    return {**EPISODE, **here}


@pytest.fixture
def corridor(write_plugin):
    write_plugin("environments", "corridor", CORRIDOR)


def test_demonstrations_are_played_and_recorded(corridor, tmp_path, capsys):
    """Each from its own start; what cannot be played, or does not end, is left out and said."""
    walks = [
        walk(3, "FFS"),
        walk(7, "LFFS", goal="bed"),
        walk(3, "FUS"),
        walk(0, "FF"),
        walk(0, "FS", scene="cellar"),
        walk(0, "F" * 12),
        walk(0, "S"),
    ]
    file = write(tmp_path / "a.json.gz", json.dumps({"episodes": walks}))
    dataset = collect("corridor", "walk", tmp_path / "data", demonstrations=file)
    recorded = [
        (
            "".join("SFLR"[action] for action in episode.actions),
            episode.observations["frame"][:, 0, 0, 0].tolist(),
            episode.rewards.tolist(),
            (bool(episode.terminations[-1]), bool(episode.truncations[-1])),
        )
        for episode in dataset
    ]
    assert recorded == [
        ("FFS", [3, 4, 5, 5], [0, 0, 1], (True, False)),
        ("LFFS", [7, 7, 6, 5, 5], [0, 0, 0, 1], (True, False)),
        ("F" * 9, list(range(10)), [0] * 9, (False, True)),
        ("S", [0, 0], [0], (True, False)),
    ]
    metadata = list(dataset.storage.get_episode_metadata(range(4)))
    assert [row["context"]["target"] for row in metadata] == ["chair", "bed", "chair", "chair"]
    assert [bool(row["success"]) for row in metadata] == [True, True, False, False]
    assert dataset.storage.metadata["policy"] == "demonstrations of a.json.gz"
    shown = capsys.readouterr().out
    assert "3 demonstrations are left out" in shown and "1: it has the action look_up, which this" in shown
    assert "1: its actions do not end the episode" in shown and "1: there is no scene cellar" in shown
    assert "4 episodes are in" in shown


def test_as_many_demonstrations_are_recorded_as_are_asked_for(corridor, tmp_path):
    file = write(tmp_path / "a.json.gz", json.dumps({"episodes": [walk(3, "U"), *[walk(3, "FFS")] * 5]}))
    assert collect("corridor", "walk", tmp_path / "data", demonstrations=file, episodes=2).total_episodes == 2


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (json.dumps({"episodes": [walk(3, "U")]}), {}, "no demonstration .* because it has the action look_up"),
        (json.dumps({"episodes": []}), {}, "no demonstration .*: it has none"),
        ("[]", {}, "expected '{'"),
        (json.dumps({"episodes": [walk(3, "S")]}), {"noise": 0.1}, "leave out --noise"),
        (None, {}, "there is no file"),
    ],
)
def test_a_file_without_demonstrations_that_can_be_recorded_is_refused(corridor, tmp_path, text, more, message):
    file = tmp_path / "a.json.gz"
    if text is not None:
        write(file, text)
    with pytest.raises(UserError, match=message):
        collect("corridor", "walk", tmp_path / "data", demonstrations=file, **more)
    assert not (tmp_path / "data").exists()


def test_an_environment_without_demonstrations_is_named(tmp_path):
    with pytest.raises(UserError, match="doom cannot read demonstrations"):
        collect("doom", "fetch", tmp_path / "data", demonstrations=tmp_path / "a.json.gz")


@pytest.mark.sims
@pytest.mark.timeout(900)
def test_habitat_plays_a_demonstration_from_its_own_start(tmp_path):
    """The shortest way from one episode's start, as its oracle walks it, read back from a file and recorded."""
    options = {"rooms": 4, "houses": 1, "horizon": 150}
    house_episodes = houses_dataset.dataset("train", 4, 1)["episodes"]
    walks = []
    with closing(habitat.make("objectnav", habitat.Defaults(**options))) as env:
        for place in (0, 7):
            episode = house_episodes[place]
            start = [episode[key] for key in ("scene_id", "object_category", "start_position", "start_rotation")]
            env.reset(seed=place)
            _, info = habitat.begin(env, start)
            steps, over = [{"action": "STOP"}], False
            while not over:
                action = habitat.oracle("objectnav")(env)
                steps.append({"action": list(ACTIONS)[action]})
                _, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
            assert info["success"]
            walks.append({**episode, "reference_replay": steps})
    file = write(tmp_path / "a.json.gz", json.dumps({"episodes": walks}))
    dataset = collect("habitat", "objectnav", tmp_path / "data", demonstrations=file, options=options)
    metadata = list(dataset.storage.get_episode_metadata(range(2)))
    assert dataset.total_episodes == 2 and all(row["success"] for row in metadata)
    for episode, played in zip(dataset, walks, strict=True):
        assert [list(ACTIONS)[action] for action in episode.actions] == [
            step["action"] for step in played["reference_replay"][1:]
        ]
        assert np.allclose(episode.observations["proprio"][0, :4], [0, 0, 0, 1], atol=1e-5)

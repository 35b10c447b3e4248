"""Files of human demonstrations, and their recording by `pr2l collect --from`."""

import gzip
import json
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
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


def test_replay_has_the_fields_of_the_episode(tmp_path):
    (episode,) = read_replays(write(tmp_path / "a.json.gz", json.dumps({"episodes": [EPISODE]})))
    assert episode == Replay(
        episode_id="7",
        scene_id="hm3d/train/00800-TEEsavR23oF/TEEsavR23oF.basis.glb",
        goal="tv_monitor",
        position=(-0.25, 0.163, 4.0),
        rotation=(0.0, 0.5, 0.0, -0.75),
        actions=("turn_left", "move_forward", "stop"),
    )


def test_file_without_episodes(tmp_path):
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
CONFUSING = st.lists(st.text('[]{}"\\', min_size=1), min_size=1, max_size=3)  # strings of JSON syntax
KEYS = st.text(max_size=6).filter(lambda key: key != "episodes")
OTHERS = st.dictionaries(KEYS, VALUES | CONFUSING, max_size=3)
LAYOUTS = st.fixed_dictionaries({"indent": st.sampled_from([None, 1]), "ensure_ascii": st.booleans()})
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(st.lists(EPISODES, max_size=4), OTHERS, OTHERS, LAYOUTS, st.integers(1, 40))
@example([], {"a": 0.5}, {}, {"indent": None}, 1)
@example([], {"a": [-1e-05]}, {}, {"indent": None}, 1)
@example([], {"a": -1e-05}, {}, {"indent": None}, 1)
def test_episodes_are_read_between_any_other_values(tmp_path, episodes, before, after, layout, block):
    """The file is read in blocks of a few characters."""
    file = write(tmp_path / "a.json.gz", json.dumps({**before, "episodes": episodes, **after}, **layout))
    with patch.object(replay, "BLOCK", block):
        replays = list(read_replays(file))
    for read, episode in zip(replays, episodes, strict=True):
        assert read.episode_id == episode["episode_id"] and read.scene_id == episode["scene_id"]
        assert read.goal == episode["object_category"]
        assert [*read.position, *read.rotation] == [*episode["start_position"], *episode["start_rotation"]]
        assert list(read.actions) == [ACTIONS[step["action"]] for step in episode["reference_replay"][1:]]


@FEW
@given(st.lists(EPISODES, min_size=1, max_size=3), OTHERS, st.data())
def test_truncated_file_raises_after_its_complete_episodes(tmp_path, episodes, before, data):
    """Either the text or the compressed file is truncated."""
    text = json.dumps({**before, "episodes": episodes})
    file = tmp_path / "a.json.gz"
    compressed = gzip.compress(text.encode())
    if data.draw(st.booleans()):
        file.write_bytes(gzip.compress(text[: data.draw(st.integers(0, len(text) - 3))].encode()))
    else:
        file.write_bytes(compressed[: data.draw(st.integers(1, len(compressed) - 9))])
    ids = []
    with pytest.raises(ValueError, match="a.json.gz, episode [0-3]: "):
        for read in read_replays(file):
            ids.append(read.episode_id)
    assert ids == [episode["episode_id"] for episode in episodes][: len(ids)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_replay": None}, "episode 1: its reference_replay is null"),
        ({"reference_replay": []}, "reference_replay is empty"),
        ({"reference_replay": [{}, {"action": "JUMP"}]}, "JUMP.*STOP, MOVE_FORWARD"),
        ({"reference_replay": [{}, "STOP"]}, 'the step "STOP"'),
        ({"start_position": [1, 2]}, r"start_position is \[1, 2\], not 3 numbers"),
        ({"start_rotation": [0, 0, 0, float("nan")]}, "start_rotation is .*NaN.*, not 4 numbers"),
        ({"start_rotation": [0, 0, 0, True]}, "not 4 numbers"),
        ({"object_category": 5}, "its object_category is 5"),
        ({"scene_id": 0}, "its scene_id is 0"),
    ],
)
def test_invalid_episode_raises(tmp_path, change, message):
    text = json.dumps({"episodes": [EPISODE, {**EPISODE, **change}]})
    with pytest.raises(ValueError, match=message):
        list(read_replays(write(tmp_path / "a.json.gz", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"episodes": [{"scene_id": "a"}]}', "no reference_replay; it has scene_id"),
        ('{"goals_by_category": {}}', "no list `episodes`"),
        ("[]", "expected '{' and found '\\['"),
        ('{"episodes": {}}', "expected '\\[' and found '{'"),
        ('{"episodes": [3]}', "episode 0: it is 3, not an object"),
        ('{"episodes": [{nonsense}]}', "not JSON"),
        ("", "the file ends too early"),
    ],
)
def test_file_of_another_format_raises(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_replays(write(tmp_path / "a.json.gz", text)))


def test_uncompressed_file_raises(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"episodes": [EPISODE]}))
    with pytest.raises(ValueError, match="a.json, episode 0: Not a gzipped file"):
        list(read_replays(tmp_path / "a.json"))


def test_long_file_is_read_in_blocks(tmp_path):
    goals = {f"scene_{number}": [[0.123456789] * 400, "}" * 100] for number in range(1000)}
    text = json.dumps({"goals_by_category": goals, "episodes": [EPISODE] * 2500})
    file = write(tmp_path / "a.json.gz", text)
    with patch.object(replay, "BLOCK", 1 << 16):
        tracemalloc.start()
        assert sum(1 for _ in read_replays(file)) == 2500
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(text) > 4_000_000 and peak < 1_500_000


def test_module_imports_the_standard_library_only():
    """Interpreters of simulators have neither torch nor pydantic."""
    source = Path(replay.__file__).read_text()
    modules = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert modules <= set(sys.stdlib_module_names)


CORRIDOR = '''
"""A corridor of ten positions; the frame has position and direction of the agent. "stop" ends the episode."""
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
    def observation(self, success=False):
        frame = np.zeros((1, 2, 3), np.uint8)
        frame[0, 0], frame[0, 1] = self.position, self.direction + 1
        return {"frame": frame}, {"context": {"target": self.goal}, "success": success}
    def begin(self, position, goal):
        self.position, self.goal, self.direction, self.time = position, goal, 1, 0
        return self.observation()
    def reset(self, *, seed=None, options=None): return self.begin(0, "nothing")
    def step(self, action):
        self.time += 1
        self.direction = {2: -1, 3: 1}.get(int(action), self.direction)
        self.position += self.direction * (action == 1)
        reached = bool(action == 0 and self.position == 5)
        observation, info = self.observation(reached)
        return observation, float(reached), bool(action == 0), self.time == 9, info
'''


def walk(start: float, actions: str, scene: str = "corridor", goal: str = "chair") -> dict:
    """Return a demonstration of actions S = stop, F = forward, L and R = turns, U = look up."""
    names = {"S": "STOP", "F": "MOVE_FORWARD", "L": "TURN_LEFT", "R": "TURN_RIGHT", "U": "LOOK_UP"}
    replay = [{"action": "STOP"}, *({"action": names[action]} for action in actions)]
    values = {"scene_id": scene, "object_category": goal, "start_position": [start, 0, 0], "reference_replay": replay}
    return {**EPISODE, **values}


@pytest.fixture
def corridor(write_plugin):
    write_plugin("environments", "corridor", CORRIDOR)


def test_demonstrations_are_played_and_recorded(corridor, tmp_path, capsys):
    """Demonstrations that cannot be played or do not end are left out, with a message."""
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
    printed = capsys.readouterr().out
    assert "3 demonstrations are left out" in printed and "1: it has the action look_up" in printed
    assert "1: its actions do not end the episode" in printed and "1: there is no scene cellar" in printed
    assert "4 episodes are in" in printed


def test_number_of_recorded_demonstrations(corridor, tmp_path):
    file = write(tmp_path / "a.json.gz", json.dumps({"episodes": [walk(3, "U"), *[walk(3, "FFS")] * 5]}))
    assert collect("corridor", "walk", tmp_path / "data", demonstrations=file, episodes=2).total_episodes == 2


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (json.dumps({"episodes": [walk(3, "U")]}), {}, "action look_up"),
        (json.dumps({"episodes": []}), {}, "it has none"),
        ("[]", {}, "expected '{'"),
        (json.dumps({"episodes": [walk(3, "S")]}), {"noise": 0.1}, "leave out --noise"),
        (None, {}, "there is no file"),
    ],
)
def test_file_without_playable_demonstrations_raises(corridor, tmp_path, text, more, message):
    file = tmp_path / "a.json.gz"
    if text is not None:
        write(file, text)
    with pytest.raises(UserError, match=message):
        collect("corridor", "walk", tmp_path / "data", demonstrations=file, **more)
    assert not (tmp_path / "data").exists()


def test_environment_without_demonstrations_raises(tmp_path):
    with pytest.raises(UserError, match="doom"):
        collect("doom", "fetch", tmp_path / "data", demonstrations=tmp_path / "a.json.gz")


@pytest.mark.sims
@pytest.mark.timeout(900)
def test_habitat_plays_a_demonstration_from_its_start(tmp_path):
    """The demonstrations are paths of the oracle from the starts of two episodes."""
    options = {"rooms": 4, "houses": 1, "horizon": 150}
    house_episodes = houses_dataset.dataset("train", 4, 1)["episodes"]
    walks = []
    with closing(habitat.make("objectnav", habitat.Defaults(**options))) as env:
        for number in (0, 7):
            episode = house_episodes[number]
            start = [episode[key] for key in ("scene_id", "object_category", "start_position", "start_rotation")]
            env.reset(seed=number)
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

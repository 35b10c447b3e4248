"""Recording of episodes as Minari data sets."""

import json

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from toy_runs import TOY_WORLD

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.data.space_arrays import read
from pr2l.environments.isolation import Timeouts
from pr2l.rollout import watchdog
from pr2l.training import collect as collecting
from pr2l.training.collect import collect
from pr2l.training.recorder import Recorder, info_column


def first_frame(seed: int) -> tuple[np.ndarray, dict[str, str]]:
    """Return the first frame and the context of an episode of the environment `doors`."""
    doors = registry.load("environments", "doors")
    env = doors.make("choose", doors.Defaults(size=32))
    observation, info = env.reset(seed=seed)
    return observation["frame"], info["context"]


def test_data_set_has_frames_actions_rewards_and_contexts(examples, tmp_path) -> None:
    folder = tmp_path / "episodes"
    collect("doors", "choose", folder, policy="oracle", episodes=3, options={"size": 32}, seed=5)
    dataset = minari.MinariDataset(folder / "data")
    metadata = list(dataset.storage.get_episode_metadata(range(3)))
    assert [episode["seed"] for episode in metadata] == [5, 6, 7]
    for episode, values in zip(dataset.iterate_episodes(), metadata, strict=True):
        frame, context = first_frame(values["seed"])
        assert values["context"] == context and values["success"] and values["return"] == 1.0
        assert (episode.observations["frame"][0] == frame).all()  # lossless
        assert episode.observations["frame"].shape == (2, 32, 32, 3)  # one more than actions
        assert episode.observations["proprio"].dtype == np.float32
        assert episode.rewards.tolist() == [1.0] and episode.terminations.tolist() == [True]


def test_random_episodes_depend_on_the_seed(examples, tmp_path) -> None:
    def actions(name: str, seed: int) -> list[int]:
        dataset = collect("doors", "choose", tmp_path / name, episodes=20, seed=seed)
        return [int(episode.actions[0]) for episode in dataset]

    assert actions("a", 0) == actions("b", 0) != actions("c", 1)


def test_minari_loads_the_data_set_by_name(examples, tmp_path, monkeypatch) -> None:
    collect("doors", "choose", tmp_path / "doors-random-v0", episodes=2)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.load_dataset("doors-random-v0").total_episodes == 2


class Failing(gym.Env):
    """Episodes of one step; action 1 makes the simulator fail."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (1, 1, 3), np.uint8))

    def reset(self, *, seed=None, options=None):
        return {"frame": np.zeros((1, 1, 3), np.uint8)}, {"context": {}, "success": False}

    def step(self, action):
        cut = {"cut": "killed"} if action else {}
        return self.reset()[0], 1.0, False, True, {"context": {}, "success": False, **cut}


def test_cut_episodes_are_not_recorded() -> None:
    episodes = []
    env = Recorder(Failing(), lambda episode, metadata, labels: episodes.append(episode))
    for action in (0, 1, 0):
        env.reset()
        env.step(action)
    assert [episode.actions.tolist() for episode in episodes] == [[0], [0]]


SPACES = {  # action space, two actions of the oracle, the stored actions
    "box": ("Box(-1, 1, (2,), np.float32)", [[0.5, -0.25], [0, 1]], np.array([[0.5, -0.25], [0, 1]], np.float32)),
    "doubles": ("Box(-1, 1, (1, 2), np.float64)", [[[0.1, 2**-40]]] * 2, np.array([[[0.1, 2**-40]]] * 2)),
    "bytes": ("Box(0, 255, (2,), np.uint8)", [[3, 255], [0, 1]], np.array([[3, 255], [0, 1]], np.uint8)),
    "discrete": ("Discrete(3)", [0, np.float32(2)], np.array([0, 2])),
    "multidiscrete": ("MultiDiscrete([3, 9])", [[2, 8], (0, 1)], np.array([[2, 8], [0, 1]])),
    "multibinary": ("MultiBinary(3)", [[1, 0, 1], [True, False, False]], np.array([[1, 0, 1], [1, 0, 0]], np.int8)),
    "text": ("Text(20)", ["tapOK", "scrollDown3"], ["tapOK", "scrollDown3"]),
    "dict": (
        "Dict(touch=Box(0, 1, (2,), np.float32), text=Text(9, min_length=0, charset='hé'),"
        " both=Tuple((Discrete(2), MultiBinary(1))))",
        [{"touch": [0.25, 1], "text": "", "both": (1, [0])}, {"touch": [0, 0.5], "text": "hé", "both": (0, [1])}],
        {
            "touch": np.array([[0.25, 1], [0, 0.5]], np.float32),
            "text": ["", "hé"],
            "both": (np.array([1, 0]), np.array([[0], [1]], np.int8)),
        },
    ),
}

REUSING = '''
"""An environment of two steps whose frame is the step; it returns the same arrays and infos at every step."""
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from pydantic import BaseModel
class Defaults(BaseModel):
    space: str
    actions: list = []
class Task:
    id, prompt, horizon, reward, success = "count", None, 2, "none", "always"
    contexts = ({"step": "0"}, {"step": "1"}, {"step": "2"})
TASKS = {"count": Task()}
ACTIONS = []
def kinds(task): return ()
def make(task, options, *, split="train", labels=False): return Counting(options)
def oracle(task): return lambda env: env.unwrapped.options.actions[env.unwrapped.time]
class Counting(gym.Env):
    metadata = {"render_fps": 5}
    def __init__(self, options):
        self.options, self.frame, self.info = options, np.zeros((1, 2, 3), np.uint8), {"success": True, "context": {}}
        self.action_space = eval(options.space)
        self.observation_space = Dict(frame=Box(0, 255, (1, 2, 3), np.uint8))
    def observation(self):
        self.frame[:] = self.time
        self.info["context"]["step"] = str(self.time)
        self.info.update(measures={"time": self.time / 2}, place=np.array([self.time, -1.0]))
        return {"frame": self.frame}, self.info
    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.observation()
    def step(self, action):
        ACTIONS.append(action)
        self.time += 1
        observation, info = self.observation()
        return observation, self.time, self.time == 2, False, info
'''


def assert_same(stored, expected) -> None:
    """Equal in structure, values and dtypes."""
    if isinstance(expected, dict):
        assert stored.keys() == expected.keys()
    if isinstance(expected, (dict, tuple)):
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            assert_same(stored[key], expected[key])
    elif isinstance(expected, list):
        assert list(stored) == expected
    else:
        assert stored.dtype == expected.dtype and np.array_equal(stored, expected)


@pytest.fixture
def reusing(write_plugin):
    """The environment that returns the same arrays and infos at every step."""
    write_plugin("environments", "reusing", REUSING)


@pytest.mark.parametrize("kind", SPACES)
def test_actions_are_stored_in_the_dtype_of_their_space(reusing, tmp_path, kind) -> None:
    """The recorded actions, the choices that noise replaces, and the actions that the environment gets."""
    space, actions, expected = SPACES[kind]
    options = {"space": space, "actions": actions}
    if kind == "discrete":
        options["actions"] = [float(action) for action in actions]
    dataset = collect("reusing", "count", tmp_path / "a", policy="oracle", episodes=2, options=options)
    taken = registry.load("environments", "reusing").ACTIONS
    for episode in dataset:
        assert_same(episode.actions, expected)
        assert all(dataset.action_space.contains(action) for action in taken)
    arguments = {"policy": "oracle", "episodes": 5, "options": options, "noise": 1}
    storage = collect("reusing", "count", tmp_path / "b", **arguments).storage
    with h5py.File(tmp_path / "b" / "data" / "main_data.hdf5") as file:
        for episode in file.values():
            assert_same(read(storage.action_space, episode["infos/choice"], "choice"), expected)
        with pytest.raises(AssertionError):
            for episode in file.values():
                assert_same(read(storage.action_space, episode["actions"], "action"), expected)


@pytest.mark.parametrize("kind", SPACES)
def test_random_actions_of_every_space_are_recorded(reusing, tmp_path, kind) -> None:
    space, actions, _ = SPACES[kind]
    dataset = collect("reusing", "count", tmp_path / "a", episodes=3, options={"space": space})
    assert [len(episode.rewards) for episode in dataset] == [2, 2, 2]


def test_reused_arrays_and_infos_are_copied(reusing, tmp_path) -> None:
    options = {"space": "Discrete(2)"}
    dataset = collect("reusing", "count", tmp_path / "a", episodes=2, options=options, infos=("measures", "place"))
    for episode in dataset:
        assert episode.observations["frame"][:, 0, 0, 0].tolist() == [0, 1, 2]
        assert episode.rewards.tolist() == [1, 2]
        assert episode.terminations.tolist() == [False, True] and not episode.truncations.any()
        assert [json.loads(text) for text in episode.infos["context"]] == [{"step": str(step)} for step in range(3)]
        assert [json.loads(text)["time"] for text in episode.infos["measures"]] == [0, 0.5, 1]
        assert episode.infos["place"].tolist() == [[0, -1], [1, -1], [2, -1]]


def test_infos_that_are_not_finite_are_null() -> None:
    texts = info_column([{"spl": float("nan")}, {"spl": float("-inf"), "steps": 2}])
    assert texts == ['{"spl": null}', '{"spl": null, "steps": 2}']


def test_hanging_step_is_reported(write_plugin, tmp_path, monkeypatch, capfd) -> None:
    write_plugin("environments", "toy", TOY_WORLD)
    monkeypatch.setenv("TOY_DELAY", "0.2")
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    monkeypatch.setattr(collecting, "Timeouts", lambda: Timeouts(step=0.03))
    collect("toy", "colours", tmp_path / "a", episodes=1, seed=70)
    assert "step 1 of the episode with seed 70 has not ended" in capfd.readouterr().err


def test_oracle_action_outside_the_space_raises(reusing, tmp_path) -> None:
    options = {"space": "Discrete(2)", "actions": [0.5, 1]}
    with pytest.raises(UserError, match="action of the oracle is 0.5"):
        collect("reusing", "count", tmp_path / "a", policy="oracle", options=options)
    assert not (tmp_path / "a").exists()  # nothing was recorded


def test_unknown_infos_raise(reusing, tmp_path) -> None:
    options = {"space": "Discrete(2)"}
    with pytest.raises(UserError, match="'measure'.*context, measures, place, success"):
        collect("reusing", "count", tmp_path / "a", options=options, infos=("measure",))
    with pytest.raises(UserError, match="'choice'"):
        collect("reusing", "count", tmp_path / "b", options=options, infos=("choice",))


def test_collect_prints_the_embed_command_on_one_line(examples, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    collect("doors", "choose", episodes=1, options={"size": 32})
    line = next(line for line in capsys.readouterr().out.splitlines() if "pr2l embed" in line)
    command = line[line.index("pr2l embed") :]
    assert command == "pr2l embed data/doors-choose --config doors/choose/columns environment_options.size=32"
    assert (tmp_path / "data" / "doors-choose" / "data").is_dir()


def test_existing_folder_is_not_overwritten(examples, tmp_path) -> None:
    with pytest.raises(UserError, match="exists"):
        collect("doors", "choose", tmp_path)


@pytest.mark.parametrize(
    ("task", "policy", "options", "message"),
    [
        ("chose", "random", {}, "Did you mean 'choose'"),
        ("choose", "orcale", {}, "Did you mean 'oracle'"),
        ("choose", "random", {"sise": 8}, "'sise'. Did you mean 'size'"),
    ],
)
def test_wrong_names_raise_before_files_are_written(examples, tmp_path, task, policy, options, message) -> None:
    with pytest.raises(UserError, match=message):
        collect("doors", task, tmp_path / "new", policy=policy, options=options)
    assert not (tmp_path / "new").exists()


def test_ctrl_c_keeps_complete_episodes(examples, tmp_path) -> None:
    doors = registry.load("environments", "doors")
    choose, played = doors.oracle, []

    def interrupted(task: str):
        def act(env):
            if len(played) == 2:
                raise KeyboardInterrupt
            played.append(choose(task)(env))
            return played[-1]

        return act

    doors.oracle = interrupted
    with pytest.raises(KeyboardInterrupt):
        collect("doors", "choose", tmp_path / "interrupted", policy="oracle", episodes=9)
    dataset = collect("doors", "choose", tmp_path / "interrupted", policy="oracle", episodes=2)
    assert [episode.rewards.tolist() for episode in dataset] == [[1.0], [1.0]] and len(played) == 2

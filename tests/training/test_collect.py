import signal

import gymnasium as gym
import minari
import numpy as np
import pytest

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.training.collect import Recorder, collect, not_interrupted


def frames_of(seed: int) -> tuple[np.ndarray, dict[str, str]]:
    """The first frame and the context of an episode of the doors world."""
    doors = registry.load("environments", "doors")
    env = doors.make("choose", doors.Defaults(size=32))
    observation, info = env.reset(seed=seed)
    return observation["frame"], info["context"]


def test_frames_actions_rewards_and_contexts_come_back_exactly(examples, tmp_path) -> None:
    folder = tmp_path / "episodes"
    collect("doors", "choose", folder, policy="oracle", episodes=3, options={"size": 32}, seed=5)
    dataset = minari.MinariDataset(folder / "data")
    metadata = list(dataset.storage.get_episode_metadata(range(3)))
    assert [one["seed"] for one in metadata] == [5, 6, 7]
    for episode, about in zip(dataset.iterate_episodes(), metadata, strict=True):
        frame, context = frames_of(about["seed"])
        assert about["context"] == context and about["success"] and about["return"] == 1.0
        assert (episode.observations["frame"][0] == frame).all()  # lossless
        assert episode.observations["frame"].shape == (2, 32, 32, 3)  # one more than actions
        assert episode.observations["proprio"].dtype == np.float32
        assert episode.rewards.tolist() == [1.0] and episode.terminations.tolist() == [True]


def test_the_same_seed_gives_the_same_random_episodes_and_another_does_not(examples, tmp_path) -> None:
    def actions(name: str, seed: int) -> list[int]:
        dataset = collect("doors", "choose", tmp_path / name, episodes=20, seed=seed)
        return [int(episode.actions[0]) for episode in dataset]

    assert actions("a", 0) == actions("b", 0) != actions("c", 1)


def test_minari_finds_the_data_set_by_name(examples, tmp_path, monkeypatch) -> None:
    collect("doors", "choose", tmp_path / "doors-random-v0", episodes=2)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.load_dataset("doors-random-v0").total_episodes == 2


class Failing(gym.Env):
    """Episodes of one step; a simulator that fails has cut every other one."""

    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"frame": np.zeros((1, 1, 3), np.uint8)}, {"context": {}, "success": False}

    def step(self, action):
        cut = {"cut": "killed"} if action else {}
        return self.reset()[0], 1.0, False, True, {"context": {}, "success": False, **cut}


def test_an_episode_that_a_failing_simulator_has_cut_is_left_out() -> None:
    written = []
    env = Recorder(Failing(), lambda episode, about, labels: written.append(episode))
    for action in (0, 1, 0):
        env.reset()
        env.step(action)
    assert [episode.actions for episode in written] == [[0], [0]]


def test_what_is_there_is_not_overwritten(examples, tmp_path) -> None:
    with pytest.raises(UserError, match="exists already"):
        collect("doors", "choose", tmp_path)


@pytest.mark.parametrize(
    ("task", "policy", "options", "message"),
    [
        ("chose", "random", {}, "Did you mean 'choose'"),
        ("choose", "orcale", {}, "Did you mean 'oracle'"),
        ("choose", "random", {"sise": 8}, "unknown key 'sise'. Did you mean 'size'"),
    ],
)
def test_wrong_names_teach_before_anything_is_written(
    examples, tmp_path, task, policy, options, message
) -> None:
    with pytest.raises(UserError, match=message):
        collect("doors", task, tmp_path / "new", policy=policy, options=options)
    assert not (tmp_path / "new").exists()


def test_ctrl_c_keeps_the_episodes_that_are_whole(examples, tmp_path) -> None:
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
        collect("doors", "choose", tmp_path / "cut", policy="oracle", episodes=9)
    assert [e.rewards.tolist() for e in minari.MinariDataset(tmp_path / "cut" / "data")] == [[1.0], [1.0]]


def test_ctrl_c_while_a_file_is_written_waits_until_it_is() -> None:
    written = []
    with pytest.raises(KeyboardInterrupt), not_interrupted():
        signal.raise_signal(signal.SIGINT)
        written.append("all")
    assert written == ["all"]
    with pytest.raises(KeyboardInterrupt):  # and afterwards it is as it was
        signal.raise_signal(signal.SIGINT)

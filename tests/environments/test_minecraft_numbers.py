"""Numbers of MineDojo that are not finite end the episode, whether they are observed, rewarded or only compared."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pr2l.environments.isolation.isolated import gymnasium_spaces
from pr2l.environments.minecraft import dojo, remote
from pr2l.environments.minecraft.environment import Defaults
from pr2l.rollout.contract import BadValueError, ContractCheck

NAN, INF = float("nan"), float("inf")
OPTIONS = Defaults(image_size=(8, 8), approach_reward=1.0).model_dump(mode="json", exclude={"python", "task_id"})


class Dojo:
    """MineDojo's environment with one cow straight ahead; the next step changes numbers of its observation."""

    is_successful = False

    def __init__(self) -> None:
        self.unwrapped, self.changes, self.reward = self, {}, 0.0

    def execute_cmd(self, command: str) -> None:
        pass

    def reset(self) -> dict[str, Any]:
        return {
            "rgb": np.zeros((3, 8, 8), np.uint8),
            "location_stats": {
                "pos": np.array([0.5, 64.0, 0.5]),
                "yaw": np.array([0.0]),
                "pitch": np.array([0.0]),
                "biome_id": np.array(1),
            },
            "voxels": {"block_name": np.full((3, 3, 3), "air", "<U32")},
            "inventory": {"cur_durability": np.array([-1.0]), "name": np.array(["bucket"])},
            "life_stats": {"life": np.array([20.0])},
            "rays": {
                "ray_pitch": np.zeros(1),
                "ray_yaw": np.zeros(1),
                "entity_name": np.array(["cow"]),
                "entity_distance": np.array([4.0]),
            },
            "masks": {"action_type": np.ones(8, bool)},
        }

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        observation = self.reset()
        for (group, name), value in self.changes.items():
            observation[group][name] = observation[group][name] * value
        return observation, self.reward, False, {}

    def close(self) -> None:
        pass


class Near(gym.Env):
    """The far side's environment, without the process between both sides."""

    def __init__(self, far: remote.Minecraft) -> None:
        self.far = far
        description = {"observation": far.observation_space, "action": far.action_space}
        self.observation_space, self.action_space = gymnasium_spaces(description)

    def reset(self, *, seed=None, options=None):
        return self.far.reset(seed)

    def step(self, action):
        return self.far.step(action)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Dojo:
    simulator = Dojo()
    monkeypatch.setattr(dojo, "make", lambda *_, **__: simulator)
    monkeypatch.setattr(dojo, "claim", lambda ports: None)
    for name in ("attach", "seed_mobs"):
        monkeypatch.setattr(dojo, name, lambda *_: None)
    return simulator


def env(on_bad_value: str = "stop") -> ContractCheck:
    far = remote.make("milk_cow", OPTIONS, split="train", labels=True)
    return ContractCheck(Near(far), "minecraft/milk_cow", labels=True, on_bad_value=on_bad_value)


@pytest.mark.parametrize("name", ["yaw", "pitch", "pos"])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_position_and_direction_are_checked_in_proprio(world: Dojo, name: str, value: float) -> None:
    checked = env()
    _, info = checked.reset(seed=3)
    assert [label["name"] for label in info["labels"]] == ["cow"]
    checked.step(0)
    world.changes = {("location_stats", name): value}
    with pytest.raises(BadValueError, match=r"minecraft/milk_cow, episode seed 3, step 2: proprio is float32 .* with"):
        checked.step(0)
    truncating = env("truncate")
    truncating.reset(seed=3)
    with pytest.warns(UserWarning, match="the episode is cut: .*proprio"):
        *_, truncated, info = truncating.step(0)
    assert truncated and "proprio" in info["cut"]


def test_reward_is_checked(world: Dojo) -> None:
    checked = env()
    checked.reset(seed=3)
    world.reward = NAN
    with pytest.raises(BadValueError, match="the reward is nan"):
        checked.step(0)


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("life_stats", "life", "Minecraft gave life_stats.life = nan"),
        ("inventory", "cur_durability", "Minecraft gave inventory.cur_durability = nan"),
        ("rays", "entity_distance", "lidar gave the distances .nan. to 'cow'"),
    ],
)
def test_nan_in_a_comparison_is_a_failure_of_the_simulator(
    world: Dojo, group: str, name: str, message: str
) -> None:
    """A comparison with NaN is False, so the player would neither die, nor hit, nor approach."""
    checked = env()
    checked.reset(seed=3)
    world.changes = {(group, name): NAN}
    with pytest.raises(RuntimeError, match=message):
        checked.step(0)

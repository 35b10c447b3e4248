"""The parts of the Minecraft environment that need neither MineDojo nor Minecraft."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from pr2l.core import prompt, registry
from pr2l.core.config import load_config
from pr2l.environments.minecraft import environment as minecraft
from pr2l.environments.minecraft import labels as lidar
from pr2l.environments.minecraft import spaces as plain
from pr2l.environments.minecraft.checks import java_version
from pr2l.environments.minecraft.rewards import Approach, Attack
from pr2l.rollout import build

ROOT = Path(__file__).parents[2]
FOCAL = 80 / math.tan(math.radians(35))  # of a frame of 160 rows that spans 70 degrees


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the interpreter of MineDojo; no test starts it."""
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    python = tmp_path / "minedojo" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/false\n")
    python.chmod(0o755)
    return python


def test_discrete_actions_are_moves_turns_use_and_attack() -> None:
    assert len(plain.DISCRETE) == len(set(plain.DISCRETE)) == 89
    assert plain.DISCRETE[:6] == (
        (1, 0, 0, 12, 12, 0, 0, 0),
        (1, 0, 1, 12, 12, 0, 0, 0),
        (0, 0, 1, 12, 12, 0, 0, 0),
        (2, 0, 0, 12, 12, 0, 0, 0),
        (0, 1, 0, 12, 12, 0, 0, 0),
        (0, 2, 0, 12, 12, 0, 0, 0),
    )
    degrees = [tuple((bin_ - 12) * 15 for bin_ in action[3:5]) for action in plain.DISCRETE[6:87]]
    assert degrees == [(pitch, yaw) for pitch in range(-60, 61, 15) for yaw in range(-60, 61, 15)]
    assert plain.DISCRETE[6 + 40] == plain.NO_OP
    assert [action[5] for action in plain.DISCRETE[87:]] == [1, 3]
    assert all(value < size for action in plain.DISCRETE for value, size in zip(action, plain.NVEC, strict=True))


def test_proprio_is_compass_position_blocks_biome_and_previous_action() -> None:
    stats = {"yaw": [90.0], "pitch": [-30.0], "pos": np.array([500.0, 64.0, -250.0]), "biome_id": np.array(129)}
    blocks = np.full((3, 3, 3), "air", "<U32")
    blocks[2, 1, 0], blocks[0, 0, 0] = "lava", "grass block"
    numbers = plain.proprio(stats, blocks, "discrete", 88)
    assert numbers.dtype == np.float32
    assert numbers[:7] == pytest.approx([1, 0, -0.5, math.sqrt(3) / 2, 0.5, 0.64, -0.25], abs=1e-6)
    voxels = numbers[7 : 7 + 27 * 16].reshape(3, 3, 3, 16)
    assert voxels.sum() == 27
    assert voxels[2, 1, 0, plain.BLOCKS["lava"]] == voxels[0, 0, 0, 0] == voxels[1, 1, 1, plain.BLOCKS["air"]] == 1
    assert np.flatnonzero(numbers[7 + 27 * 16 :]).tolist() == [129, 168 + 88]
    assert numbers.shape == tuple(plain.observation_space(8, 8, "discrete")["proprio"]["shape"])


def test_previous_full_action_is_six_one_hots() -> None:
    one_hots = plain.previous_action("full", np.array([1, 2, 3, 24, 0, 7, 243, 35]))
    assert np.flatnonzero(one_hots).tolist() == [1, 3 + 2, 6 + 3, 10 + 24, 35, 60 + 7] and one_hots.size == 68
    assert not plain.previous_action("full", None).any() and not plain.previous_action("discrete", None).any()


def test_attack_counts_a_hit_if_the_durability_falls_by_one() -> None:
    hits = Attack(10)
    assert [hits(durability) for durability in (10, 9, 8, 8, 6, -1)] == [0, 1, 1, 0, 0, 0]


def test_approach_rewards_new_smallest_distances_since_the_latest_hit() -> None:
    gains = Approach(None)
    assert gains(5.0, hit=False) == 0  # the first observation
    assert [gains(at, hit=False) for at in (4.0, 6.0, None, 3.5)] == [1.0, 0.0, 0.0, 0.5]
    assert gains(3.0, hit=True) == 0.5
    assert [gains(at, hit=False) for at in (8.0, 7.0)] == [0.0, 1.0]
    assert Approach(5.0)(4.0, hit=False) == 1.0


def rays(*hits: tuple[float, float, str, float]) -> dict[str, np.ndarray]:
    """Return observations of rays of (pitch, yaw in degrees, entity, distance)."""
    pitch, yaw, names, distances = zip(*hits, strict=True)
    return {
        "ray_pitch": np.deg2rad(pitch),
        "ray_yaw": np.deg2rad(yaw),
        "entity_name": np.array(names),
        "entity_distance": np.array(distances),
    }


def test_nearest_entity() -> None:
    lidar_rays = rays((0, 0, "cow", 7.0), (0, 15, "cow", 6.5), (0, 30, "pig", 2.0), (0, 45, "null", 1.0))
    assert lidar.nearest(lidar_rays, "cow") == 6.5
    assert lidar.nearest(lidar_rays, "sheep") is None


@pytest.mark.parametrize(
    ("facing", "offset", "column", "row"),
    [
        (0, (0, 0), 128, 80),
        (0, (0, 15), 128 - FOCAL * math.tan(math.radians(15)), 80),  # Malmo's yaw turns left
        (90, (0, 15), 128 - FOCAL * math.tan(math.radians(15)), 80),
        (0, (15, 0), 128, 80 - FOCAL * math.tan(math.radians(15))),  # facing south: up
        (180, (15, 0), 128, 80 + FOCAL * math.tan(math.radians(15))),  # facing north: down
        (90, (15, 0), 128, 80),  # facing west: no effect
    ],
)
def test_label_is_in_the_direction_of_its_ray(facing: float, offset: tuple, column: float, row: float) -> None:
    [label] = lidar.labels(rays((*offset, "pigzombie", 4.0)), facing, 0.0, 160, 256)
    x0, y0, x1, y1 = label["box"]
    assert label["name"] == "zombie pigman" and label["distance"] == 4.0
    assert (x1 - x0, y1 - y0) == (1, 1)
    assert abs(x0 - column) <= 1 and abs(y0 - row) <= 1


def test_label_spans_its_rays_and_entities_outside_the_frame_have_none() -> None:
    cows, others = [(0, 15, "cow", 3.0), (0, -15, "cow", 2.0)], [(0, 60, "sheep", 1.0), (0, 180, "pig", 1.0)]
    lidar_rays = rays(*cows, *others, (0, 0, "null", 9.0))
    [cow] = lidar.labels(lidar_rays, 0.0, 0.0, 160, 256)
    assert cow["distance"] == 2.0
    assert abs(cow["box"][2] - cow["box"][0] - 2 * FOCAL * math.tan(math.radians(15))) <= 2


def test_spaces_are_known_before_minecraft_starts(interpreter: Path) -> None:
    env = minecraft.make("milk_cow")
    assert env.observation_space["frame"].shape == (160, 256, 3)
    assert env.observation_space["proprio"].shape == (4 + 3 + 27 * 16 + 168 + 89,)
    assert env.action_space.n == 89
    full = minecraft.make("milk_cow", minecraft.Defaults(actions="full", image_size=(64, 80)))
    assert full.action_space.nvec.tolist() == [3, 3, 4, 25, 25, 8, 244, 36]
    assert full.observation_space["frame"].shape == (64, 80, 3)


def test_encoder_is_built_before_minecraft_starts(interpreter: Path) -> None:
    overrides = ("vlm=tiny", "vlm_options={new_tokens: 2}", "encoder_options={image_tokens: 16}")
    encoder = build.encoder(load_config("minecraft/combat_spider/prompted", overrides))
    assert encoder.tokens > 0


@pytest.mark.parametrize(
    ("task", "task_id", "message"),
    [("other", "", "'other' with task_id=''"), ("milk_cow", "harvest_milk", "the task `other` needs")],
)
def test_task_id_is_for_the_task_other_only(task: str, task_id: str, message: str, interpreter: Path) -> None:
    with pytest.raises(ValueError, match=message):
        minecraft.make(task, minecraft.Defaults(task_id=task_id))


def test_missing_minedojo_raises_with_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    with pytest.raises(ValueError, match="pr2l sim install minedojo"):
        minecraft.make("milk_cow")


def test_oracle_raises() -> None:
    with pytest.raises(ValueError, match="--policy random"):
        minecraft.oracle("milk_cow")


@pytest.mark.parametrize("task", minecraft.TASKS)
def test_contexts_fill_all_prompts_of_the_task(task: str) -> None:
    row = minecraft.TASKS[task]
    names = [name for name in registry.names("prompts") if name.startswith(f"minecraft/{task}/")]
    assert f"minecraft/{task}/{row.prompt}" in names
    for name in names:
        assert prompt.check(prompt.load(name), row.contexts)


def test_recipe_checks_the_default_options() -> None:
    recipe = yaml.safe_load((ROOT / "configs/sims/minedojo.yaml").read_text())
    assert recipe["options"] == minecraft.Defaults().model_dump(mode="json", exclude={"python", "task_id"})
    assert recipe["task"] in minecraft.TASKS


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "1.8.0_392"\nOpenJDK Runtime Environment', 8),
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "11"', 11),
        ("command not found", None),
    ],
)
def test_java_version(text: str, version: int | None) -> None:
    assert java_version(text) == version

"""The MineDojo package in its interpreter, with tests/malmo.py in place of Minecraft."""

import csv
import json
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from pr2l.core.config import load_config
from pr2l.environments.isolation.interpreters import interpreter
from pr2l.environments.isolation.isolated import WORKER
from pr2l.environments.minecraft import environment as minecraft
from pr2l.environments.minecraft import spaces as plain
from pr2l.training.train import train

pytestmark = [pytest.mark.sims, pytest.mark.timeout(900)]

MALMO = Path(__file__).parents[1] / "malmo.py"
FORWARD, NO_OP, USE, ATTACK = 0, 46, 87, 88
# Seeds with a mob straight ahead, south of the player, in tasks with one mob and in the task with cow, pig and sheep.
FIVE_BLOCKS, SIX_BLOCKS, SHEEP_AT_FIVE = 68, 188, 8
IDLE = {
    **{"camera": "0.0 0.0", "smeltNearby": "none", "craft": "none", "craftNearby": "none", "equip": "none"},
    **{key: "0" for key in ("forward", "back", "left", "right", "jump", "sneak", "sprint", "use", "attack", "drop")},
    "place": "none",
}


class FakeMalmo:
    """The process of tests/malmo.py and the messages that it has received."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        command = [sys.executable, str(MALMO), "--log", str(log), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ports = tuple(map(int, self.process.stdout.readline().split()))

    def steps(self) -> list[dict[str, str]]:
        """Return the commands of each step, a dict from names to arguments."""
        messages = re.findall(r"<StepClient0>(.*?)</StepClient0 >", self._log.read_text(), flags=re.DOTALL)
        return [dict(line.partition(" ")[::2] for line in message.split("\n")) for message in messages]

    def chat(self) -> list[str]:
        return [step["chat"] for step in self.steps() if "chat" in step]


@pytest.fixture(scope="module")
def start_malmo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., FakeMalmo]]:
    """start_malmo(*arguments) -> a FakeMalmo that runs until the end of the tests of this file."""
    interpreter("minedojo")  # raises with the install command if it is missing
    processes: list[FakeMalmo] = []

    def start(*arguments: str) -> FakeMalmo:
        processes.append(FakeMalmo(tmp_path_factory.mktemp("malmo") / "steps.log", *arguments))
        return processes[-1]

    yield start
    for malmo in processes:
        malmo.process.kill()
        malmo.process.wait()


def make(task: str, malmo: FakeMalmo, **options: object) -> minecraft.Isolated:
    return minecraft.make(task, minecraft.Defaults(existing_ports=malmo.ports, **options), labels=True)


@pytest.fixture(scope="module")
def spider(start_malmo) -> Iterator[tuple[minecraft.Isolated, FakeMalmo]]:
    malmo = start_malmo()
    with closing(make("combat_spider", malmo)) as env:
        env.reset(seed=0)
        yield env, malmo


def commands_of(action: tuple[int, ...]) -> dict[str, str]:
    """Return the commands that MineDojo must send for the first six numbers of an action."""
    ahead, beside, legs, pitch, yaw, hand = action[:6]
    commands = {**IDLE, "camera": f"{(pitch - 12) * 15:.1f} {(yaw - 12) * 15:.1f}"}
    pressed = (
        (None, "forward", "back")[ahead],
        (None, "left", "right")[beside],
        (None, "jump", "sneak", "sprint")[legs],
        {0: None, 1: "use", 3: "attack"}[hand],
    )
    return commands | {key: "1" for key in pressed if key}


def test_commands_of_all_discrete_actions(spider) -> None:
    env, malmo = spider
    env.reset(seed=0)
    before = len(malmo.steps())
    for action in range(89):
        env.step(action)
    assert malmo.steps()[before:] == [commands_of(action) for action in plain.DISCRETE]


def test_frame_is_upright_and_label_matches_the_mob(spider) -> None:
    env, _ = spider
    observation, info = env.reset(seed=FIVE_BLOCKS)
    frame = observation["frame"]
    assert frame.shape == (160, 256, 3) and frame.dtype == np.uint8
    assert frame[0, 0].tolist() == [110, 170, 255] and frame[-1, 0].tolist() == [90, 140, 60]
    dark = np.argwhere((frame == (40, 30, 30)).all(axis=2))
    # One block wide and two high at five blocks, eyes at 1.62; the focal length is 114.25 pixels.
    assert dark.min(axis=0).tolist() == [80 - 9, 128 - 11] and dark.max(axis=0).tolist() == [80 + 37 - 1, 128 + 11 - 1]
    [label] = info["labels"]
    x0, y0, x1, y1 = label["box"]
    assert label["name"] == "spider" and label["distance"] == 5
    assert (frame[y0:y1, x0:x1] == (40, 30, 30)).all()


def test_proprio_follows_the_player(spider) -> None:
    env, _ = spider
    start = env.reset(seed=0)[0]["proprio"]
    blocks = slice(7, 7 + 27 * plain.BLOCK_CLASSES)
    around = start[blocks].reshape(3, 3, 3, plain.BLOCK_CLASSES).argmax(axis=3)
    assert (around[:, 0] == 0).all()  # grass has no class of its own
    assert np.argwhere(around == plain.BLOCKS["wood"]).tolist() == [[2, 1, 1]]  # one block to the east, at the feet
    assert (around == plain.BLOCKS["air"]).sum() == 27 - 9 - 1
    after_turn = env.step(6 + 9 * 6 + 0)[0]["proprio"]  # 30 degrees down, 60 left
    assert start[:7] == pytest.approx([0, 1, 0, 1, 0.0005, 0.64, 0.0005])
    assert after_turn[:4] == pytest.approx([-(3**0.5) / 2, 0.5, 0.5, 3**0.5 / 2], abs=1e-6)
    assert np.flatnonzero(after_turn[blocks.stop :]).tolist() == [129, 168 + 60]
    after_walk = env.step(FORWARD)[0]["proprio"]
    assert after_walk[4:7] == pytest.approx([0.0005 + 3**0.5 / 2000, 0.64, 0.001], abs=1e-6)


def test_hits_and_kill_are_rewarded_in_each_episode(spider) -> None:
    env, malmo = spider
    for _ in range(2):
        assert not env.reset(seed=FIVE_BLOCKS)[1]["success"]
        assert malmo.chat()[-1] == "/summon spider ~0 ~1 ~5"
        results = [env.step(action) for action in (FORWARD, ATTACK, FORWARD, ATTACK, ATTACK, ATTACK)]
        assert [reward for _, reward, *_ in results] == [0, 0, 0, 1, 1, 11]
        assert [terminated for _, _, terminated, *_ in results] == [False] * 5 + [True]
        assert [info["success"] for *_, info in results] == [False] * 5 + [True]
        assert not any(truncated for _, _, _, truncated, _ in results)


def test_reset_removes_mobs_and_items_and_gives_new_tools(spider) -> None:
    env, malmo = spider
    env.reset(seed=0)
    before = len(malmo.chat())
    env.reset(seed=SIX_BLOCKS)
    commands = malmo.chat()[before:]
    assert commands[:4] == ["/kill @e[type=!player]", "/clear", "/kill @e[type=item]", "/kill"]
    assert "/time set 18000" in commands and "/weather clear" in commands
    assert "/replaceitem entity @p slot.weapon.mainhand minecraft:diamond_sword 1 0" in commands
    assert commands[-1] == "/summon spider ~0 ~1 ~6"
    assert not any("/spreadplayers" in command for command in commands)


def test_mobs_of_train_and_evaluation_are_at_different_positions(spider, start_malmo) -> None:
    malmo = start_malmo()
    options = minecraft.Defaults(existing_ports=malmo.ports)
    with closing(minecraft.make("combat_spider", options, split="evaluation")) as env:
        assert "labels" not in env.reset(seed=FIVE_BLOCKS)[1]
    assert malmo.chat()[-1].startswith("/summon spider") and malmo.chat()[-1] != "/summon spider ~0 ~1 ~5"


def test_shear_sheep_rewards_approach_and_wool(start_malmo) -> None:
    malmo = start_malmo()
    with closing(make("shear_sheep", malmo)) as env:
        _, info = env.reset(seed=SHEEP_AT_FIVE)
        assert info["context"] == {"target": "sheep"}
        assert malmo.chat() == ["/summon cow ~5 ~1 ~-6", "/summon pig ~-5 ~1 ~1", "/summon sheep ~0 ~1 ~5"]
        back = 3
        results = [env.step(action) for action in (FORWARD, back, FORWARD, FORWARD, ATTACK, USE)]
    assert [reward for _, reward, *_ in results] == pytest.approx([0.1, 0, 0, 0.1, 0, 10])
    assert results[-1][2] and results[-1][4]["success"] and not results[-2][4]["success"]


def test_two_environments_with_horizon_and_no_port_for_a_third(start_malmo) -> None:
    malmo = start_malmo("--ports", "2")
    with (
        closing(make("combat_zombie", malmo, horizon=3)) as zombie,
        closing(make("combat_zombie_pigman", malmo)) as pigman,
        closing(make("combat_zombie", malmo)) as third,
    ):
        zombie.reset(seed=SIX_BLOCKS), pigman.reset(seed=FIVE_BLOCKS)
        with pytest.raises(ValueError, match="all in use"):
            third.reset(seed=0)
        truncations = []
        for action in (FORWARD, FORWARD, NO_OP):
            *_, truncated, info = zombie.step(action)
            [label], [pigman_label] = info["labels"], pigman.step(action)[-1]["labels"]
            assert (label["name"], pigman_label["name"]) == ("zombie", "zombie pigman")
            truncations.append(truncated)
        assert truncations == [False, False, True]
        assert (label["distance"], pigman_label["distance"]) == (4, 3)
        attacks = [pigman.step(ATTACK) for _ in range(3)]
        assert [reward for _, reward, *_ in attacks] == [1, 1, 11] and attacks[-1][4]["success"]


def test_death_terminates_without_success(start_malmo) -> None:
    with closing(make("combat_enderman", start_malmo("--bite", "7"))) as env:
        env.reset(seed=FIVE_BLOCKS)
        results = [env.step(action) for action in (FORWARD, FORWARD, FORWARD, NO_OP, NO_OP, NO_OP)]
        assert [terminated for _, _, terminated, *_ in results] == [False] * 5 + [True]
        assert not results[-1][4]["success"]
        env.reset(seed=FIVE_BLOCKS)
        assert not env.step(NO_OP)[2]


def test_impossible_full_actions_become_no_ops(start_malmo) -> None:
    malmo = start_malmo()

    def sent(*action: int) -> list[dict[str, str]]:
        before = len(malmo.steps())
        env.step(np.array(action))
        return malmo.steps()[before:]

    with closing(make("combat_spider", malmo, actions="full")) as env:
        env.reset(seed=0)
        assert sent(1, 2, 3, 13, 11, 1, 0, 0) == [commands_of((1, 2, 3, 13, 11, 1))]
        for hand, craft, slot in ((4, 0, 0), (5, 0, 7), (6, 0, 0), (7, 0, 7)):  # no item, or a sword
            assert sent(1, 0, 0, 12, 12, hand, craft, slot) == [commands_of((1, 0, 0, 12, 12, 0))]
        assert sent(0, 0, 0, 12, 12, 2, 0, 0) == [{**IDLE, "drop": "1"}, IDLE, IDLE]
        destroyed = sent(0, 0, 0, 12, 12, 7, 0, 0)
        replaced = "/replaceitem entity @p slot.weapon.mainhand minecraft:air 1 0"
        assert destroyed == [{**IDLE, "chat": replaced}, IDLE, IDLE]
        assert env.step(np.array(plain.NO_OP))[2]  # the episode is terminated without the sword


@pytest.mark.parametrize("fault", ["--lose", "--end"])
def test_step_without_answer_truncates_the_episode(fault: str, start_malmo) -> None:
    malmo = start_malmo(fault, "6")  # the first reset takes three steps, a /summon each
    with closing(make("milk_cow", malmo)) as env:
        env.reset(seed=0)
        steps = [env.step(FORWARD) for _ in range(2)]
        with pytest.warns(UserWarning, match="Minecraft is replaced"):
            observation, reward, terminated, truncated, info = env.step(FORWARD)
        assert (reward, terminated, truncated, info["success"]) == (0, False, True, False)
        assert "Minecraft did not answer a step" in info["cut"] and env.restarts == 1
        assert np.array_equal(observation["proprio"], steps[-1][0]["proprio"])
        env.reset(seed=1)
        assert "cut" not in env.step(FORWARD)[4]


def test_task_other_takes_any_minedojo_task(start_malmo) -> None:
    malmo = start_malmo()
    with closing(make("other", malmo, task_id="harvest_milk_with_empty_bucket_and_cow")) as env:
        _, info = env.reset(seed=0)
        assert info["context"] == {} and info["labels"] == []
        assert malmo.chat()[0].startswith("/summon cow")
    unknown = make("other", malmo, task_id="harvest_milkk")
    with closing(unknown), pytest.raises(ValueError, match="Did you mean 'harvest_milk'"):
        unknown.reset(seed=0)


FAMILIES = f"""
import sys
sys.path.append({str(WORKER.parent)!r})
import worker
worker.make_packages("environments.minecraft.remote")
from environments.minecraft.dojo import attach, make
from minedojo.sim.bridge.mc_instance import InstanceManager
from minedojo.tasks import ALL_TASKS_SPECS
for task in [*list(ALL_TASKS_SPECS)[::150], "creative:0", "playthrough", "open-ended"]:
    for _ in range(2):
        print(task, make(task, {{"image_size": (64, 64), "world_seed": 1}}, lidar=True).action_space.nvec.size)
attach(None)
print("ports", *(InstanceManager.get_instance(1).port for _ in range(3)))
"""


def test_tasks_of_all_families_can_be_created_twice_on_free_ports() -> None:
    done = subprocess.run([str(interpreter("minedojo")), "-c", FAMILIES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    created = [name for name, *rest in lines if rest == ["8"]]
    assert len(created) == 2 * len(set(created)) == 2 * (1 + 1573 // 150 + 3)
    [ports] = [set(map(int, rest)) for name, *rest in lines if name == "ports"]
    assert len(ports) == 3 and min(ports) > 15_000  # the default ports of MineDojo are above 9000, by process number


def test_port_without_listener_raises() -> None:
    options = minecraft.Defaults(existing_ports=(9,))
    env = minecraft.make("milk_cow", options)
    with closing(env), pytest.raises(ValueError, match="listens on port 9"):
        env.reset(seed=0)


def test_checks_report_all_parts() -> None:
    command = [str(interpreter("minedojo")), "-s", str(WORKER), "--check", "environments.minecraft.remote", "{}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    links = {name: (works, step) for name, works, _, step in map(json.loads, lines)}
    assert [name for name, (works, _) in links.items() if works][:5] == [
        "minedojo 0.1", "gym 0.21", "numpy 1", "import minedojo", "tasks can be made"
    ]  # fmt: skip
    assert all(step for works, step in links.values() if not works)
    assert list(links)[5:] == ["Java 8", "Minecraft with Malmo", "a display"]


def test_ppo_training_survives_a_killed_worker(start_malmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    malmo = start_malmo("--ports", "2")
    options = f"existing_ports: {list(malmo.ports)}, horizon: 20, image_size: [64, 64]"
    config = load_config(
        "minecraft/combat_spider/prompted",
        [
            "vlm=tiny",
            "vlm_options={new_tokens: 2}",
            "encoder_options={image_tokens: 16}",
            "network_options={width: 32, feedforward: 32, summary: 32}",
            "algorithm_options={n_steps: 32, batch_size: 32, n_epochs: 1}",
            f"environment_options={{{options}}}",
            "num_envs=2",
            "workers=0",
            "steps=256",
            "checkpoint_every=128",
            "evaluation_episodes=2",
        ],
    )
    killer = threading.Thread(target=_kill_one_worker, args=(malmo, 120, _workers()), daemon=True)
    killer.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run = train(config)
    killer.join()
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 256
    assert int(rows[-1]["restarts"]) >= 1
    assert json.loads((run / "results.json").read_text())


def _workers() -> set[psutil.Process]:
    """Return the workers of this process; each is the child of its guard."""
    guards = [child for child in psutil.Process().children() if str(WORKER) in child.cmdline()]
    return {worker for guard in guards for worker in guard.children()}


def _kill_one_worker(malmo: FakeMalmo, steps: int, others: set[psutil.Process]) -> None:
    """Kill a worker that is not in `others` when Malmo has received a number of steps."""
    while len(malmo.steps()) < steps:
        time.sleep(0.2)
    (_workers() - others).pop().send_signal(signal.SIGKILL)

"""`pr2l check` takes steps as the run does, and measures what one simulator takes before it makes all."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from toy_runs import TOY, TOY_WORLD

from pr2l.core.config import load_config
from pr2l.training import check as checks
from pr2l.training.check import Finding, findings
from pr2l.vlms.allocator import keep_freed_memory

LARGE = """
made = 0
class Large(Colours):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        global made
        made += 1
        self.memory = np.ones(5_000_000)
def make(task, options=None, *, split="train", labels=False):
    return Large(options or Defaults(), split, labels)
"""
DARK = """
class Dark(Colours):
    def _observation(self):
        observation = super()._observation()
        return {**observation, "frame": np.zeros_like(observation["frame"])}
def make(task, options=None, *, split="train", labels=False):
    return Dark(options or Defaults(), split, labels)
"""
SHIFTED = """
class Shifted(Colours):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.action_space = gym.spaces.Discrete(3, start=1)
def make(task, options=None, *, split="train", labels=False):
    return Shifted(options or Defaults(), split, labels)
"""
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
SHORT = ("algorithm_options={n_steps: 4, batch_size: 16, n_epochs: 1, head_sizes: [4]}",)


@pytest.fixture
def toy(write_plugin):
    """toy(override, ..., world=source, last=name): findings by name, up to the one named `last`; "" = all."""
    write_plugin("configs", "toy", yaml.safe_dump(TOY))

    def run(*overrides: str, world: str = TOY_WORLD, last: str = "") -> dict[str, Finding]:
        write_plugin("environments", "toy", world)
        by_name = {}
        for finding in findings(load_config("toy", [*SHORT, *overrides])):
            by_name[finding.what] = finding
            if finding.what == last:
                break
        return by_name

    return run


def failed(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if not finding.good]


def test_steps_are_reported(toy) -> None:
    found = toy()
    assert failed(found) == []
    description = found["environment steps"].description
    assert description.startswith(
        "8 random steps in each of 4: rewards from 0 to 1, 4 episodes ended, 2 contexts such as"
    )
    assert description.endswith("; in this process") and found["environment steps"].problem == ""
    assert "4 take " in found["simulators"].description


@pytest.mark.parametrize("way", ["workers=0", "workers=2", "isolated=true"])
def test_value_that_violates_the_contract_fails_in_every_way_to_run(toy, way: str) -> None:
    found = toy(way, "num_envs=1", "environment_options={nan_at: 3}")
    assert failed(found) == ["environment steps"]
    assert "step 3: the reward is nan; it must be finite" in found["environment steps"].problem
    assert "first steps" not in found


@pytest.mark.parametrize("overrides", [(), ("algorithm=bc", "algorithm_options={}")], ids=["ppo", "bc"])
def test_actions_that_do_not_start_at_0_fail(toy, overrides) -> None:
    found = toy(*overrides, world=TOY_WORLD + SHIFTED)
    assert failed(found) == ["environment"] and "has start=1" in found["environment"].problem


def test_error_of_the_simulator_is_a_finding_with_its_traceback(toy, capsys) -> None:
    found = toy("environment_options={crash_at: 3}")
    assert failed(found) == ["environment steps"]
    assert found["environment steps"].problem.startswith("RuntimeError: the toy engine has died\n")
    assert "Traceback" in capsys.readouterr().err


def test_cut_episode_fails(toy) -> None:
    with pytest.warns(UserWarning, match="the episode is cut"):
        found = toy("on_bad_value=truncate", "num_envs=1", "environment_options={nan_at: 3}", last="environment steps")
    assert failed(found) == ["environment steps"]
    assert "an episode was cut: toy/colours" in found["environment steps"].problem


def test_frames_of_one_colour_give_a_warning(toy) -> None:
    finding = toy(world=TOY_WORLD + DARK, last="environment steps")["environment steps"]
    assert finding.good and finding.problem == "every frame has one colour: does the simulator draw?"


def test_environments_beyond_memory_are_not_made(toy, monkeypatch) -> None:
    """One takes 40 MB, and two worker processes 120 MB, so 1 GB holds about 22 of 64."""
    keep_freed_memory()  # as a VLM does
    del [np.ones(5_000_000) for _ in range(5)][:]
    monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000_000))
    found = toy("num_envs=64", "workers=2", world=TOY_WORLD + LARGE)
    assert failed(found) == ["simulators"]
    assert "64 with 2 worker processes take 2." in found["simulators"].description
    assert found["simulators"].problem in [
        f"take num_envs={count} or less, or fewer workers" for count in range(18, 24)
    ]
    assert "policy" not in found and "environment steps" not in found

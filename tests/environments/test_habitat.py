"""The part of ObjectNav that needs no simulator."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from pr2l.environments.habitat import environment as habitat
from pr2l.environments.habitat import experts, shim
from pr2l.environments.habitat.houses import Piece
from pr2l.environments.habitat.paths import Floor
from pr2l.environments.isolation.interpreters import folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A file in place of the interpreter of the simulator; no test starts it."""
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    python = folder("habitat-lite") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/false")
    python.chmod(0o755)


def test_spaces_are_known_before_the_simulator_starts(installed) -> None:
    env = habitat.make("objectnav", habitat.Defaults(frame_size="320x240"))
    assert env.observation_space["frame"].shape == (240, 320, 3)
    assert env.observation_space["proprio"].shape == (14,)
    assert env.action_space.n == 4
    env.close()


def test_contexts_have_the_names_of_the_labels() -> None:
    row = habitat.TASKS["objectnav"]
    assert [context["target"] for context in row.contexts] == ["chair", "bed", "plant", "toilet", "tv", "sofa"]
    assert {context["target"] for context in row.contexts} < set(habitat.kinds("objectnav"))
    assert "fridge" in habitat.kinds("objectnav") and "office chair" not in habitat.kinds("objectnav")
    assert row.horizon == habitat.Defaults().horizon


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "objectnaw"}, "'objectnaw'.*Did you mean 'objectnav'"),
        ({"task": "objectnav", "split": "val"}, "'val'.*train or evaluation"),
    ],
)
def test_invalid_arguments_raise(installed, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        habitat.make(**arguments)


def test_missing_interpreter_raises_with_the_install_command(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    with pytest.raises(ValueError, match="pr2l sim install habitat-lite"):
        habitat.make("objectnav")
    with pytest.raises(ValueError, match="pr2l sim install habitat`"):
        habitat.make("objectnav", habitat.Defaults(scenes="hm3d"))


@pytest.mark.parametrize("options", [{"rooms": 2}, {"rooms": 9}, {"houses": 0}, {"scenes": "mp3d"}, {"room": 3}])
def test_invalid_options_raise(options) -> None:
    with pytest.raises(ValidationError):
        habitat.Defaults(**options)


def test_shim_makes_no_stubs_if_habitat_sim_is_installed(monkeypatch) -> None:
    stubs = []
    monkeypatch.setattr(shim, "_stub", lambda name, **attributes: stubs.append(name))
    monkeypatch.setattr(shim, "installed", lambda: True)
    shim.prepare()
    assert stubs == []
    monkeypatch.setattr(shim, "installed", lambda: False)
    shim.prepare()
    assert len(stubs) == 4


class Body:
    """What the oracle uses of the simulator, at the end of a wall at which the oracle once got stuck."""

    floor = Floor([(8.96, 3.7, 9.02, 5.8), (8.9, 3.7, 8.96, 5.8)], 0.18)
    habitat_config = SimpleNamespace(turn_angle=30)

    def __init__(self) -> None:
        self.position, self.heading = np.array([9.19757, 5.83315]), math.radians(129.427)

    def paths_to(self, goals):
        return self.floor.paths_to(np.array(goals))

    def ahead(self, heading):
        return self.position - 0.25 * np.array([math.sin(heading), math.cos(heading)])

    def take(self, action):
        if action == "move_forward":
            self.position, _ = self.floor.move(self.position, self.ahead(self.heading))
        else:
            self.heading += math.radians(30 if action == "turn_left" else -30)


def test_oracle_continues_if_a_step_on_the_shortest_path_is_blocked(monkeypatch) -> None:
    lattice = [(x, z) for x in np.arange(8.0, 8.6, 0.14) for z in np.arange(4.0, 4.6, 0.14)]
    monkeypatch.setattr(experts, "_view_points", lambda env: lattice)
    measurements = SimpleNamespace(success=SimpleNamespace(success_distance=0.1))
    task = SimpleNamespace(_config=SimpleNamespace(measurements=measurements))
    env = SimpleNamespace(sim=Body(), task=task)
    actions, expert = [], experts.Shortest()
    while len(actions) < 40 and (action := expert.action(env)) != "stop":
        actions.append(action)
        env.sim.take(action)
    assert len(actions) < 20
    assert env.sim.paths_to(lattice).distances(env.sim.position[None])[0] < 0.1


@pytest.mark.parametrize(
    "x, z, action",
    [(0, -1, "stop"), (-1, -1, "turn_left"), (1, -1, "turn_right"), (0.2, -1, "stop"), (-0.4, -1, "turn_left")],
)
def test_searching_oracle_turns_to_the_nearest_goal(x, z, action) -> None:
    """The agent looks north, along -z, and stops if the goal is within 15 degrees."""
    near, far = Piece("toilet", x, z, 0, 0, 0, 0), Piece("toilet", 5, 5, 0, 0, 0, 0)
    simulator = SimpleNamespace(position=np.zeros(2), heading=0.0)
    assert experts._face(simulator, {1: far, 2: near}) == action
    simulator.heading = 4 * math.pi
    assert experts._face(simulator, {1: far, 2: near}) == action

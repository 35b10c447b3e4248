"""ObjectNav's near side, which needs no simulator."""

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
    """An interpreter where the installed one would be; it is never started."""
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    python = folder("habitat-lite") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/false")
    python.chmod(0o755)


def test_the_space_is_known_before_the_simulator_starts(installed) -> None:
    env = habitat.make("objectnav", habitat.Defaults(frame_size="320x240"))
    assert env.observation_space["frame"].shape == (240, 320, 3)
    assert env.observation_space["proprio"].shape == (14,)
    assert env.action_space.n == 4
    env.close()


def test_the_context_names_every_category_as_the_labels_do() -> None:
    row = habitat.TASKS["objectnav"]
    assert [context["target"] for context in row.contexts] == ["chair", "bed", "plant", "toilet", "tv", "sofa"]
    assert {context["target"] for context in row.contexts} < set(habitat.kinds("objectnav"))
    assert "fridge" in habitat.kinds("objectnav") and "office chair" not in habitat.kinds("objectnav")
    assert row.horizon == habitat.Defaults().horizon


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "objectnaw"}, "'objectnaw' is not a task of habitat. Did you mean 'objectnav'"),
        ({"task": "objectnav", "split": "val"}, "'val' is not a split: train or evaluation"),
    ],
)
def test_errors_say_what_is_allowed(installed, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        habitat.make(**arguments)


def test_without_its_interpreter_it_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    with pytest.raises(ValueError, match="pr2l sim install habitat-lite"):
        habitat.make("objectnav")
    with pytest.raises(ValueError, match="pr2l sim install habitat`"):
        habitat.make("objectnav", habitat.Defaults(scenes="hm3d"))


@pytest.mark.parametrize("options", [{"rooms": 2}, {"rooms": 9}, {"houses": 0}, {"scenes": "mp3d"}, {"room": 3}])
def test_options_that_make_no_house_are_refused(options) -> None:
    with pytest.raises(ValidationError):
        habitat.Defaults(**options)


def test_the_shim_stands_aside_where_habitat_sim_is(monkeypatch) -> None:
    stubbed = []
    monkeypatch.setattr(shim, "_stub", lambda name, **attributes: stubbed.append(name))
    monkeypatch.setattr(shim, "installed", lambda: True)
    shim.prepare()
    assert stubbed == []
    monkeypatch.setattr(shim, "installed", lambda: False)
    shim.prepare()
    assert len(stubbed) == 4


class Body:
    """The part of the simulator that the oracle asks, at the end of a wall that once held it fast."""

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


def test_the_oracle_walks_on_where_a_step_on_the_shortest_way_is_blocked(monkeypatch) -> None:
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
def test_the_searching_oracle_faces_the_nearest_goal(x, z, action) -> None:
    """It looks north, along -z; 15 degrees to either side are near enough."""
    near, far_off = Piece("toilet", x, z, 0, 0, 0, 0), Piece("toilet", 5, 5, 0, 0, 0, 0)
    simulator = SimpleNamespace(position=np.zeros(2), heading=0.0)
    assert experts._face(simulator, {1: far_off, 2: near}) == action
    simulator.heading = 4 * math.pi
    assert experts._face(simulator, {1: far_off, 2: near}) == action

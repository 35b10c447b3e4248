"""ObjectNav's near side, which needs no simulator."""

import pytest
from pydantic import ValidationError

from environments import _habitat_shim as shim
from environments import habitat
from environments._interpreters import folder


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

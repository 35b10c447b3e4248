"""Detection and reports of calls that exceed their timeout."""

import io
import threading
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import toy_world
import yaml
from toy_runs import TOY, TOY_WORLD

from pr2l.core.config import load_config
from pr2l.environments.isolation import Timeouts
from pr2l.rollout import build, watchdog
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.watchdog import CallRecord, HangDetector

LIMITS = Timeouts(start=5, reset=3, step=2)


def test_only_a_call_over_the_limit_is_reported():
    record = CallRecord()
    detector = HangDetector(record, LIMITS)
    for step in range(9):  # many short calls, whose total exceeds the limit
        with record.during("step", seed=7, step=step):
            assert detector.after(1) is None
        assert detector.after(1) is None
    with record.during("step", seed=7, step=9):
        assert detector.after(1000) is None  # before the first observation, the detector itself may have been late
        assert detector.after(1.9) is None
        assert "step 9 of the episode with seed 7 has not ended for 3 s (timeouts.step is 2 s)" in detector.after(1)
        assert detector.after(1)
    assert detector.after(1) is None


@pytest.mark.parametrize(("call", "limit"), [("start", 5), ("reset", 3), ("step", 2)])
def test_calls_have_separate_limits(call, limit):
    record = CallRecord()
    detector = HangDetector(record, LIMITS)
    with record.during(call):
        assert detector.after(1) is None
        assert [detector.after(1) is not None for _ in range(6)] == [second >= limit for second in range(1, 7)]


def test_call_that_raises_has_ended():
    record = CallRecord()
    with pytest.raises(ZeroDivisionError), record.during("step"):
        raise ZeroDivisionError
    assert HangDetector(record, LIMITS).after(9) is None


class WaitingToy(toy_world.Colours):
    def __init__(self, resume):
        super().__init__(toy_world.Defaults(), "train", False)
        self.resume = resume

    def step(self, action):
        assert self.resume.wait(20)
        return super().step(action)


class Reports(io.StringIO):
    def __init__(self, after):
        super().__init__()
        self.after = after  # an event that the first report sets

    def write(self, text):
        super().write(text)
        self.after.set()
        return len(text)


def test_hanging_step_in_process_is_reported_once_with_its_line(monkeypatch):
    resume = threading.Event()
    reports = Reports(resume)
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    monkeypatch.setattr(watchdog.sys, "stderr", reports)
    make = partial(SeededEpisodes, WaitingToy(resume), lambda number: 70 + number)
    with closing(InProcessVecEnv([make], Timeouts(step=0.03))) as venv:
        venv.reset()
        venv.step(np.zeros(1, int))  # it continues when the report has been written
    text = reports.getvalue()
    assert text.startswith("environment 0: step 1 of the episode with seed 70 has not ended")
    assert "test_watchdog.py" in text and "self.resume.wait" in text
    assert text.count("has not ended") == 1


@pytest.fixture
def slow_run(write_plugin, monkeypatch):
    """Config of a run whose steps take longer than their limit."""
    write_plugin("environments", "toy", TOY_WORLD)
    write_plugin("configs", "toy", yaml.safe_dump(TOY))
    monkeypatch.setenv("TOY_DELAY", "0.4")
    monkeypatch.setattr(watchdog, "INTERVAL", 0.02)
    return lambda *overrides: load_config("toy", ["num_envs=1", "timeouts.step=0.06", *overrides])


def test_limits_of_a_config_apply_in_this_process(slow_run, capfd):
    with closing(build.environments(slow_run(), "train")) as venv:
        venv.reset()
        venv.step(np.zeros(1, int))
    assert "environment 0: step 1 of the episode" in capfd.readouterr().err


def test_limits_of_a_config_apply_in_workers(slow_run):
    with closing(build.environments(slow_run("workers=1"), "train")) as venv:
        venv.reset()
        with pytest.raises(RuntimeError, match="hangs: step 1 of the episode"):
            venv.step(np.zeros(1, int))


def test_failed_factory_closes_the_other_environments():
    def broken():
        raise ValueError("no engine")

    closed = []

    class Closed(toy_world.Colours):
        def close(self):
            closed.append(True)

    with pytest.raises(ValueError, match="no engine"):
        InProcessVecEnv([lambda: Closed(toy_world.Defaults(), "train", False), broken])
    assert closed == [True]

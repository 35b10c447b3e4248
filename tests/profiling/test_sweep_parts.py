"""Parts within a time limit: shares of the time, alarms, errors and Ctrl-C."""

import signal
import time
from contextlib import suppress
from functools import partial

import pytest

from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.profiling.measure import Measure, Unmeasured, exact
from pr2l.profiling.parts import AGAIN, OutOfTime, Part, alarm, run_parts, select
from pr2l.profiling.timing import Effort


def raising(error, effort):
    yield Measure("before", exact(1.0), "")
    raise error


def sleeping(seconds, effort):
    time.sleep(seconds)
    yield Measure("slept", exact(seconds), "")


def run(parts, minutes=None):
    saved = []
    save = lambda results: saved.append(len(results.measures))  # noqa: E731
    return run_parts(parts, Effort(), minutes, Console(quiet=True), save), saved


def test_part_that_fails_keeps_its_measures_and_does_not_stop_the_others():
    errors = [UserError("no Doom"), ValueError("a bug"), MemoryError(), OutOfTime()]
    parts = [Part(type(error).__name__, "x", partial(raising, error)) for error in errors]
    results, saved = run([*parts, Part("last", "x", partial(sleeping, 0))])
    assert results.unmeasured == {
        "UserError:x": "no Doom",
        "ValueError:x": "ValueError: a bug",
        "MemoryError:x": "out of memory",
        "OutOfTime:x": "not complete after its inf seconds",
    }
    assert results.failed and not results.interrupted
    assert saved == [1, 2, 3, 4, 5]


def test_ctrl_c_keeps_the_measures_and_skips_the_other_parts():
    parts = [Part("first", "x", partial(raising, KeyboardInterrupt())), Part("second", "x", partial(sleeping, 0))]
    results, saved = run(parts)
    assert results.interrupted and [measure.name for measure in results.measures] == ["before"]
    assert results.unmeasured == {"first:x": "interrupted", "second:x": "interrupted"} and saved == [1]


def test_ctrl_c_that_a_destructor_swallows_ends_the_part_at_its_next_measure():
    def measure(effort):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        yield Measure("next", exact(1.0), "")
        yield Measure("second", exact(1.0), "")

    handler = signal.getsignal(signal.SIGINT)
    results, _ = run([Part("first", "x", measure), Part("second", "x", partial(sleeping, 0))])
    assert results.interrupted and [measure.name for measure in results.measures] == ["next"]
    assert results.unmeasured == {"first:x": "interrupted", "second:x": "interrupted"}
    assert signal.getsignal(signal.SIGINT) is handler


def test_limit_is_shared_by_weight_and_ends_a_part_in_the_middle():
    parts = [Part("long", "x", partial(sleeping, 60), weight=3), Part("short", "x", partial(sleeping, 0.01), weight=1)]
    began = time.perf_counter()
    results, _ = run(parts, minutes=0.4 / 60)
    assert 0.3 <= time.perf_counter() - began < 3
    assert [measure.name for measure in results.measures] == ["slept"]
    assert results.unmeasured == {"long:x": "not complete after its 0 seconds"}


def test_parts_without_time_left_are_listed():
    results, _ = run([Part("a", "x", partial(sleeping, 0)), Part("b", "x", partial(sleeping, 0))], minutes=-1.0)
    assert results.unmeasured == {"a:x": "no time was left", "b:x": "no time was left"}


def test_part_lists_what_it_could_not_measure():
    results, _ = run([Part("a", "x", lambda effort: iter([Unmeasured("CUDA graphs", "no GPU")]))])
    assert results.unmeasured == {"CUDA graphs": "no GPU"} and not results.measures


def test_alarm_comes_again_if_a_destructor_swallows_it(monkeypatch):
    assert AGAIN < 10
    monkeypatch.setattr("pr2l.profiling.parts.AGAIN", 0.05)
    began = time.perf_counter()
    with pytest.raises(OutOfTime), alarm(0.01):
        try:
            time.sleep(5)
        except OutOfTime:
            time.sleep(5)
    assert time.perf_counter() - began < 2
    time.sleep(0.1)  # no alarm is left


def test_deadline_of_the_effort_is_the_end_of_the_part():
    deadlines = []

    def measure(effort):
        deadlines.append(effort.deadline - time.perf_counter())
        yield from ()

    run([Part("a", "x", measure, weight=1), Part("b", "x", measure, weight=1)], minutes=1.0)
    assert deadlines == [pytest.approx(30, abs=2), pytest.approx(60, abs=2)]


def test_select_returns_whole_shapes_and_single_parts_in_their_order():
    names = ["tiny:passes", "tiny:ppo", "llava:passes", "llava:ppo"]
    parts = [Part(*name.split(":"), lambda effort: iter([])) for name in names]
    assert [part.name for part in select(parts, ["llava:ppo", "tiny"])] == ["tiny:passes", "tiny:ppo", "llava:ppo"]
    with pytest.raises(UserError, match="Did you mean 'llava'"):
        select(parts, ["lava"])
    with pytest.raises(UserError, match=r"not among the parts of llava. Did you mean 'passes'"):
        select(parts, ["llava:pases"])

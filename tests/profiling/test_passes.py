"""Measurements of passes: names and values of the measures, differences of precision, and PPO in turn."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pr2l.core.types import Hidden
from pr2l.profiling import passes, precision, shapes, sweep, training
from pr2l.profiling.timing import Effort
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import Defaults

FAST = Effort(frames=2, rounds=1, seconds=0)


def hidden(states):
    states = torch.as_tensor(states)[:, None, :, None]  # one layer, width 1
    mask = torch.ones(len(states), states.shape[2], dtype=torch.bool)
    spans = {"image": slice(0, 1), "prompt": slice(1, 2), "generated": slice(2, states.shape[2])}
    return Hidden(states, mask, spans, [""] * len(states))


def test_rows_of_a_batch_are_compared_with_the_rows_alone_without_generated_tokens():
    """A VLM whose states in a batch of two are larger by a tenth of the other row's, except in generated tokens."""
    numbers = {1: [3.0, 4.0, 7.0], 2: [6.0, 8.0, 9.0]}

    def ask(frames, texts):
        rows = torch.tensor([numbers[int(frame.max())] for frame in frames])
        if len(rows) > 1:
            rows[:, :2] += 0.1 * rows[:, :2].flip(0)
            rows[:, 2] += 50
        return hidden(rows)

    frames = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (1, 2)])
    rms, largest = precision.of_rows("x", SimpleNamespace(hidden=ask), ask(frames, ["a", "b"]), frames, ["a", "b"])
    assert rms.value.value == pytest.approx(0.2) and largest.value.value == pytest.approx(0.8)


def test_states_are_compared_with_float32():
    full, lower = hidden([[3.0, 4.0, 0.0]]), hidden([[3.0, 5.0, 0.0]])
    difference, median, lowest = precision.to_float32("x", lower, full, 0.99)
    assert difference.value.value == pytest.approx(0.2)
    assert (median.value.value, lowest.value.value, median.verdict) == (1.0, 1.0, "reached (>= 0.99)")


def test_row_of_tiny_depends_on_the_batch_by_rounding_only():
    vlm = load_vlm("tiny", Defaults(generation="none"))
    frames, texts = passes.draw_frames(3), [passes.TEXT] * 3
    rms, largest = precision.of_rows("tiny", vlm, vlm.hidden(frames, texts), frames, texts)
    assert 0 <= rms.value.value < 1e-5 and 0 <= largest.value.value < 1e-4


@pytest.mark.slow
def test_generation_is_measured_with_each_method(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "small", shapes.SMALL_SHAPES["llava-7b"])
    measures = {measure.name: measure for measure in passes.generation("small", None, 2, FAST)}
    title = "small, 2 tokens"
    for name in ("notebook", "plain batch", "ours", "ours, int8"):
        assert measures[f"{title}: {name}"].unit == "frames/s"
        assert measures[f"{title}: {name}, memory at its peak"].value.value > 0
    assert measures[f"{title}: ours over notebook"].value.value > 0
    assert 0 < measures[f"{title}: int8: RMS difference to float32"].value.value < 0.05
    assert measures[f"{title}: int8: a row of the batch against the row alone, RMS difference"].value.value < 0.02


def test_sessions_run_in_turn_and_go_on_where_they_ended():
    config = training.configured("tiny", sweep.SMALL_TRAINING)
    order = []
    with closing(training.Session(config)) as session:
        run = session.run
        other = SimpleNamespace(run=lambda: order.append("other"))
        session.run = lambda: order.append("session") or run()
        clocks = training.run_in_turn({"session": session, "other": other}, Effort(rounds=2, seconds=0))
        assert order == ["session", "other"] * 3
        assert session.learner.num_timesteps == 3 * 8  # a warm-up and two rounds of 2 x 4 steps
    assert [clock.steps for clock in clocks["session"]] == [8, 8]
    assert all(min(clock.seconds.values()) > 0 for clock in clocks["session"])


@pytest.mark.slow
def test_ppo_is_compared_with_the_notebook():
    measures = list(training.against_the_notebook("tiny", "tiny", sweep.SMALL_TRAINING, FAST))
    ratios = [measure for measure in measures if measure.name.endswith("over the notebook's way")]
    assert [measure.verdict for measure in ratios] == ["undecided (>= 4)"] * 2  # one round has no interval
    shares = [measure.value.value for measure in measures if "share of time" in measure.name]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1.0)

"""The training loop: order of calls, exact resumption, and interrupts, which never leave half an update behind."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from pr2l.policies.base import Hooks
from pr2l.policies.common.loop import Loop, ShuffledSource, Update, deferred_signals


def create_loop(threads=1, rate=None):
    """Return a loop that fits y = 2 x + 1 with Adam, three points per update, and its linear layer."""
    torch.manual_seed(0)
    line = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(line.parameters(), lr=0.1)

    def update(source):
        x = torch.tensor(source.next_batch(3))[:, None]
        loss = ((line(x) - (2 * x + 1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return Update(3, {"loss": loss.item()})

    return Loop({"policy": line}, optimizer, update, rate, threads), line


def points():
    return ShuffledSource([float(x) for x in range(7)], seed=0)


class Recorder(Hooks):
    """Record the weights before each update, the calls, and the state before update number `snapshot_at`."""

    def __init__(self, snapshot_at=None, at_update=lambda: None):
        self.snapshot_at, self.at_update, self.weights, self.calls, self.snapshot = snapshot_at, at_update, [], [], None

    def on_update_start(self, learner):
        self.calls.append("start")
        if len(self.weights) == self.snapshot_at:
            self.snapshot = learner.state_dict()
        self.weights.append(weights_of(learner))

    def on_update(self, metrics):
        self.calls.append("update")
        self.at_update()

    def on_end(self, learner):
        self.calls.append("end")
        self.weights.append(weights_of(learner))


def weights_of(loop):
    return [value.tolist() for value in loop.modules["policy"].state_dict().values()]


def test_updates_run_until_the_number_of_steps_is_reached():
    loop, _ = create_loop()
    hooks = Recorder()
    loop.run(points(), 10, hooks)
    assert hooks.calls == ["start", "update"] * 4 + ["end"]
    assert loop.num_timesteps == 12


def test_learning_rate_of_each_update():
    rates = []
    loop, _ = create_loop(rate=lambda step, total: 1 - step / total)
    update = loop.update
    loop.update = lambda source: (rates.append(loop.optimizer.param_groups[0]["lr"]), update(source))[1]
    loop.run(points(), 12, Hooks())
    assert rates == [1, 0.75, 0.5, 0.25]


def test_resumed_loop_equals_uninterrupted_loop():
    expected, (loop, _) = Recorder(snapshot_at=3), create_loop()  # after 9 points, in the second epoch of 7
    loop.run(points(), 30, expected)
    tensors, values = expected.snapshot
    resumed, recorder = create_loop()[0], Recorder()
    resumed.load_state_dict(tensors, json.loads(json.dumps(values)))
    resumed.run(points(), 30, recorder)
    assert recorder.weights == expected.weights[3:] and len(recorder.weights) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_handled_after_the_update(number):
    """The signal arrives inside optimizer.step; the update is completed first."""
    expected, (loop, _) = Recorder(), create_loop()
    loop.run(points(), 30, expected)

    def stop(number, frame):
        raise SystemExit(128 + number)

    previous_handler = signal.signal(number, stop)
    try:
        loop, line = create_loop()
        step = loop.optimizer.step
        loop.optimizer.step = lambda: (loop.num_timesteps == 6 and os.kill(os.getpid(), number), step())
        hooks = Recorder(snapshot_at=3)
        with pytest.raises(SystemExit):
            loop.run(points(), 30, hooks)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, previous_handler)
    assert hooks.weights == expected.weights[:4] and loop.num_timesteps == 9
    recorder, resumed = Recorder(), create_loop()[0]
    resumed.load_state_dict(*hooks.snapshot)
    resumed.run(points(), 30, recorder)
    assert recorder.weights == expected.weights[3:]


def test_second_signal_is_handled_at_once():
    deferred = []
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            deferred.append(1)
    assert len(deferred) == 1


def test_signals_are_not_deferred_outside_the_main_thread():
    handler = signal.getsignal(signal.SIGINT)

    def handlers_in_a_block():
        with deferred_signals() as check:
            check()
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handlers_in_a_block).result() is handler


def test_state_dict_is_refused_after_an_exception_inside_an_update():
    """Half of the weights are changed then, so the state must not be saved under the step before."""
    loop, line = create_loop()

    def interrupted_step():
        with torch.no_grad():
            line.weight += 1
        raise KeyboardInterrupt

    loop.optimizer.step = interrupted_step
    with pytest.raises(KeyboardInterrupt):
        loop.run(points(), 30, Hooks())
    assert loop.updating
    with pytest.raises(RuntimeError, match="interrupted update"):
        loop.state_dict()


def test_modules_may_be_dicts_of_parameters():
    loop, line = create_loop()
    loop.modules = {"learning": dict(line.named_parameters())}
    loop.run(points(), 9, Hooks())
    tensors, values = loop.state_dict()
    other, other_line = create_loop()
    other.modules = {"learning": dict(other_line.named_parameters())}
    other.load_state_dict(tensors, values)
    assert torch.equal(other_line.weight, line.weight) and {"learning/weight", "learning/bias"} <= set(tensors)
    with pytest.raises(RuntimeError, match="other weights"):
        other.load_weights({"learning/weight": tensors["learning/weight"]})


def test_shuffled_source_yields_every_item_once_per_epoch():
    source = ShuffledSource(range(5), seed=1)
    epochs = [source.next_batch(5) for _ in range(20)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10 and source.epoch == 20
    resumed = ShuffledSource(range(5), seed=1)
    resumed.load_state_dict({"taken": 13})
    assert resumed.next_batch(7) == epochs[2][3:] + epochs[3]
    assert ShuffledSource(range(5), seed=2).next_batch(10) != epochs[0] + epochs[1]

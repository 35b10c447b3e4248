"""The training loop: order, exact resumption, and interrupts that never leave half an update behind."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from pr2l.policies.base import Hooks
from pr2l.policies.common.loop import Loop, ShuffledSource, Update


def make(threads=1, rate=None):
    """Fits y = 2 x + 1 with Adam, three points a time; every number drawn comes from the source."""
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
    """The weights before each update, what was called, and the state before the update of number `take_at`."""

    def __init__(self, take_at=None, at_update=lambda: None):
        self.take_at, self.at_update, self.weights, self.calls, self.taken = take_at, at_update, [], [], None

    def on_update_start(self, learner):
        self.calls.append("start")
        if len(self.weights) == self.take_at:
            self.taken = learner.state_dict()
        self.weights.append(fingerprint(learner))

    def on_update(self, metrics):
        self.calls.append("update")
        self.at_update()

    def on_end(self, learner):
        self.calls.append("end")
        self.weights.append(fingerprint(learner))


def fingerprint(loop):
    return [value.tolist() for value in loop.modules["policy"].state_dict().values()]


def test_updates_run_until_the_steps_are_done():
    loop, _ = make()
    hooks = Recorder()
    loop.run(points(), 10, hooks)
    assert hooks.calls == ["start", "update"] * 4 + ["end"]
    assert loop.num_timesteps == 12


def test_the_rate_of_an_update_is_that_of_its_own_steps():
    rates = []
    loop, _ = make(rate=lambda step, total: 1 - step / total)
    update = loop.update
    loop.update = lambda source: (rates.append(loop.optimizer.param_groups[0]["lr"]), update(source))[1]
    loop.run(points(), 12, Hooks())
    assert rates == [1, 0.75, 0.5, 0.25]


def test_a_restored_loop_goes_on_bit_for_bit():
    whole, (loop, _) = Recorder(take_at=3), make()  # 9 of 7 points: in the second pass
    loop.run(points(), 30, whole)
    tensors, values = whole.taken
    again, rest = make()[0], Recorder()
    again.load_state_dict(tensors, json.loads(json.dumps(values)))
    again.run(points(), 30, rest)
    assert rest.weights == whole.weights[3:] and len(rest.weights) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_update(number):
    """It comes inside optimizer.step: the update is still made whole."""
    undisturbed, (loop, _) = Recorder(), make()
    loop.run(points(), 30, undisturbed)

    def stop(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(number, stop)
    try:
        loop, line = make()
        step = loop.optimizer.step
        loop.optimizer.step = lambda: (loop.num_timesteps == 6 and os.kill(os.getpid(), number), step())
        hooks = Recorder(take_at=3)
        with pytest.raises(SystemExit):
            loop.run(points(), 30, hooks)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert hooks.weights == undisturbed.weights[:4] and loop.num_timesteps == 9
    rest, again = Recorder(), make()[0]
    again.load_state_dict(*hooks.taken)
    again.run(points(), 30, rest)
    assert rest.weights == undisturbed.weights[3:]


def test_an_exception_inside_an_update_leaves_no_state_to_save():
    """Half of the weights are changed when it comes; no state can be taken, so none is saved under the old step."""
    loop, line = make()

    def half_a_step():
        with torch.no_grad():
            line.weight += 1
        raise KeyboardInterrupt

    loop.optimizer.step = half_a_step
    with pytest.raises(KeyboardInterrupt):
        loop.run(points(), 30, Hooks())
    assert loop.updating
    with pytest.raises(RuntimeError, match="half done"):
        loop.state_dict()


def test_named_parameters_can_stand_for_a_module():
    loop, line = make()
    loop.modules = {"learning": dict(line.named_parameters())}
    loop.run(points(), 9, Hooks())
    tensors, values = loop.state_dict()
    other, other_line = make()
    other.modules = {"learning": dict(other_line.named_parameters())}
    other.load_state_dict(tensors, values)
    assert torch.equal(other_line.weight, line.weight) and {"learning/weight", "learning/bias"} <= set(tensors)
    with pytest.raises(RuntimeError, match="other weights"):
        other.load_weights({"learning/weight": tensors["learning/weight"]})


def test_every_item_comes_once_an_epoch_in_an_order_of_the_seed():
    source = ShuffledSource(range(5), seed=1)
    epochs = [source.next_batch(5) for _ in range(20)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10 and source.epoch == 20
    later = ShuffledSource(range(5), seed=1)
    later.load_state_dict({"taken": 13})
    assert later.next_batch(7) == epochs[2][3:] + epochs[3]
    assert ShuffledSource(range(5), seed=2).next_batch(10) != epochs[0] + epochs[1]

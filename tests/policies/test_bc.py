"""Behaviour cloning: weights and losses by hand, padding that cannot be seen, memory, and an exact way back."""

import json
import math

import numpy as np
import pytest
import torch
from token_world import created_for, token_worlds

from pr2l.policies import bc
from pr2l.policies.base import Hooks, Trajectory
from pr2l.policies.common.loop import ShuffledSource
from pr2l.policies.networks import mlp

SMALL = {"learning_rate": 0.01, "batch": 20, "forward": 3, "lstm_layers": 2, "lstm_size": 8, "device": "cpu"}
NETWORK = mlp.Defaults(hidden=(16,))
KINDS = 3


def model(seed=0, **options):
    options = bc.Defaults(**{**SMALL, **options})
    return bc.create(*created_for(token_worlds(kinds=KINDS)), mlp.Network, NETWORK, options, seed=seed)


def trajectory(actions, experts=None, seed=0):
    """Tokens that name the expert's action, as in the token world, in float16 as they come from a store."""
    experts = actions if experts is None else experts
    steps, last = len(actions), len(actions) - 1
    tokens = torch.zeros(steps + 1, 2, 8, dtype=torch.float16)
    tokens[torch.arange(steps), 0, torch.tensor(experts)] = 1
    proprio = torch.rand(steps + 1, 1, generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(steps)
    return Trajectory(
        observations={"tokens": tokens, "mask": torch.tensor([[True, False]]).repeat(steps + 1, 1), "proprio": proprio},
        actions=torch.tensor(actions),
        rewards=ones,
        terminated=torch.zeros(steps, dtype=torch.bool),
        truncated=torch.arange(steps) == last,
        monte_carlo_returns=ones,
        discounts=ones,
        expert_actions=torch.tensor(experts),
    )


def episodes(count=7, kinds=KINDS):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, count)
    return [trajectory(random.integers(kinds, size=n).tolist(), seed=i) for i, n in enumerate(lengths)]


class Recorder(Hooks):
    """Keeps a trace of the weights before each update, and a copy of everything at `take_at` updates."""

    def __init__(self, take_at=None):
        self.take_at, self.trace, self.taken, self.rows = take_at, [], None, []

    def on_update_start(self, learner):
        if len(self.trace) == self.take_at:
            self.taken = learner.state_dict()
        self.trace.append((learner.num_timesteps, fingerprint(learner)))

    def on_update(self, metrics):
        self.rows.append(metrics)


def observations_of(*trajectories):
    """At the steps, one trajectory after the other."""
    keys = trajectories[0].observations
    return {key: torch.cat([part.observations[key][: len(part)] for part in trajectories]) for key in keys}


def source(trajectories=None, seed=0):
    return ShuffledSource(episodes() if trajectories is None else trajectories, seed)


def fingerprint(trained):
    return [parameter.detach().double().sum().item() for parameter in trained.policy.parameters()]


def test_a_change_of_action_weighs_more():
    weights = bc.transition_weights(trajectory([2, 2, 0, 0, 1]), bc.Defaults())
    assert weights.tolist() == pytest.approx([1, 1, 3.48, 1, 3.48])


def test_a_label_is_compared_with_the_action_that_was_taken():
    """The noise turned the second action; the expert would not have turned, and then has to turn back."""
    weights = bc.transition_weights(trajectory(actions=[0, 1, 0], experts=[0, 0, 0]), bc.Defaults(inflection=5.0))
    assert weights.tolist() == [1, 1, 5]


def test_a_label_has_its_own_weight_on_top():
    options = bc.Defaults(inflection=4.0, action_weights=(1.5, 1.0, 2.0))
    assert bc.transition_weights(trajectory([0, 0, 2, 1]), options).tolist() == [1.5, 1.5, 8, 4]


def test_the_loss_is_the_weighted_sum_of_cross_entropies():
    """Even odds of two actions cost log 2; odds of 3 to 1 cost log 4/3 where right and log 4 where wrong."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [math.log(3), 0.0]])
    loss = bc.weighted_loss(logits, torch.tensor([1, 0, 1]), torch.tensor([1.0, 2.0, 3.48]))
    assert loss.item() == pytest.approx(math.log(2) + 2 * math.log(4 / 3) + 3.48 * math.log(4))


def test_an_update_reports_the_weighted_mean_and_takes_its_gradient():
    """A head of zeros gives even odds to three actions, so every transition costs log 3, whatever its weight."""
    cloner = model(batch=5, forward=1, max_grad_norm=1e9)
    torch.nn.init.zeros_(cloner.policy.head.weight), torch.nn.init.zeros_(cloner.policy.head.bias)
    update = cloner.update(source([trajectory([0, 0, 1, 2, 2])]))
    assert update.metrics["train/loss"] == pytest.approx(math.log(3))
    assert update.metrics["train/accuracy"] == 2 / 5  # the first of equal ones
    weights = torch.tensor([1, 1, 3.48, 3.48, 1])
    even = torch.full((5, 3), 1 / 3) - torch.eye(3)[[0, 0, 1, 2, 2]]
    expected = (weights[:, None] * even).sum(dim=0) / weights.sum()
    torch.testing.assert_close(cloner.policy.head.bias.grad, expected)
    assert (update.steps, update.metrics["train/epoch"]) == (5, 1)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_what_lies_beside_a_trajectory_changes_neither_its_loss_nor_its_gradient(layers):
    """Long and short ones together, against each alone: so where the short ones were filled up cannot be seen."""
    together = episodes(5)
    sums = []
    for groups in ([together], [[one] for one in together]):
        cloner, loss = model(lstm_layers=layers), 0.0
        for group in groups:
            logits = cloner.policy(observations_of(*group), [len(one) for one in group])
            experts = torch.cat([one.expert_actions for one in group])
            loss += bc.weighted_loss(logits, experts, torch.ones(len(experts)))
        loss.backward()
        sums.append([loss, *(parameter.grad for parameter in cloner.policy.parameters())])
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other)
    assert len({len(one) for one in together}) > 1


def test_chunks_of_an_update_change_nothing():
    """Accumulated over passes of one trajectory or of all, the gradient is that of the same mean."""
    after = []
    for forward in (1, 7):
        cloner = model(forward=forward, batch=sum(map(len, episodes())))
        update = cloner.update(source())
        assert (update.steps, update.metrics["train/epoch"]) == (sum(map(len, episodes())), 1)
        after.append([parameter.grad.clone() for parameter in cloner.policy.parameters()])
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layers", [0, 2])
def test_step_by_step_the_memory_is_that_of_the_whole(layers):
    """Two episodes in one environment and a longer one in another; the second begins with nothing in memory."""
    cloner = model(lstm_layers=layers)
    first, second, long = trajectory([0, 1], seed=1), trajectory([2, 2, 1], seed=2), trajectory([1, 0, 2, 2, 0], seed=3)
    seen = observations_of(first, second, long)
    whole = cloner.policy(seen, [2, 3, 5]).detach()
    memory, logits, starts = None, [], [True, False, True, False, False]
    cloner.policy.head.register_forward_hook(lambda head, given, result: logits.append(result))
    for time in range(5):
        observation = {key: part[[time, 5 + time]].numpy() for key, part in seen.items()}
        memory = cloner.act(observation, memory, np.array([starts[time], time == 0])).memory
    by_step = torch.stack(logits, dim=1).flatten(0, 1)
    torch.testing.assert_close(by_step, whole)
    assert (memory is None) == (layers == 0)


def test_actions_are_drawn_as_the_logits_say():
    cloner = model(lstm_layers=0)
    torch.nn.init.zeros_(cloner.policy.head.weight)
    cloner.policy.head.bias.data = torch.tensor([0.0, math.log(3), -1e9])
    observation = {key: part.numpy() for key, part in observations_of(trajectory([0] * 4000)).items()}
    torch.manual_seed(0)
    actions, _, log_probabilities = cloner.act(observation)
    drawn = np.bincount(actions, minlength=3)
    assert drawn[2] == 0 and 0.72 < drawn[1] / 4000 < 0.78  # three of four
    np.testing.assert_allclose(np.exp(log_probabilities), np.array([0.25, 0.75, 0])[actions], rtol=1e-5)
    assert (cloner.act(observation, greedy=True).actions == 1).all()


def test_learns_what_the_labels_say_and_not_what_was_done():
    experts = [one.expert_actions.tolist() for one in episodes(12)]
    noisy = [trajectory(actions=[(x + 1) % KINDS for x in one], experts=one) for one in experts]
    cloner, recorder, data = model(), Recorder(), source(noisy)
    cloner.learn(data, 3000, recorder)
    observation = {key: part.numpy() for key, part in observations_of(trajectory([0, 1, 2])).items()}
    assert cloner.act(observation, greedy=True).actions.tolist() == [0, 1, 2]
    assert recorder.rows[-1]["train/accuracy"] == 1
    assert recorder.rows[-1]["train/loss"] < 0.2 < 1 < recorder.rows[0]["train/loss"]
    assert recorder.rows[-1]["train/epoch"] == data.position / 12


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.01 * (1 - 96 / 120)), ("constant", 0.01)])
def test_the_learning_rate_falls_to_nothing_or_stays(schedule, last):
    """Twice three trajectories of four transitions make a batch of 20, so the last of five updates is after 96."""
    cloner = model(schedule=schedule)
    cloner.learn(source([trajectory([0, 1, 2, 0])]), 120, Hooks())
    assert cloner.num_timesteps == 120
    assert cloner.loop.optimizer.param_groups[0]["lr"] == pytest.approx(last)


def test_same_seed_same_weights():
    traces = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        model(seed).learn(source(seed=seed), 200, recorder)
        traces.append(recorder.trace)
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


@pytest.mark.parametrize("layers", [0, 2])
def test_a_restored_model_goes_on_bit_for_bit(layers):
    """Taken in the middle of an epoch."""
    options = {"lstm_layers": layers}
    whole, first = Recorder(take_at=3), model(**options)
    first.learn(source(), 300, whole)
    tensors, values = whole.taken
    second, rest = model(**options), Recorder()
    second.load_state_dict(tensors, json.loads(json.dumps(values)))
    assert values["source"]["taken"] % 7 != 0
    second.learn(source(), 300, rest)
    assert len(rest.trace) > 2 and rest.trace == whole.trace[3:]
    assert fingerprint(second) == fingerprint(first)


def test_a_state_from_before_the_common_loop_goes_on_too():
    whole = Recorder(take_at=3)
    model().learn(source(), 300, whole)
    tensors, values = whole.taken
    counters = {"num_timesteps": values["num_timesteps"], "trajectories": values["source"]["taken"]}
    second, rest = model(), Recorder()
    second.load_state_dict(tensors, {"counters": counters, "param_groups": values["param_groups"]})
    second.learn(source(), 300, rest)
    assert rest.trace == whole.trace[3:]


@pytest.mark.parametrize("forgotten", ["optimizer/", "source"])
def test_every_part_of_the_state_matters(forgotten):
    whole = Recorder(take_at=3)
    model().learn(source(), 300, whole)
    tensors, values = whole.taken
    tensors = {name: tensor * (not name.startswith(forgotten)) for name, tensor in tensors.items()}
    if forgotten == "source":
        values = {**values, "source": {"taken": 0}}
    second, rest = model(), Recorder()
    second.load_state_dict(tensors, values)
    second.learn(source(), 300, rest)
    assert rest.trace[0] == whole.trace[3] and rest.trace[1:] != whole.trace[4:]


def test_weights_for_other_actions_are_refused():
    with pytest.raises(ValueError, match="action_weights has 2 weights for 3 actions"):
        model(action_weights=(1.5, 1.0))

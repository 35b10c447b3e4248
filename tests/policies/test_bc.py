"""Behaviour cloning: weights and losses computed by hand, padding, memory, and exact resumption."""

import json
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from token_world import spaces_and_count, token_worlds

from pr2l.policies import bc
from pr2l.policies.base import Hooks, Trajectory
from pr2l.policies.common.loop import ShuffledSource
from pr2l.policies.networks import mlp

SMALL = {"learning_rate": 0.01, "batch": 20, "forward": 3, "lstm_layers": 2, "lstm_size": 8, "device": "cpu"}
NETWORK = mlp.Defaults(hidden=(16,))
NUM_ACTIONS = 3


def create(seed=0, **options):
    options = bc.Defaults(**{**SMALL, **options})
    return bc.create(*spaces_and_count(token_worlds(num_actions=NUM_ACTIONS)), mlp.Network, NETWORK, options, seed=seed)


def trajectory(actions, experts=None, seed=0):
    """Return a trajectory whose tokens name the expert's action, in float16 as in an embedding store."""
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


def episodes(count=7, num_actions=NUM_ACTIONS):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, count)
    return [trajectory(random.integers(num_actions, size=n).tolist(), seed=i) for i, n in enumerate(lengths)]


class Recorder(Hooks):
    """Record the sums of the weights before each update, and the state before update number `snapshot_at`."""

    def __init__(self, snapshot_at=None):
        self.snapshot_at, self.weight_sums, self.snapshot, self.metrics = snapshot_at, [], None, []

    def on_update_start(self, learner):
        if len(self.weight_sums) == self.snapshot_at:
            self.snapshot = learner.state_dict()
        self.weight_sums.append((learner.num_timesteps, weight_sums(learner)))

    def on_update(self, metrics):
        self.metrics.append(metrics)


def observations_of(*trajectories):
    """Return the observations at the steps of the trajectories, one after the other."""
    at_steps = [{key: values[: len(t)] for key, values in t.observations.items()} for t in trajectories]
    return {key: torch.cat([observations[key] for observations in at_steps]) for key in at_steps[0]}


def source(trajectories=None, seed=0):
    return ShuffledSource(episodes() if trajectories is None else trajectories, seed)


def weight_sums(learner):
    return [parameter.detach().double().sum().item() for parameter in learner.policy.parameters()]


def test_inflection_weights():
    weights = bc.transition_weights(trajectory([2, 2, 0, 0, 1]), bc.Defaults())
    assert weights.tolist() == pytest.approx([1, 1, 3.48, 1, 3.48])


def test_inflection_compares_the_expert_with_the_previous_taken_action():
    """Noise replaced the second action, so that the expert's third action differs from the one before."""
    weights = bc.transition_weights(trajectory(actions=[0, 1, 0], experts=[0, 0, 0]), bc.Defaults(inflection=5.0))
    assert weights.tolist() == [1, 1, 5]


def test_action_weights_multiply_inflection_weights():
    options = bc.Defaults(inflection=4.0, action_weights=(1.5, 1.0, 2.0))
    assert bc.transition_weights(trajectory([0, 0, 2, 1]), options).tolist() == [1.5, 1.5, 8, 4]


def test_weighted_loss_is_a_weighted_sum_of_cross_entropies():
    """Even odds of two actions cost log 2; odds of 3 to 1 cost log 4/3 where right and log 4 where wrong."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [math.log(3), 0.0]])
    loss = bc.weighted_loss(logits, torch.tensor([1, 0, 1]), torch.tensor([1.0, 2.0, 3.48]))
    assert loss.item() == pytest.approx(math.log(2) + 2 * math.log(4 / 3) + 3.48 * math.log(4))


def test_loss_and_gradient_of_an_update():
    """A head of zeros gives three actions the same probability, so the weighted mean of the loss is log 3."""
    cloner = create(batch=5, forward=1, max_grad_norm=1e9)
    torch.nn.init.zeros_(cloner.policy.head.weight), torch.nn.init.zeros_(cloner.policy.head.bias)
    update = cloner.update(source([trajectory([0, 0, 1, 2, 2])]))
    assert update.metrics["train/loss"] == pytest.approx(math.log(3))
    assert update.metrics["train/accuracy"] == 2 / 5  # argmax takes the first action
    weights = torch.tensor([1, 1, 3.48, 3.48, 1])
    gradient = torch.full((5, 3), 1 / 3) - torch.eye(3)[[0, 0, 1, 2, 2]]
    expected = (weights[:, None] * gradient).sum(dim=0) / weights.sum()
    torch.testing.assert_close(cloner.policy.head.bias.grad, expected)
    assert (update.steps, update.metrics["train/epoch"]) == (5, 1)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_loss_and_gradient_do_not_depend_on_the_batch(layers):
    """Long and short trajectories in one batch, which is padded, equal single trajectories."""
    trajectories = episodes(5)
    results = []
    for groups in ([trajectories], [[trajectory] for trajectory in trajectories]):
        cloner, loss = create(lstm_layers=layers), 0.0
        for group in groups:
            logits = cloner.policy(observations_of(*group), [len(trajectory) for trajectory in group])
            experts = torch.cat([trajectory.expert_actions for trajectory in group])
            loss += bc.weighted_loss(logits, experts, torch.ones(len(experts)))
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in cloner.policy.parameters())])
    for batched, single in zip(*results, strict=True):
        torch.testing.assert_close(batched, single)
    assert len({len(trajectory) for trajectory in trajectories}) > 1


def test_gradients_do_not_depend_on_the_size_of_a_pass():
    """Accumulated over passes of one trajectory, or of all at once, the gradient is that of the same mean."""
    gradients = []
    for forward in (1, 7):
        cloner = create(forward=forward, batch=sum(map(len, episodes())))
        update = cloner.update(source())
        assert (update.steps, update.metrics["train/epoch"]) == (sum(map(len, episodes())), 1)
        gradients.append([parameter.grad.clone() for parameter in cloner.policy.parameters()])
    for accumulated, at_once in zip(*gradients, strict=True):
        torch.testing.assert_close(accumulated, at_once)


@pytest.mark.parametrize("layers", [0, 2])
def test_acting_step_by_step_equals_whole_trajectories(layers):
    """Two episodes in one environment, a longer one in another; the second episode starts with an empty memory."""
    cloner = create(lstm_layers=layers)
    first, second, long = trajectory([0, 1], seed=1), trajectory([2, 2, 1], seed=2), trajectory([1, 0, 2, 2, 0], seed=3)
    observations = observations_of(first, second, long)
    whole = cloner.policy(observations, [2, 3, 5]).detach()
    memory, logits, starts = None, [], [True, False, True, False, False]
    cloner.policy.head.register_forward_hook(lambda head, inputs, result: logits.append(result))
    for time in range(5):
        observation = {key: values[[time, 5 + time]].numpy() for key, values in observations.items()}
        memory = cloner.act(observation, memory, np.array([starts[time], time == 0])).memory
    by_step = torch.stack(logits, dim=1).flatten(0, 1)
    torch.testing.assert_close(by_step, whole)
    assert (memory is None) == (layers == 0)


def test_actions_are_sampled_from_the_softmax():
    cloner = create(lstm_layers=0)
    torch.nn.init.zeros_(cloner.policy.head.weight)
    cloner.policy.head.bias.data = torch.tensor([0.0, math.log(3), -1e9])
    observation = {key: values.numpy() for key, values in observations_of(trajectory([0] * 4000)).items()}
    torch.manual_seed(0)
    actions, _, log_probabilities = cloner.act(observation)
    counts = np.bincount(actions, minlength=3)
    assert counts[2] == 0 and 0.72 < counts[1] / 4000 < 0.78  # 3 / 4
    np.testing.assert_allclose(np.exp(log_probabilities), np.array([0.25, 0.75, 0])[actions], rtol=1e-5)
    assert (cloner.act(observation, greedy=True).actions == 1).all()


def test_learns_expert_actions_instead_of_taken_actions():
    experts = [episode.expert_actions.tolist() for episode in episodes(12)]
    noisy = [
        trajectory(actions=[(action + 1) % NUM_ACTIONS for action in actions], experts=actions) for actions in experts
    ]
    cloner, recorder, data = create(), Recorder(), source(noisy)
    cloner.learn(data, 3000, recorder)
    observation = {key: values.numpy() for key, values in observations_of(trajectory([0, 1, 2])).items()}
    assert cloner.act(observation, greedy=True).actions.tolist() == [0, 1, 2]
    assert recorder.metrics[-1]["train/accuracy"] == 1
    assert recorder.metrics[-1]["train/loss"] < 0.2 < 1 < recorder.metrics[0]["train/loss"]
    assert recorder.metrics[-1]["train/epoch"] == data.position / 12


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.01 * (1 - 96 / 120)), ("constant", 0.01)])
def test_learning_rate_schedule(schedule, last):
    """Twice three trajectories of four transitions fill a batch of 20, so the last of five updates starts after 96."""
    cloner = create(schedule=schedule)
    cloner.learn(source([trajectory([0, 1, 2, 0])]), 120, Hooks())
    assert cloner.num_timesteps == 120
    assert cloner.loop.optimizer.param_groups[0]["lr"] == pytest.approx(last)


def test_seed_determines_the_weights():
    runs = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        create(seed).learn(source(seed=seed), 200, recorder)
        runs.append(recorder.weight_sums)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("layers", [0, 2])
def test_resumed_training_equals_uninterrupted_training(layers):
    """The snapshot is in the middle of an epoch."""
    options = {"lstm_layers": layers}
    expected, uninterrupted = Recorder(snapshot_at=3), create(**options)
    uninterrupted.learn(source(), 300, expected)
    tensors, values = expected.snapshot
    resumed, recorder = create(**options), Recorder()
    resumed.load_state_dict(tensors, json.loads(json.dumps(values)))
    assert values["source"]["taken"] % 7 != 0
    resumed.learn(source(), 300, recorder)
    assert len(recorder.weight_sums) > 2 and recorder.weight_sums == expected.weight_sums[3:]
    assert weight_sums(resumed) == weight_sums(uninterrupted)


def test_state_dict_of_an_earlier_version():
    expected = Recorder(snapshot_at=3)
    create().learn(source(), 300, expected)
    tensors, values = expected.snapshot
    counters = {"num_timesteps": values["num_timesteps"], "trajectories": values["source"]["taken"]}
    resumed, recorder = create(), Recorder()
    resumed.load_state_dict(tensors, {"counters": counters, "param_groups": values["param_groups"]})
    resumed.learn(source(), 300, recorder)
    assert recorder.weight_sums == expected.weight_sums[3:]


@pytest.mark.parametrize("prefix", ["optimizer/", "source"])
def test_resumed_training_differs_without_part_of_the_state(prefix):
    expected = Recorder(snapshot_at=3)
    create().learn(source(), 300, expected)
    tensors, values = expected.snapshot
    tensors = {name: tensor * (not name.startswith(prefix)) for name, tensor in tensors.items()}
    if prefix == "source":
        values = {**values, "source": {"taken": 0}}
    resumed, recorder = create(), Recorder()
    resumed.load_state_dict(tensors, values)
    resumed.learn(source(), 300, recorder)
    assert recorder.weight_sums[0] == expected.weight_sums[3] and recorder.weight_sums[1:] != expected.weight_sums[4:]


def test_only_discrete_actions_are_accepted():
    observation_space, _, count = spaces_and_count(token_worlds())
    for space, message in ((spaces.Box(-1, 1, (2,)), "discrete actions"), (spaces.Discrete(3, start=1), "add 1")):
        with pytest.raises(ValueError, match=message):
            bc.create(observation_space, space, count, mlp.Network, NETWORK, bc.Defaults(device="cpu"), seed=0)


def test_action_weights_must_fit_the_actions():
    with pytest.raises(ValueError, match="2 weights for 3 actions"):
        create(action_weights=(1.5, 1.0))

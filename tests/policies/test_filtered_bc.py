"""Filtered behaviour cloning: the loss by hand, which trajectories it imitates, and exact resumption."""

import json
import math

import pytest
import torch
from gymnasium import spaces
from token_world import token_space

from pr2l.policies import filtered_bc
from pr2l.policies.base import Hooks, Trajectory
from pr2l.policies.common.loop import ShuffledSource
from pr2l.policies.common.steps import flat_steps
from pr2l.policies.common.trajectory_filter import TrajectoryFilter
from pr2l.policies.losses.imitation import imitation_loss
from pr2l.policies.networks import mlp

SMALL = {"learning_rate": 0.01, "trajectories": 4, "device": "cpu"}


def episode(actions, success, right=None):
    """Return an episode of Discrete(3) actions; token 0 of an observation names an action, by default the one taken."""
    steps, names = len(actions), right or actions
    tokens = torch.zeros(steps + 1, 2, 8, dtype=torch.float16)
    tokens[torch.arange(steps), 0, torch.tensor(names)] = 1
    rewards = torch.zeros(steps)
    rewards[-1] = float(success)
    return Trajectory(
        observations={"tokens": tokens, "mask": torch.ones(steps + 1, 2, dtype=torch.bool)},
        actions=torch.tensor(actions),
        rewards=rewards,
        terminated=torch.arange(steps) == steps - 1,
        truncated=torch.zeros(steps, dtype=torch.bool),
        monte_carlo_returns=rewards[-1] * 0.5 ** torch.arange(steps - 1, -1, -1),
        discounts=0.5 * (torch.arange(steps) != steps - 1),
        expert_actions=torch.tensor(actions),
    )


def create(seed=0, **options):
    options = filtered_bc.Defaults(**{**SMALL, **options})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    return filtered_bc.create(token_space(2, 8, proprio=None), spaces.Discrete(3), 1, *network, options, seed=seed)


def successes_and_failures():
    """Return two successes with the named actions and eight failures with the next action."""
    names = [[0, 1, 2], [2, 0], [1, 1], [2, 1, 0], [0], [1, 2], [2, 2, 0], [0, 0], [1], [1, 0]]
    return [
        episode(right, True) if number < 2 else episode([(name + 1) % 3 for name in right], False, right)
        for number, right in enumerate(names)
    ]


class Recorder(Hooks):
    def __init__(self, snapshot_at=None):
        self.snapshot_at, self.snapshot, self.metrics = snapshot_at, None, []

    def on_update_start(self, learner):
        if len(self.metrics) == self.snapshot_at:
            self.snapshot = learner.state_dict()

    def on_update(self, metrics):
        self.metrics.append(metrics)


def test_flat_steps_of_two_trajectories():
    steps = flat_steps([episode([0, 1, 2], True), episode([2, 0], False)], torch.device("cpu"))
    assert len(steps) == 5 and len(steps.observations["tokens"]) == 7
    assert steps.before.tolist() == [0, 1, 2, 4, 5] and steps.firsts.tolist() == [0, 4]
    assert steps.trajectory.tolist() == [0, 0, 0, 1, 1] and steps.steps_to_end.tolist() == [2, 1, 0, 1, 0]
    assert steps.returns.tolist() == [0.25, 0.5, 1, 0, 0]
    assert steps.final_rewards.tolist() == steps.total_rewards.tolist() == [1, 0]
    assert steps.rows(steps.before)["tokens"][:, 0].argmax(dim=1).tolist() == steps.actions.tolist()


def test_imitation_loss_by_hand():
    """Probabilities 1/2, 1/4 and 1/4; the second trajectory does not pass. Weights 1, 0 and 2 of three steps."""
    policy = create().policy
    torch.nn.init.zeros_(policy.head.linear.weight)
    policy.head.linear.bias.data = torch.tensor([2.0, 1.0, 1.0]).log()
    steps = flat_steps([episode([0, 1, 2], True), episode([2, 0], False)], torch.device("cpu"))
    passed = torch.tensor([True, False])
    assert imitation_loss(policy, steps, passed).item() == pytest.approx((math.log(2) + 2 * math.log(4)) / 3)
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0, 5.0])
    loss = imitation_loss(policy, steps, passed, weights)
    assert loss.item() == pytest.approx((math.log(2) + 2 * math.log(4)) / 3)
    assert imitation_loss(policy, steps, torch.tensor([False, False])).item() == 0


def test_filter_remembers_the_last_scores():
    """Medians: of 0 0 0 it is 0, of 0 0 0 1 it is 0, of 0 1 1 0 it is 0.5, and of 1 0 0.5 1 it is 0.75."""
    trajectory_filter = TrajectoryFilter(filtered_bc.Defaults(quantile=0.5, history=4))
    batches = [torch.zeros(3), torch.ones(1), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0])]
    passed = [trajectory_filter.keep(batch, batch).tolist() for batch in batches]
    assert passed == [[True] * 3, [True], [True, False], [False, True]]
    assert [*trajectory_filter.scores] == [1, 0, 0.5, 1]


@pytest.mark.parametrize("quantile", [0.9, 0.0])
def test_failures_are_imitated_only_without_the_filter(quantile):
    """Failures are 80 % of the data. With quantile 0 every trajectory passes, and the policy follows the majority."""
    learner, recorder = create(quantile=quantile, trajectories=10), Recorder()
    learner.learn(ShuffledSource(successes_and_failures(), 0), 3000, recorder)
    observation = flat_steps([episode([0, 1, 2], True)], torch.device("cpu")).observations
    actions = learner.act({key: values[:3].numpy() for key, values in observation.items()}, greedy=True).actions
    assert actions.tolist() == ([0, 1, 2] if quantile else [1, 2, 0])
    assert recorder.metrics[-1]["train/kept"] == pytest.approx(0.2 if quantile else 1)


def test_nothing_is_learned_without_a_success():
    learner, recorder = create(successes_only=True), Recorder()
    before = learner.state_dict()[0]
    learner.learn(ShuffledSource(successes_and_failures()[2:], 0), 50, recorder)
    after = learner.state_dict()[0]
    assert all(torch.equal(before[name], after[name]) for name in before) and recorder.metrics[-1]["train/kept"] == 0


def test_multi_discrete_actions_are_learned():
    """Types tap, with a cell, and back; the token names the cell, and no token means back."""
    tokens = torch.zeros(6, 4, 8, dtype=torch.float16)
    tokens[torch.arange(4), torch.arange(4), 0] = 1
    actions = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]])
    ones = torch.ones(5)
    trajectory = Trajectory(
        {"tokens": tokens, "mask": torch.ones(6, 4, dtype=torch.bool)},
        actions, ones, ones > 1, ones > 1, ones, ones, actions,
    )  # fmt: skip
    options = filtered_bc.Defaults(**{**SMALL, "factors_of_type": ((1,), ()), "image_tokens": 4, "learning_rate": 0.05})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    learner = filtered_bc.create(
        token_space(4, 8, proprio=None), spaces.MultiDiscrete([2, 4]), 1, *network, options, seed=0
    )
    learner.learn(ShuffledSource([trajectory], 0), 3000, Hooks())
    result = learner.act({key: values[:5].numpy() for key, values in trajectory.observations.items()}, greedy=True)
    assert result.actions.tolist() == actions.tolist() and (result.log_probabilities > math.log(0.9)).all()


def test_resumed_training_equals_uninterrupted_training():
    """The history of the filter is part of the state: with 3 scores, the cutoff depends on the last batches."""
    options = {"trajectories": 3, "history": 5, "quantile": 0.7}
    expected, uninterrupted = Recorder(snapshot_at=4), create(**options)
    uninterrupted.learn(ShuffledSource(successes_and_failures(), 0), 60, expected)
    tensors, values = expected.snapshot
    for seed, same in ((1, True), (1, False)):
        resumed, recorder = create(seed, **options), Recorder()
        resumed.load_state_dict(tensors, json.loads(json.dumps(values if same else {**values, "scores": []})))
        resumed.learn(ShuffledSource(successes_and_failures(), 0), 60, recorder)
        assert (recorder.metrics == expected.metrics[4:]) == same


def test_same_seed_gives_the_same_policy():
    runs = []
    for seed in (0, 0, 1):
        learner = create(seed)
        learner.learn(ShuffledSource(successes_and_failures(), seed), 60, Hooks())
        runs.append(learner.state_dict()[0]["policy/head.linear.weight"])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])

"""Digi-Q: losses and extraction by hand, values of a world that is known exactly, and exact resumption."""

import json
import math
from dataclasses import replace

import pytest
import torch
from test_filtered_bc import Recorder
from touch_world import BACK, FACTORS_OF_TYPE, TAP, TouchWorld, all_pages, all_right, every_step, random_episodes
from transitions import TransitionList

from pr2l.policies import digiq
from pr2l.policies.base import Hooks
from pr2l.policies.networks import mlp

GAMMA = 0.9
SMALL = {
    "learning_rate": 0.003, "batch_size": 64, "device": "cpu", "gamma": GAMMA, "critic_sizes": (32,), "action_size": 8,
    "factors_of_type": FACTORS_OF_TYPE, "image_tokens": 4,
}  # fmt: skip


def create(seed=0, **options):
    world, options = TouchWorld(), digiq.Defaults(**{**SMALL, **options})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    return digiq.create(world.observation_space, world.action_space, 1, *network, options, seed=seed)


class Numbers:
    """Stand-in for a critic whose values are given numbers."""

    def __init__(self, values, action_values):
        self.states, self.actions = torch.tensor(values), torch.tensor(action_values)

    def features(self, observations):
        return observations["tokens"]

    def values(self, features):
        return self.states.expand(len(features), 2)

    def action_values(self, features, actions, observations):
        return self.actions[actions[..., 0]]  # by type


def batch(steps=((0, 1, 0.95),)):
    """Return transitions with (type, reward, discount) of each row."""
    rows = TransitionList(random_episodes(1, horizon=9), 0).next_batch(len(steps))
    types, rewards, discounts = zip(*steps, strict=True)
    actions = torch.tensor([[action_type, 0] for action_type in types])
    return replace(rows, actions=actions, rewards=torch.tensor(rewards), discounts=torch.tensor(discounts))


def test_bellman_losses_by_hand():
    """Two rows, a tap with reward 0 and a `back` that ends the episode with reward 1; gamma is 0.9.

    Q targets    0.9 (0.5, 0.8) = (0.45, 0.72)    1
    Q            (0.25, 0.72)                     (1, 0.5)
    V targets    Q' of a~ = back, back: (0.9, 0.6) in both rows
    V            (0.7, 0.6)
    """
    critic = Numbers([0.7, 0.6], [[0.25, 0.72], [1.0, 0.5]])
    target = Numbers([0.5, 0.8], [[9.0, 9.0], [0.9, 0.6]])
    rows = batch([(TAP, 0.0, 0.9), (BACK, 1.0, 0.0)])
    losses = digiq.bellman_losses(critic, target, rows, rows.actions, torch.tensor([[BACK, 0]] * 2))
    assert losses.action_values.item() == pytest.approx((0.2**2 + 0 + 0 + 0.5**2) / 2)
    assert losses.values.item() == pytest.approx(0.2**2)


@pytest.mark.parametrize(("reduction", "expected"), [("min", [0.1, -0.3]), ("max", [0.6, -0.2])])
def test_advantages_by_hand(reduction, expected):
    """Q is (0.5, 1.2) of a tap and (0.1, 0.4) of `back`; V is (0.4, 0.6)."""
    critic = create().critic
    critic.values = lambda features: torch.tensor([[0.4, 0.6]])
    critic.action_values = lambda *_: torch.tensor([[[0.5, 1.2]], [[0.1, 0.4]]])
    observation = batch().observations
    advantages = critic.advantages(torch.tensor([[[TAP, 0]], [[BACK, 0]]]), observation, reduction)
    assert advantages[:, 0].tolist() == pytest.approx(expected)


def test_best_of():
    actions = torch.arange(6).view(3, 2, 1)  # three actions of two observations
    best, advantages = digiq.best_of(actions, torch.tensor([[0.1, 0.5], [0.3, -1.0], [0.2, 0.5]]))
    assert best.tolist() == [[2], [1]] and advantages.tolist() == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"extraction": "sft"}, [1, 1]),
        ({"extraction": "awr", "temperature": 0.5}, [math.exp(0.2), math.exp(-0.4)]),
        ({"extraction": "awr", "temperature": 0.01, "max_weight": 7}, [7, math.exp(-20)]),
    ],
)
def test_weights_of_the_data_s_actions_by_hand(options, weights):
    """The advantages are 0.1 of the tap and -0.2 of `back`."""
    learner, actions = create(), torch.tensor([[TAP, 2], [BACK, 0]])
    learner.critic.advantages = lambda *_: torch.tensor([0.1, -0.2])
    options = digiq.Defaults(**options)
    chosen = digiq.extraction(learner.critic, learner.policy, None, {}, actions, options)
    assert torch.equal(chosen.actions, actions) and chosen.weights.tolist() == pytest.approx(weights)


@pytest.mark.parametrize(("threshold", "weights"), [(0.05, [1, 1]), (0.25, [1, 0])])
def test_best_of_n_takes_a_proposed_action_over_the_data_s(threshold, weights):
    """The advantage of a tap is its cell / 10, that of `back` is 0.2: the data's action in row 1 is the best there."""
    learner, options = create(), digiq.Defaults(threshold=threshold, n=200)
    learner.critic.advantages = lambda actions, *_: torch.where(actions[..., 0] == BACK, 0.2, actions[..., 1] / 10)
    learner.behaviour.head.pointer.bias.data[3] = -1e4  # never proposes cell 3
    observations = {key: torch.cat([value] * 2) for key, value in batch().observations.items()}
    actions = torch.tensor([[TAP, 3], [BACK, 0]])
    chosen = digiq.extraction(learner.critic, learner.policy, learner.behaviour, observations, actions, options)
    assert chosen.actions[0].tolist() == [TAP, 3] and chosen.actions[1].tolist() in ([BACK, 0], [TAP, 2])
    assert chosen.weights.tolist() == weights


def test_policy_gradient_samples_the_policy():
    learner, options = create(), digiq.Defaults(extraction="pg")
    learner.critic.advantages = lambda actions, *_: actions[:, 1] - 1.0
    learner.policy.head.linear.bias.data = torch.tensor([1e4, 0.0])  # taps
    learner.policy.head.pointer.bias.data[2] = 1e4
    chosen = digiq.extraction(
        learner.critic, learner.policy, None, batch().observations, torch.tensor([[BACK, 0]]), options
    )
    assert chosen.actions.tolist() == [[TAP, 2]] and chosen.weights.tolist() == [1]


def test_target_is_a_copy_that_follows_the_critic():
    """After one update with tau = 0.25, the target is 3/4 of the first critic and 1/4 of the next one."""
    learner = create(tau=0.25)
    first = {name: tensor.clone() for name, tensor in learner.critic.state_dict().items()}
    assert all(torch.equal(first[name], tensor) for name, tensor in learner.target.state_dict().items())
    learner.learn(TransitionList(random_episodes(20), 0), 1, Hooks())
    critic = learner.critic.state_dict()
    assert not all(torch.equal(first[name], critic[name]) for name in first)
    for name, tensor in learner.target.state_dict().items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * critic[name])


def values_of_all_pages(learner):
    """Return the mean Q of both heads of the right tap, a wrong tap and `back`, and of V, each on two kinds of page."""
    observation = {key: torch.from_numpy(value) for key, value in all_pages().items()}
    actions = {"right": [[TAP, cell] for cell in (0, 1, 2, 3, 0)], "wrong": [[TAP, cell] for cell in (1, 2, 3, 0, 0)]}
    actions["back"] = [[BACK, 0]] * 5
    with torch.no_grad():
        features = learner.critic.features(observation)
        values = {
            name: learner.critic.action_values(features, torch.tensor(rows), observation).mean(dim=-1)
            for name, rows in actions.items()
        }
        values["state"] = learner.critic.values(features).mean(dim=-1)
    return {name: (row[:4], row[4].item()) for name, row in values.items()}


def train(**options):
    """Make 500 updates, each on all 40 different steps of the world."""
    learner = create(schedule="linear", **{"learning_rate": 0.01, "batch_size": 40, **options})
    learner.learn(TransitionList(every_step(GAMMA), 0), 40 * 500, Hooks())
    return learner


def assert_values(learner, expected, tolerance):
    values = values_of_all_pages(learner)
    for name, (first, last) in expected.items():
        assert values[name][0].tolist() == pytest.approx([first] * 4, abs=tolerance), name
        assert values[name][1] == pytest.approx(last, abs=tolerance), name


def test_values_of_random_play_are_exact():
    """With v of the last page, where `back` has probability 1/2, and u of the others, where 1 of 8 actions is right:

    v = 1/2 + 1/2 gamma v                    u = 1/8 gamma v + 7/8 gamma u
    """
    v = 0.5 / (1 - 0.5 * GAMMA)
    u = GAMMA * v / 8 / (1 - 7 / 8 * GAMMA)
    expected = {
        "right": (GAMMA * v, GAMMA * v),
        "wrong": (GAMMA * u, GAMMA * v),
        "back": (GAMMA * u, 1),
        "state": (u, v),
    }
    assert_values(train(extraction="sft"), expected, tolerance=0.01)


@pytest.mark.slow
def test_values_of_the_policy_are_exact_with_its_actions_in_the_backup():
    """Best-of-n makes the policy right, so the values of the pages are gamma and 1, more than those of random play."""
    learner = train(n=8, backup="policy", threshold=0.01)
    result = learner.act(all_pages(), greedy=True)
    assert all_right(result.actions) and (result.log_probabilities > math.log(0.9)).all()
    expected = {"right": (GAMMA, GAMMA), "wrong": (GAMMA**2, GAMMA), "back": (GAMMA**2, 1), "state": (GAMMA, 1)}
    assert_values(learner, expected, tolerance=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reduction": "max"}, {"backup": "behaviour"}])
def test_best_of_n_finds_the_right_actions_in_random_play(options):
    learner = train(n=8, **options)
    result = learner.act(all_pages(), greedy=True)
    assert all_right(result.actions) and (result.log_probabilities > math.log(0.9)).all()


@pytest.mark.parametrize("options", [{}, {"extraction": "pg", "backup": "policy", "critic_updates": 6}])
def test_resumed_training_equals_uninterrupted_training(options):
    """Proposed actions are random, so that the random generators are part of the state, as is the target."""
    episodes = random_episodes(40)
    expected, uninterrupted = Recorder(snapshot_at=4), create(schedule="linear", **options)
    uninterrupted.learn(TransitionList(episodes, 0), 640, expected)
    tensors, values = expected.snapshot
    resumed, recorder = create(seed=1, schedule="linear", **options), Recorder()
    torch.manual_seed(99)
    resumed.load_state_dict(tensors, json.loads(json.dumps(values)))
    resumed.learn(TransitionList(episodes, 0), 640, recorder)
    assert len(recorder.metrics) == 6 and recorder.metrics == expected.metrics[4:]
    ours, theirs = uninterrupted.state_dict()[0], resumed.state_dict()[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(name.startswith("target/") for name in ours)

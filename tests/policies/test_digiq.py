"""Digi-Q: losses and extraction by hand, values of a world that is known exactly, and exact resumption."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_filtered_bc import Recorder
from touch_world import BACK, FACTORS_OF_TYPE, TAP, TouchWorld, all_pages, all_right, every_step, random_episodes
from transitions import TransitionList

from pr2l.policies import digiq
from pr2l.policies.base import Hooks, UserError
from pr2l.policies.digiq import Candidates
from pr2l.policies.networks import mlp

GAMMA = 0.9
SMALL = {
    "learning_rate": 0.003, "batch_size": 64, "device": "cpu", "gamma": GAMMA, "critic_sizes": (32,), "action_size": 8,
    "factors_of_type": FACTORS_OF_TYPE, "image_tokens": 4,
}  # fmt: skip


def create(seed=0, **options):
    world, options = TouchWorld(), digiq.Defaults(**{**SMALL, **options})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    space = world.observation_space
    if options.action_features != "heads":
        space = spaces.Dict({**space, "action_features": spaces.Box(-np.inf, np.inf, (options.n, 40), np.float16)})
    return digiq.create(space, world.action_space, 1, *network, options, seed=seed)


ALL_ACTIONS = torch.tensor([[kind, cell] for kind in (TAP, BACK) for cell in range(4)])


def features_of(tokens, actions):
    """Return features that say exactly what the page and the action are: one-hot vectors [B, 40] or [B, N, 40]."""
    page = torch.where(tokens[:, :, 1].any(dim=1), 4, tokens[:, :, 0].float().argmax(dim=1))
    page = page.view(-1, *[1] * (actions.ndim - 2))
    return torch.eye(40)[8 * page + 4 * actions[..., 0] + actions[..., 1]]


class WithCandidates(TransitionList):
    """Transitions with all eight actions as candidates, the taken one first."""

    def next_batch(self, count):
        rows = super().next_batch(count)
        others = [ALL_ACTIONS[(taken != ALL_ACTIONS).any(dim=1)] for taken in rows.actions]
        candidates = torch.stack([torch.cat([a[None], b]) for a, b in zip(rows.actions, others, strict=True)])
        features = features_of(rows.observations["tokens"], candidates)
        return replace(rows, proposed_actions=candidates, action_features=features.half())


def candidates_of(learner, rows, observation):
    """Return actions as the critic of a learner takes them."""
    actions, features = torch.tensor(rows), learner.options.action_features != "heads"
    return Candidates(actions, features_of(observation["tokens"], actions) if features else None)


class Numbers:
    """Stand-in for a critic whose values are given numbers."""

    def __init__(self, values, action_values):
        self.states, self.actions = torch.tensor(values), torch.tensor(action_values)

    def features(self, observations):
        return observations["tokens"]

    def values(self, features):
        return self.states.expand(len(features), 2)

    def action_values(self, features, candidates, observations):
        return self.actions[candidates.actions[..., 0]]  # by type


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
    taken, backup = Candidates(rows.actions), Candidates(torch.tensor([[BACK, 0]] * 2))
    losses = digiq.bellman_losses(critic, target, rows, taken, backup)
    assert losses.action_values.item() == pytest.approx((0.2**2 + 0 + 0 + 0.5**2) / 2)
    assert losses.values.item() == pytest.approx(0.2**2)


@pytest.mark.parametrize(("reduction", "expected"), [("min", [0.1, -0.3]), ("max", [0.6, -0.2])])
def test_advantages_by_hand(reduction, expected):
    """Q is (0.5, 1.2) of a tap and (0.1, 0.4) of `back`; V is (0.4, 0.6)."""
    critic = create().critic
    critic.values = lambda features: torch.tensor([[0.4, 0.6]])
    critic.action_values = lambda *_: torch.tensor([[[0.5, 1.2]], [[0.1, 0.4]]])
    observation = batch().observations
    advantages = critic.advantages(Candidates(torch.tensor([[[TAP, 0]], [[BACK, 0]]])), observation, reduction)
    assert advantages[:, 0].tolist() == pytest.approx(expected)


def test_best_of():
    actions = torch.arange(6).view(3, 2, 1)  # three actions of two observations
    best, advantages = digiq.best_of(Candidates(actions), torch.tensor([[0.1, 0.5], [0.3, -1.0], [0.2, 0.5]]))
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
    chosen = digiq.extraction(learner.critic, learner.policy, {}, Candidates(actions), None, options)
    assert torch.equal(chosen.actions, actions) and chosen.weights.tolist() == pytest.approx(weights)


@pytest.mark.parametrize(("threshold", "weights"), [(0.05, [1, 1]), (0.25, [1, 0])])
def test_best_of_n_takes_a_proposed_action_over_the_data_s(threshold, weights):
    """The advantage of a tap is its cell / 10, that of `back` is 0.2: the data's action in row 1 is the best there."""
    learner, options = create(), digiq.Defaults(threshold=threshold, n=3)

    def advantages(candidates, *_):
        return torch.where(candidates.actions[..., 0] == BACK, 0.2, candidates.actions[..., 1] / 10)

    learner.critic.advantages = advantages
    taken = torch.tensor([[TAP, 3], [BACK, 0]])
    candidates = Candidates(torch.stack([taken, torch.tensor([[TAP, 1]] * 2), torch.tensor([[BACK, 0], [TAP, 1]])]))
    chosen = digiq.extraction(learner.critic, learner.policy, {}, Candidates(taken), candidates, options)
    assert chosen.actions.tolist() == [[TAP, 3], [BACK, 0]] and chosen.weights.tolist() == weights


def test_cloned_policy_proposes_candidates():
    """The candidates are the data's action and n - 1 samples of the cloned policy, which never taps cell 3."""
    learner, seen = create(n=200), []
    learner.critic.advantages = lambda candidates, *_: seen.append(candidates) or candidates.actions[..., 1].float()
    learner.behaviour.head.pointer.bias.data[3] = -1e4
    learner.policy_loss(batch().observations, Candidates(torch.tensor([[TAP, 3]])), None)
    (candidates,) = seen
    assert candidates.features is None and candidates.actions.shape == (200, 1, 2)
    assert candidates.actions[0].tolist() == [[TAP, 3]]
    assert set(candidates.actions[1:, 0, 1].tolist()) == {0, 1, 2}  # `back` has 0


def test_policy_gradient_samples_the_policy():
    learner, options = create(), digiq.Defaults(extraction="pg")
    learner.critic.advantages = lambda candidates, *_: candidates.actions[:, 1] - 1.0
    learner.policy.head.linear.bias.data = torch.tensor([1e4, 0.0])  # taps
    learner.policy.head.pointer.bias.data[2] = 1e4
    taken = Candidates(torch.tensor([[BACK, 0]]))
    chosen = digiq.extraction(learner.critic, learner.policy, batch().observations, taken, None, options)
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
            name: learner.critic.action_values(features, candidates_of(learner, rows, observation), observation).mean(
                dim=-1
            )
            for name, rows in actions.items()
        }
        values["state"] = learner.critic.values(features).mean(dim=-1)
    return {name: (row[:4], row[4].item()) for name, row in values.items()}


def train(**options):
    """Make 500 updates, each on all 40 different steps of the world."""
    learner = create(schedule="linear", **{"learning_rate": 0.01, "batch_size": 40, **options})
    source = TransitionList if learner.options.action_features == "heads" else WithCandidates
    learner.learn(source(every_step(GAMMA), 0), 40 * 500, Hooks())
    return learner


def assert_values(learner, expected, tolerance):
    values = values_of_all_pages(learner)
    for name, (first, last) in expected.items():
        assert values[name][0].tolist() == pytest.approx([first] * 4, abs=tolerance), name
        assert values[name][1] == pytest.approx(last, abs=tolerance), name


@pytest.mark.parametrize("features", ["heads", pytest.param("text", marks=pytest.mark.slow)])
def test_values_of_random_play_are_exact(features):
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
    assert_values(train(extraction="sft", action_features=features, n=8), expected, tolerance=0.01)


@pytest.mark.slow
def test_values_of_the_policy_are_exact_with_its_actions_in_the_backup():
    """Best-of-n makes the policy right, so the values of the pages are gamma and 1, more than those of random play."""
    learner = train(n=8, backup="policy", threshold=0.01)
    result = learner.act(all_pages(), greedy=True)
    assert all_right(result.actions) and (result.log_probabilities > math.log(0.9)).all()
    expected = {"right": (GAMMA, GAMMA), "wrong": (GAMMA**2, GAMMA), "back": (GAMMA**2, 1), "state": (GAMMA, 1)}
    assert_values(learner, expected, tolerance=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reduction": "max"}, {"backup": "behaviour"}, {"action_features": "text"}])
def test_best_of_n_finds_the_right_actions_in_random_play(options):
    learner = train(n=8, **options)
    result = learner.act(all_pages(), greedy=True)
    assert all_right(result.actions) and (result.log_probabilities > math.log(0.9)).all()


FEATURES = {"action_features": "text", "n": 8}


@pytest.mark.parametrize(
    "options",
    [{}, {"extraction": "pg", "backup": "policy", "critic_updates": 6}, {**FEATURES, "backup": "behaviour"}],
)
def test_resumed_training_equals_uninterrupted_training(options):
    """Proposed actions are random, so that the random generators are part of the state, as is the target."""
    episodes, source = random_episodes(40), WithCandidates if "action_features" in options else TransitionList
    expected, uninterrupted = Recorder(snapshot_at=4), create(schedule="linear", **options)
    uninterrupted.learn(source(episodes, 0), 640, expected)
    tensors, values = expected.snapshot
    resumed, recorder = create(seed=1, schedule="linear", **options), Recorder()
    torch.manual_seed(99)
    resumed.load_state_dict(tensors, json.loads(json.dumps(values)))
    resumed.learn(source(episodes, 0), 640, recorder)
    assert len(recorder.metrics) == 6 and recorder.metrics == expected.metrics[4:]
    ours, theirs = uninterrupted.state_dict()[0], resumed.state_dict()[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(name.startswith("target/") for name in ours)


def test_candidate_keeps_its_feature():
    actions, features = torch.arange(6).view(3, 2, 1), torch.arange(12.0).view(3, 2, 2)
    chosen = Candidates(actions, features).select(torch.tensor([2, 1]))
    assert chosen.actions.tolist() == [[4], [3]] and chosen.features.tolist() == [[8.0, 9.0], [6.0, 7.0]]


def test_critic_values_features_and_not_the_numbers_of_actions():
    learner, observation = create(**FEATURES), batch().observations
    features, feature = learner.critic.features(observation), torch.arange(40.0)[None]
    same = [Candidates(torch.tensor([action]), feature) for action in ([0, 1], [1, 0])]
    first, second = (learner.critic.action_values(features, candidate, observation) for candidate in same)
    scaled = learner.critic.action_values(features, Candidates(same[0].actions, 1000 * same[0].features), observation)
    other = learner.critic.action_values(features, Candidates(same[0].actions, same[0].features.flip(-1)), observation)
    assert torch.equal(first, second) and not torch.allclose(first, other)
    torch.testing.assert_close(first, scaled, rtol=1e-3, atol=1e-4)


def test_best_recorded_candidate_is_imitated():
    """The value of an action is read from its feature: candidate 2 of the first state, candidate 0 of the second."""
    learner = create(**{**FEATURES, "n": 3})
    learner.critic.values = lambda features: torch.tensor([[0.5, 0.5]])
    learner.critic.action_values = lambda features, candidates, _: candidates.features[..., :1].repeat(1, 1, 2)
    actions = torch.tensor([[[TAP, 1], [TAP, 2], [BACK, 0]], [[TAP, 3], [TAP, 0], [BACK, 0]]])
    features = torch.tensor([[[0.1], [0.2], [0.9]], [[0.4], [0.3], [0.2]]])
    rows = replace(batch(((TAP, 0, 0.9),) * 2), proposed_actions=actions, action_features=features)
    recorded = learner.recorded_candidates(rows)
    taken = recorded.select(torch.tensor([0, 0]))
    chosen = digiq.extraction(learner.critic, learner.policy, rows.observations, taken, recorded, learner.options)
    assert taken.actions.tolist() == [[TAP, 1], [TAP, 3]]
    assert chosen.actions.tolist() == [[BACK, 0], [TAP, 3]] and chosen.weights.tolist() == [1, 0]


@pytest.mark.parametrize(("backup", "expected"), [("data", {0}), ("behaviour", {0, 1, 2})])
def test_backup_takes_recorded_candidates(backup, expected):
    learner = create(**{**FEATURES, "n": 3}, backup=backup)
    recorded = Candidates(
        torch.arange(3).view(3, 1, 1).expand(3, 100, 2), torch.arange(3.0).view(3, 1, 1).expand(3, 100, 40)
    )
    taken = recorded.select(torch.zeros(100, dtype=torch.long))
    chosen = learner.backup(batch(((TAP, 0, 0.9),) * 100), taken, recorded)
    assert set(chosen.actions[:, 0].tolist()) == expected
    assert torch.equal(chosen.actions[:, 0].float(), chosen.features[:, 0])


@pytest.mark.parametrize("options", [{"extraction": "pg"}, {"backup": "policy"}])
def test_actions_without_features_are_refused(options):
    with pytest.raises(ValueError, match="action_features=text are those of recorded candidates"):
        digiq.Defaults(action_features="text", **options)


def test_missing_features_are_explained():
    world, options = TouchWorld(), digiq.Defaults(action_features="drawn", device="cpu")
    with pytest.raises(UserError, match="action_features=drawn needs features of actions by a VLM.*prompted"):
        digiq.create(world.observation_space, world.action_space, 1, mlp.Network, mlp.Defaults(), options, seed=0)

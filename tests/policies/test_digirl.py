"""DigiRL: losses and weights by hand, which steps it imitates, and exact resumption."""

import json
import math

import numpy as np
import pytest
import torch
from test_filtered_bc import Recorder, episode
from touch_world import FACTORS_OF_TYPE, TouchWorld, all_pages, all_right, random_episodes

from pr2l.policies import digirl, filtered_bc
from pr2l.policies.base import Hooks
from pr2l.policies.common.loop import ShuffledSource
from pr2l.policies.common.steps import flat_steps
from pr2l.policies.networks import mlp

CPU = torch.device("cpu")
SMALL = {
    "learning_rate": 0.01, "trajectories": 16, "device": "cpu",
    "factors_of_type": FACTORS_OF_TYPE, "image_tokens": 4,
}  # fmt: skip
DIGIRL = {"critic_sizes": (16,), "history": 200}


def create(module=digirl, seed=0, **options):
    world = TouchWorld()
    options = module.Defaults(**{**SMALL, **options})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    return module.create(world.observation_space, world.action_space, 1, *network, options, seed=seed)


def success_and_failure():
    """Return the steps of a success in 2 steps and of a failure in 1 step; the rows are 0 1 2 and 3 4."""
    return flat_steps([episode([0, 1], True), episode([2], False)], CPU)


def logit(*probabilities):
    return torch.tensor(probabilities).logit()


def test_step_value_loss_by_hand():
    """Rows 0 and 1 have the label 1 as observations before a step, 1 and 2 after it; 3 and 4 have the label 0."""
    probabilities = torch.tensor([0.5, 0.8, 0.9, 0.25, 0.4])
    logits = torch.stack([probabilities.logit(), logit(*[0.5] * 5)], dim=1)
    first = -(math.log(0.5) + math.log(0.8) + math.log(0.8) + math.log(0.9) + math.log(0.75) + math.log(0.6))
    second = 6 * math.log(2)
    loss = digirl.step_value_loss(logits, success_and_failure())
    assert loss.item() == pytest.approx((first + second) / 3)


def test_instruction_value_loss_by_hand():
    loss = digirl.instruction_value_loss(logit(0.8, 0.25), success_and_failure())
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.75)) / 2)


LOGITS = torch.stack([logit(0.5, 0.52, 0.9, 0.3, 0.36), logit(0.6, 0.1, 0.95, 0.9, 0.9)], dim=1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Values, the smaller ones: 0.5 0.1 0.9 and 0.3 0.36. Code: -0.4 - 0.05 + 0.5, 0.8 - 0.05 + 2, 0.06 - 0.05.
        ({}, [1, 1, 1]),
        ({"margin": 0.11}, [0, 1, 0]),
        # Paper, decay 0.5: 0.5 + 0.5 (-0.4), 1, and 0 + 0 (0.06) because the failure's only step is its last one.
        ({"advantage": "paper"}, [1, 1, 0]),
        ({"advantage": "paper", "margin": 0.31}, [0, 1, 0]),
        ({"advantage": "none", "margin": 9.0}, [1, 1, 1]),
        # exp(A / 0.5) of A = 0.05, 1 and 0.01; exp(2) = 7.4 is limited to 5.
        ({"weighting": "exponential", "temperature": 0.5, "max_weight": 5}, [math.exp(0.1), 5, math.exp(0.02)]),
    ],
)  # fmt: skip
def test_step_weights_by_hand(options, expected):
    weights = digirl.step_weights(LOGITS, success_and_failure(), digirl.Defaults(**options))
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("scores", "expected"), [("reward", [1, 0]), ("curriculum", [0.25, -0.6]), ("none", [0, 0])])
def test_scores_of_trajectories_by_hand(scores, expected):
    learner = create(filter=scores)
    assert learner.scores(logit(0.75, 0.6), success_and_failure()).tolist() == pytest.approx(expected)


def test_policy_is_not_trained_before_the_critics():
    """The first update, of 16 trajectories, ends after step 1, and the next ones before step 100."""
    learner, source = create(critic_updates=1, **DIGIRL), ShuffledSource(random_episodes(50), 0)
    weights = []
    for total in (1, 100):
        weights.append(learner.state_dict()[0])
        learner.learn(source, total, Hooks())
    weights.append(learner.state_dict()[0])
    changed = [
        {name.split("/")[0] for name in after if name[0] != "o" and not torch.equal(after[name], before[name])}
        for before, after in zip(weights, weights[1:], strict=False)
    ]
    assert changed == [{"critic"}, {"critic", "policy"}]


def probability_of_right_actions(learner):
    """Return the mean probability of the right action on all five pages."""
    observation = {key: torch.from_numpy(value) for key, value in all_pages().items()}
    actions = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]])
    with torch.no_grad():
        return learner.policy(observation).log_prob(actions).exp().mean().item()


def train(module, **options):
    """Train on 400 episodes of random actions, of which about a third succeed after several wrong steps."""
    learner = create(module, **options)
    learner.learn(ShuffledSource(random_episodes(400, horizon=5), 0), 20_000, Hooks())
    return learner


def test_steps_that_did_not_help_are_not_imitated():
    """Filtered BC imitates all steps of a success. With the margin 0.3, DigiRL imitates the last two steps, whose
    returns are 1 and 0.5, and the right tap, after which the value is higher by more than 0.5.
    """
    episodes = random_episodes(400, horizon=5)
    # The right tap in step k, and then at least one `back` in 5 - k steps: a success with probability 0.33.
    expected = sum((7 / 8) ** (k - 1) / 8 * (1 - 0.5 ** (5 - k)) for k in range(1, 5))
    assert np.mean([trajectory.rewards[-1] for trajectory in episodes]) == pytest.approx(expected, abs=0.05)
    digirl_learner, imitator = train(digirl, margin=0.3, **DIGIRL), train(filtered_bc, history=200)
    assert all_right(digirl_learner.act(all_pages(), greedy=True).actions)
    assert probability_of_right_actions(digirl_learner) > 0.9
    assert probability_of_right_actions(imitator) < 0.7


def test_values_are_the_frequencies_of_success():
    """A step value is the mean label of the observation, which counts before one step and after another."""
    steps = flat_steps(random_episodes(400, horizon=5), CPU)
    learner = train(digirl, schedule="linear", **DIGIRL)
    rows = torch.cat([steps.before, steps.before + 1])
    labels = (steps.returns > 0).float().repeat(2)
    on_last_page = steps.observations["tokens"][rows, 0, 1] > 0
    means = [labels[~on_last_page].mean()] * 4 + [labels[on_last_page].mean()]
    observation = {key: torch.from_numpy(value) for key, value in all_pages().items()}
    values = learner.critic.steps(observation).sigmoid()
    torch.testing.assert_close(values, torch.stack(means)[:, None].expand(-1, 2), atol=0.03, rtol=0)
    instruction_values = learner.critic.instruction(observation).sigmoid()[:4]
    torch.testing.assert_close(instruction_values, steps.final_rewards.mean().expand(4), atol=0.03, rtol=0)


def test_resumed_training_equals_uninterrupted_training():
    options = {"filter": "curriculum", "schedule": "linear", **DIGIRL, "history": 30}
    episodes = random_episodes(50)
    expected, uninterrupted = Recorder(snapshot_at=4), create(**options)
    uninterrupted.learn(ShuffledSource(episodes, 0), 600, expected)
    tensors, values = expected.snapshot
    resumed, recorder = create(seed=1, **options), Recorder()
    resumed.load_state_dict(tensors, json.loads(json.dumps(values)))
    resumed.learn(ShuffledSource(episodes, 0), 600, recorder)
    assert len(recorder.metrics) > 2 and recorder.metrics == expected.metrics[4:]
    final, resumed_final = uninterrupted.state_dict()[0], resumed.state_dict()[0]
    assert all(torch.equal(final[name], resumed_final[name]) for name in final)

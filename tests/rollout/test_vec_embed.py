"""VecEmbed in an environment whose frames tell the episode and the step."""

from contextlib import closing
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from diary_world import DiaryWorld, seeded_diary
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder
from pr2l.policies import ppo
from pr2l.policies.base import Hooks
from pr2l.policies.networks import mlp
from pr2l.rollout.contract import ContractError
from pr2l.rollout.vec_embed import HALF_MAX, VecEmbed, embed_env
from pr2l.rollout.workers import Workers


class Echo(Encoder):
    """A token of [brightness, episode in the context, number of labels], and a token of padding."""

    tokens, width, needs_labels = 2, 3, True

    def __init__(self):
        self.batches = []

    def encode(self, frames, contexts, labels=None):
        self.batches.append(len(frames))
        rows = [
            [frame.mean(), float(context["target"]), len(objects)]
            for frame, context, objects in zip(frames, contexts, labels, strict=True)
        ]
        values = torch.tensor([[row, [7.0, 7.0, 7.0]] for row in rows])
        return Tokens(values, torch.tensor([[True, False]]).repeat(len(frames), 1))

    def answers(self):
        return [f"row {row}" for row in range(self.batches[-1])]


def embedded(*lengths, encoder=None, **options):
    venv = DummyVecEnv([lambda n=n: DiaryWorld(n, **options) for n in lengths])
    return VecEmbed(venv, encoder or Echo())


def real_tokens(observation):
    return observation["tokens"][:, 0].tolist()


def test_frames_are_encoded_with_context_and_labels_of_their_episode():
    venv = embedded(2, 3)
    assert real_tokens(venv.reset()) == [[0, 0, 0], [0, 0, 0]]
    actions = np.zeros(2, int)
    assert real_tokens(venv.step(actions)[0]) == [[1, 0, 1], [1, 0, 1]]
    observation, _, dones, infos = venv.step(actions)
    assert dones.tolist() == [True, False]
    assert real_tokens(observation) == [[10, 1, 0], [2, 0, 2]]  # the first environment is in its next episode
    terminal = infos[0]["terminal_observation"]
    assert terminal["tokens"][0].tolist() == [2, 0, 2]  # the last frame has the context of its episode
    assert np.allclose(terminal["proprio"], [0.2, 0])
    assert (infos[0]["terminal_frame"] == 2).all()
    observation, _, dones, infos = venv.step(actions)
    assert real_tokens(observation) == [[11, 1, 1], [10, 1, 0]]
    assert infos[1]["terminal_observation"]["tokens"][0].tolist() == [3, 0, 3]


def test_vec_env_interface_has_contexts_in_different_places():
    """If this fails, Stable-Baselines3 has changed, and `VecEmbed.step_wait` can become simpler."""
    venv = embedded(1)
    venv.reset()
    _, _, _, infos = venv.step(np.zeros(1, int))
    assert infos[0]["context"] == {"target": "0"}  # of the ended episode, while the frame is of the next one
    assert venv.reset_infos == [{}]  # an attribute of the wrapper, which hides that of the environment
    assert venv.unwrapped.reset_infos[0]["context"] == {"target": "1"}


def test_one_batch_per_step_includes_terminal_frames():
    venv = embedded(2, 3, 2)
    venv.reset()
    for _ in range(6):
        venv.step(np.zeros(3, int))
    assert venv.encoder.batches == [3, 3, 5, 4, 5, 3, 6]


def test_without_embed_terminated_only_truncated_episodes_cost_a_row():
    makers = [partial(DiaryWorld, 2), partial(DiaryWorld, 3, truncated=True), partial(DiaryWorld, 2)]
    venv = VecEmbed(DummyVecEnv(makers), Echo(), embed_terminated=False)
    venv.reset()
    steps = [venv.step(np.zeros(3, int)) for _ in range(3)]
    assert venv.encoder.batches == [3, 3, 3, 4]
    observation, _, dones, infos = steps[1]
    assert dones.tolist() == [True, False, True]
    assert real_tokens(observation) == [[10, 1, 0], [2, 0, 2], [10, 1, 0]]
    assert "terminal_observation" not in infos[0] and (infos[0]["terminal_frame"] == 2).all()
    observation, _, dones, infos = steps[2]
    assert dones.tolist() == [False, True, False]
    assert infos[1]["terminal_observation"]["tokens"][0].tolist() == [3, 0, 3]


def trained_weights(embed_terminated):
    """Train PPO in two environments, one of which truncates its episodes."""
    makers = [partial(DiaryWorld, 2), partial(DiaryWorld, 3, truncated=True)]
    venv = VecEmbed(DummyVecEnv(makers), Echo(), embed_terminated=embed_terminated)
    options = ppo.Defaults(n_steps=16, batch_size=8, n_epochs=2, device="cpu")
    arguments = (venv.observation_space, venv.action_space, venv.num_envs)
    learner = ppo.create(*arguments, mlp.Network, mlp.Defaults(hidden=(4,)), options, seed=0)
    learner.learn(venv, 64, Hooks())
    return learner.state_dict()[0], sum(venv.encoder.batches)


def test_ppo_learns_the_same_weights_without_tokens_of_terminated_episodes():
    every, rows_of_every = trained_weights(True)
    some, rows = trained_weights(False)
    assert every.keys() == some.keys() and all(torch.equal(every[name], some[name]) for name in every)
    assert (rows_of_every, rows) == (2 * 33 + 16 + 10, 2 * 33 + 10)  # 32 steps: 16 terminated episodes, 10 truncated


@pytest.mark.parametrize("n_epochs", [1, 7])
def test_learning_encodes_once_per_step_for_any_number_of_epochs(n_epochs):
    venv = embedded(2, 3, truncated=True)
    options = ppo.Defaults(n_steps=16, batch_size=8, n_epochs=n_epochs, device="cpu")
    arguments = (venv.observation_space, venv.action_space, venv.num_envs)
    learner = ppo.create(*arguments, mlp.Network, mlp.Defaults(hidden=(4,)), options, seed=0)
    learner.learn(venv, 64, Hooks())
    assert len(venv.encoder.batches) == 32 + 1  # 64 steps of two environments, and the reset


def test_observations_are_in_their_space_in_half_precision():
    venv = embedded(2)
    observation = venv.reset()
    assert observation["tokens"].dtype == np.float16
    assert observation["mask"].tolist() == [[1, 0]]
    assert (observation["tokens"][:, 1] == 0).all()  # padding is set to zero
    single = {key: part[0] for key, part in observation.items()}
    assert venv.observation_space.contains(single)


def test_observation_without_proprio():
    venv = embedded(2, proprio=False)
    assert set(venv.reset()) == set(venv.observation_space.spaces) == {"tokens", "mask"}


class Extreme(Echo):
    value = 1e6

    def encode(self, frames, contexts, labels=None):
        tokens = super().encode(frames, contexts, labels)
        return Tokens(tokens.values.fill_(self.value), tokens.mask)


class History(Echo):
    """One token: the brightness of the last three frames."""

    tokens, width, needs_labels, frame_history = 1, 3, False, 3

    def encode(self, frames, contexts, labels=None):
        assert frames.dtype == np.uint8 and frames.shape[1:] == (3, 4, 4, 3)
        self.batches.append(len(frames))
        values = torch.from_numpy(frames.mean(axis=(2, 3, 4))).float()[:, None]
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))


def history(*lengths, workers=False):
    makers = [partial(seeded_diary, length) for length in lengths]
    return VecEmbed(Workers(makers, 2, 2) if workers else DummyVecEnv(makers), History())


def history_of_plain_vec_env(*lengths):
    return embed_env(DummyVecEnv([lambda n=n: DiaryWorld(n) for n in lengths]), History())


@pytest.mark.parametrize(
    "make", [history, partial(history, workers=True), history_of_plain_vec_env], ids=["process", "workers", "embed_env"]
)
def test_encoder_with_frame_history_gets_frames_of_one_episode(make):
    """At the start of an episode, its first frame is repeated."""
    with closing(make(2, 3)) as venv:
        actions = np.zeros(2, int)
        assert real_tokens(venv.reset()) == [[0, 0, 0], [0, 0, 0]]
        venv.step(actions)
        observation, _, dones, infos = venv.step(actions)
        assert dones.tolist() == [True, False]
        assert real_tokens(observation) == [[10, 10, 10], [0, 1, 2]]
        assert infos[0]["terminal_observation"]["tokens"][0].tolist() == [0, 1, 2]
        assert venv.frames.shape == (2, 4, 4, 3) and venv.frames[1].max() == 2
        assert [len(set(row)) for row in real_tokens(venv.reset())] == [1, 1]


def test_restored_environment_has_the_frame_history_of_its_episode():
    with closing(history(5, 4)) as venv, closing(history(5, 4)) as restored:
        venv.reset()
        for _ in range(2):
            venv.step(np.zeros(2, int))
        restored.restore(venv.states())
        for env in (venv, restored):
            assert env.step(np.zeros(2, int))[0]["tokens"][:, 0].tolist() == [[1, 2, 3], [1, 2, 3]]


def test_frame_history_of_environments_outside_the_contract_needs_embed_env():
    with pytest.raises(UserError, match="takes the last 3 frames.*embed_env"):
        embedded(2, encoder=History())


@pytest.mark.parametrize("value", [1e6, -1e6, float("inf")])
def test_values_beyond_half_precision_are_clipped_and_counted(value):
    encoder = Extreme()
    encoder.value = value
    venv = embedded(2, encoder=encoder)
    assert venv.metrics() == {}
    assert venv.reset()["tokens"][0, 0, 0] == np.copysign(HALF_MAX, value)
    assert venv.metrics() == {"tokens/clipped": 3}  # the three numbers of the token that is not padding


@pytest.mark.parametrize("value", [HALF_MAX, -3.0])
def test_values_within_half_precision_are_not_counted(value):
    encoder = Extreme()
    encoder.value = value
    venv = embedded(2, encoder=encoder)
    venv.reset()
    assert venv.metrics() == {}


def test_nan_raises():
    encoder = Extreme()
    encoder.value = float("nan")
    with pytest.raises(FloatingPointError, match="vlm_options.dtype=float32"):
        embedded(2, encoder=encoder).reset()


def test_frames_contexts_and_answers_of_the_latest_batch():
    venv = embedded(1, 2)
    venv.reset()
    venv.step(np.zeros(2, int))
    assert venv.frames[:, 0, 0, 0].tolist() == [10, 1]
    assert venv.contexts == [{"target": "1"}, {"target": "0"}]
    assert venv.answers == ["row 0", "row 1"]


def test_environment_without_frames_raises():
    with pytest.raises(ContractError, match="Dict.frame, proprio."):
        VecEmbed(DummyVecEnv([lambda: gym.make("CartPole-v1")]), Echo())

"""A VLM that writes its actions: exact log-probabilities, LoRA weights only, and learning in a world of two screens."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3.common.vec_env import DummyVecEnv
from text_world import COLOURS, HORIZON, RIGHT, SIDE, TwoScreens

from pr2l.agents import text_policy
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.encoders.prompted import Defaults as EncoderDefaults
from pr2l.encoders.prompted import PromptedEncoder
from pr2l.environments.common.screen_action_space import ActionText
from pr2l.policies import digiq, digirl, filtered_bc
from pr2l.policies.base import Hooks, Transitions
from pr2l.policies.common.loop import ShuffledSource
from pr2l.policies.common.replay import trajectory
from pr2l.policies.networks import mlp
from pr2l.pretraining.architecture import ScreenArchitecture, build_with, byte_tokenizer
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.vec_text import NO_TOKEN, VecText, prompt_texts
from pr2l.vlms.base import Defaults as VLMDefaults
from pr2l.vlms.lora import Lora

SMALL = ScreenArchitecture(
    image_size=16, image_width=16, patch=8, window=2, tower_widths=(32,), tower_depths=(1,),
    width=32, encoder_layers=1, decoder_layers=1, heads=2, max_tokens=128,
)  # fmt: skip
PROMPT = Prompt(name="test", text="do {goal}", slots=("goal",), why="", source="")
OPTIONS = text_policy.Defaults(max_new_tokens=12, prompt_bytes=64, lora=Lora(r=8, alpha=16))
TRAINING = {"learning_rate": 0.01, "trajectories": 8, "device": "cpu"}
TRAINING_Q = {"learning_rate": 0.01, "critic_updates": 40, "threshold": 0.02, "device": "cpu"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a checkpoint with random weights, the architecture of `tiny_screens` with 2 layers of width 32."""
    folder = tmp_path_factory.mktemp("text_policy")
    write_checkpoint(folder)
    return folder


def write_checkpoint(folder):
    build_with(SMALL, byte_tokenizer(), folder, seed=0)
    file = folder / "model.safetensors"
    weights = load_file(file)
    # With a norm of 1, no token could be certain: the head is tied to the embeddings, which LoRA leaves as they are.
    weights["model.language_model.decoder.layers.0.final_layer_norm.weight"] *= 4
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture
def encoder(checkpoint):
    options = VLMDefaults(device="cpu", generation="none", layers=(-1,))
    source = EncoderSource(str(checkpoint), options, PROMPT, None, (SIDE, SIDE, 3), ())
    return CachedEncoder(PromptedEncoder(source, EncoderDefaults(segments=("image", "prompt"), max_prompt_tokens=8)), 9)


@pytest.fixture
def policy(encoder):
    return text_policy.create(encoder, OPTIONS, seed=0)


def changed(policy):
    """Give the LoRA weights values with which the adapter has an effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return policy


def worlds(encoder, count=1):
    venv = DummyVecEnv([lambda: SeededEpisodes(TwoScreens(), lambda number: number)] * count)
    return VecText(venv, encoder, text_policy.codec(encoder, OPTIONS))


def screens(encoder, rows=(0, 1), last_actions=None):
    """Return the observations of screens as tensors; None = no last actions."""
    frames = np.broadcast_to(COLOURS[[*rows]][:, None, None], (len(rows), SIDE, SIDE, 3)).copy()
    tokens = encoder.encode(frames, [{"goal": "go"}] * len(rows))
    parts = text_policy.codec(encoder, OPTIONS).observations(
        frames, [{"goal": "go"}] * len(rows), last_actions or [""] * len(rows)
    )
    read = {key: torch.from_numpy(values) for key, values in parts.items()}
    return {"tokens": tokens.values.half(), "mask": tokens.mask, **read}


def episode(encoder, texts):
    """Return the trajectory of an episode with these actions."""
    rows = [0]
    for text in texts:
        rows.append(max(rows[-1], int(text == RIGHT[0])))
    success = rows[-2] == 1 and texts[-1] == RIGHT[1]
    rewards = torch.zeros(len(texts))
    rewards[-1] = float(success)
    actions = torch.from_numpy(text_policy.codec(encoder, OPTIONS).actions(texts))
    return trajectory(screens(encoder, rows), actions, rewards, 0.5, truncated=not success)


def learner_of(module, encoder, policy, seed=0, **options):
    venv = worlds(encoder)
    options = module.Defaults(**{**TRAINING, **options})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    return module.create(venv.observation_space, venv.action_space, 1, *network, options, seed=seed, policy=policy)


def written(policy, encoder):
    """Return the most probable actions on both screens."""
    actions = policy.choose(screens(encoder), greedy=True).actions
    return text_policy.codec(encoder, OPTIONS).texts(actions.numpy())


def by_generation(policy, observations, actions):
    """Compute log-probabilities from the logits of one unmodified pass of transformers' `generate` per token."""
    vlm = policy.agent.vlm
    talks = text_policy.conversations(observations["frame"], observations["prompt"])
    values = []
    for talk, ids in zip(talks, actions, strict=True):
        image, text = talk[0]["content"]
        inputs = vlm.inputs([[image["image"]]], [[{"role": "user", "content": [{"type": "image"}, text]}]])
        start, total = torch.tensor([[vlm.config.text_config.decoder_start_token_id]]), 0.0
        for token in ids[ids != NO_TOKEN]:
            out = vlm.model.generate(
                **inputs, decoder_input_ids=start, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
            )
            total += torch.log_softmax(out.logits[0][0].double(), dim=-1)[token].item()
            start = torch.cat([start, token.reshape(1, 1)], dim=1)
        values.append(total)
    return values


def test_log_probabilities_are_those_of_generation(policy, encoder):
    """For sampled actions, some of which are cut before an end token, and for the actions of texts."""
    changed(policy)
    torch.manual_seed(0)
    observations = screens(encoder)
    drawn = policy.sample(observations, 3, temperature=2.0)
    assert drawn.shape == (3, 2, 12)
    texts = torch.from_numpy(text_policy.codec(encoder, OPTIONS).actions(RIGHT))
    for actions in (*drawn, texts):
        with torch.no_grad():
            log_probabilities = policy.log_prob(observations, actions)
        assert log_probabilities.tolist() == pytest.approx(by_generation(policy, observations, actions), abs=1e-3)


def test_texts_and_token_ids_of_actions(encoder):
    codec = text_policy.codec(encoder, OPTIONS)
    actions = codec.actions(["back()", 'type("")'])
    assert actions.shape == (2, 12) and codec.texts(actions) == ["back()", 'type("")']
    assert (actions != NO_TOKEN).sum(1).tolist() == [7, 9]
    with pytest.raises(UserError, match="has 18 tokens with its end, more than text_policy.max_new_tokens=12"):
        codec.actions(["tap(0.500, 0.250)"])
    contexts = [{"goal": "ä"}, {"goal": "go"}, {"goal": "go"}]
    observations = codec.observations(np.zeros((3, SIDE, SIDE, 3), np.uint8), contexts, ["", "back()", "ü" * 99])
    last = "do go Last action: "
    assert prompt_texts(observations["prompt"]) == ["do ä", f"{last}back()", last + "ü" * 20]


def test_gradients_reach_only_the_lora_weights(policy, encoder):
    changed(policy)
    observations = screens(encoder)
    before = encoder.encode(observations["frame"].numpy(), [{"goal": "go"}] * 2).values.clone()
    frozen = {name: weight.clone() for name, weight in policy.agent.vlm.model.named_parameters() if "lora_" not in name}
    actions = policy.sample(observations, 1)[0]
    loss = -policy.log_prob(observations, actions).sum()
    loss.backward()
    weights = dict(policy.agent.vlm.model.named_parameters())
    assert {name for name, weight in weights.items() if weight.grad is not None} == {n for n in weights if "lora_" in n}
    assert all(weight.grad.abs().sum() > 0 for weight in policy.parameters())
    torch.optim.SGD(policy.parameters(), lr=0.1).step()
    assert all(torch.equal(weights[name], weight) for name, weight in frozen.items())
    encoder.clear_cache()
    assert torch.equal(encoder.encode(observations["frame"].numpy(), [{"goal": "go"}] * 2).values, before)


def test_frozen_weights_are_in_memory_once(policy, encoder):
    theirs = {weight.data_ptr() for weight in encoder.encoder.vlm.model.parameters()}
    ours = {weight.data_ptr() for name, weight in policy.agent.vlm.model.named_parameters() if "lora_" not in name}
    assert theirs <= ours
    names = [*policy.state_dict()]
    assert len(names) == len([*policy.parameters()]) and all("lora_" in name for name in names)


def test_rows_of_a_pass_do_not_change_log_probabilities_or_gradients(policy, encoder):
    changed(policy)
    observations = screens(encoder, [0, 1, 0, 1, 1])
    actions = policy.sample(observations, 1, temperature=2.0)[0]
    results = []
    for size in (2, 8):
        policy.options = OPTIONS.model_copy(update={"batch_size": size})
        policy.zero_grad()
        log_probabilities = policy.log_prob(observations, actions)
        log_probabilities.sum().backward()
        results.append([log_probabilities.detach(), *(weight.grad.clone() for weight in policy.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_equal_screens_get_different_samples_which_the_seed_determines(policy, encoder):
    observations, draws = screens(encoder, [0] * 4), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(policy.choose(observations, greedy=False).actions)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert len(draws[0].unique(dim=0)) > 1
    greedy = policy.choose(observations, greedy=True).actions
    assert (greedy == greedy[0]).all()


def test_environments_get_the_texts_of_token_ids(policy, encoder):
    venv = worlds(encoder, 2)
    observation = venv.reset()
    assert venv.observation_space.contains({key: values[0] for key, values in observation.items()})
    ids = text_policy.codec(encoder, OPTIONS).actions(["home()", "back()"])
    assert venv.action_space.contains(ids[0])
    observation, *_ = venv.step(ids)
    assert venv.get_attr("log") == [["home()"], ["back()"]]
    assert observation["frame"][:, 0, 0].tolist() == COLOURS[[1, 0]].tolist()
    after, *_, infos = venv.step(text_policy.codec(encoder, OPTIONS).actions(["back()"] * 2))
    last = infos[0]["terminal_observation"]
    assert last["frame"][0, 0].tolist() == COLOURS[1].tolist()
    assert prompt_texts(last["prompt"][None]) == ["do go Last action: back()"]
    assert prompt_texts(after["prompt"]) == ["do go", "do go Last action: back()"]


def random_episodes(encoder, count=60):
    """Return episodes of random actions, of which a third succeed, most after steps that did not help."""
    random = np.random.default_rng(0)
    episodes = []
    for _ in range(count):
        texts, screen = [], 0
        while len(texts) < HORIZON and not (screen == 1 and texts[-1] == RIGHT[1]):
            texts.append(CHOICES[random.integers(3)])
            screen = max(screen, int(texts[-1] == RIGHT[0]))
        episodes.append(episode(encoder, texts))
    return episodes


def probabilities(policy, encoder):
    """Return the probabilities of the right actions on both screens."""
    actions = torch.from_numpy(text_policy.codec(encoder, OPTIONS).actions(RIGHT))
    with torch.no_grad():
        return policy.log_prob(screens(encoder), actions).exp().tolist()


def test_filtered_bc_writes_the_actions_of_the_successes(policy, encoder):
    """The failures, which are three of four episodes, have other actions on both screens."""
    texts = [RIGHT, (RIGHT[1],) * 4, (RIGHT[0], *['type("")'] * 3), ("enter()",) * 4]
    episodes = [episode(encoder, row) for row in texts]
    learner = learner_of(filtered_bc, encoder, policy, history=8, quantile=0.75)
    learner.learn(ShuffledSource(episodes, 0), 800, Hooks())
    assert written(policy, encoder) == [*RIGHT] and min(probabilities(policy, encoder)) > 0.9


def test_digirl_writes_the_steps_that_helped(policy, encoder):
    """With the margin 0.55, only the step to the blue screen and the last step of a success have an advantage."""
    episodes = random_episodes(encoder)
    assert np.mean([trajectory.rewards[-1] for trajectory in episodes]) == pytest.approx(1 / 3, abs=0.1)
    options = {"quantile": 0.0, "successes_only": True}
    learner = learner_of(digirl, encoder, policy, margin=0.55, critic_sizes=(16,), **options)
    learner.learn(ShuffledSource(episodes, 0), 1200, Hooks())
    assert written(policy, encoder) == [*RIGHT] and min(probabilities(policy, encoder)) > 0.9


class Snapshots(Hooks):
    """Hooks that keep the state before the third update."""

    def __init__(self):
        self.updates, self.state = 0, None

    def on_update_start(self, learner):
        self.updates += 1
        if self.updates == 3:
            tensors, values = learner.state_dict()
            self.state = tensors, json.loads(json.dumps(values))


def test_resumed_training_equals_uninterrupted_training_with_the_same_seed(encoder):
    episodes, finals, snapshots = random_episodes(encoder, 8), [], Snapshots()
    for state in (None, snapshots):
        policy = text_policy.create(encoder, OPTIONS, seed=0 if state is None else 1)
        learner = learner_of(digirl, encoder, policy, trajectories=4, critic_sizes=(8,), critic_updates=1)
        if state is not None:
            learner.load_state_dict(*state.state)
        learner.learn(ShuffledSource(episodes, 0), 60, snapshots if state is None else Hooks())
        finals.append(learner.state_dict())
    (tensors, values), (resumed_tensors, resumed_values) = finals
    assert tensors.keys() == resumed_tensors.keys() and json.dumps(values) == json.dumps(resumed_values)
    assert all(torch.equal(tensors[name], resumed_tensors[name]) for name in tensors)
    assert any(name.startswith("policy/") and "lora_B" in name and tensors[name].any() for name in tensors)
    learner.load_policy(snapshots.state[0])
    assert all(torch.equal(snapshots.state[0][f"policy/{name}"], w) for name, w in learner.policy.state_dict().items())


CHOICES = (*RIGHT, 'type("")')


class Steps:
    """Source of the steps of episodes, each with all CHOICES as candidates and their one-hot vectors as features."""

    epoch = 0.0

    def __init__(self, encoder, episodes):
        self.codec, self.episodes = text_policy.codec(encoder, OPTIONS), episodes
        self.places = [(number, step) for number, one in enumerate(episodes) for step in range(len(one))]

    def next_batch(self, count):
        chosen = [self.places[index] for index in torch.randint(len(self.places), (count,))]
        rows = [(self.episodes[number], step) for number, step in chosen]
        taken = [CHOICES.index(text) for text in self.codec.texts(np.stack([one.actions[s] for one, s in rows]))]
        order = torch.tensor([[first, *(other for other in range(3) if other != first)] for first in taken])
        before, after = ([{k: v[s + more] for k, v in one.observations.items()} for one, s in rows] for more in (0, 1))
        stack = [{key: torch.stack([row[key] for row in part]) for key in part[0]} for part in (before, after)]
        columns = {
            name: torch.stack([getattr(one, name)[s] for one, s in rows])
            for name in ("actions", "rewards", "terminated", "truncated", "monte_carlo_returns", "discounts")
        }
        actions = torch.from_numpy(self.codec.actions(CHOICES))[order]
        return Transitions(
            stack[0], next_observations=stack[1], **columns,
            proposed_actions=actions, action_features=torch.eye(3)[order].half(),
        )  # fmt: skip

    def state_dict(self):
        return {}

    def load_state_dict(self, values):
        pass


@pytest.mark.slow  # 4 s
def test_digiq_writes_the_best_candidates(policy, encoder):
    """Values of states tell the screens apart, and values of actions the one-hot features of the candidates."""
    source = Steps(encoder, random_episodes(encoder))
    space = worlds(encoder).observation_space
    options = {"action_features": "text", "n": 3, "batch_size": 16, "critic_sizes": (16,), "gamma": 0.5}
    options = digiq.Defaults(**{**TRAINING_Q, **options})
    features = spaces.Dict({**space.spaces, "action_features": spaces.Box(-1, 1, (3, 3), np.float16)})
    network = mlp.Network, mlp.Defaults(hidden=(16,))
    learner = digiq.create(features, ActionText(), 1, *network, options, seed=0, policy=policy)
    learner.learn(source, 1280, Hooks())
    assert written(policy, encoder) == [*RIGHT] and min(probabilities(policy, encoder)) > 0.8
    with pytest.raises(digiq.UserError, match="use action_features=text or drawn"):
        digiq.create(features, ActionText(), 1, *network, digiq.Defaults(), seed=0, policy=policy)

"""Features of the candidate actions of recorded episodes, with a VLM whose states say exactly what it was asked."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from small_vlms import CASE, load
from tiny_parts import frames as pictures
from toy_runs import assert_same_run

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.lock import locked
from pr2l.core.registry import load as load_plugin
from pr2l.data.action_features import action_features
from pr2l.data.candidates import candidates
from pr2l.data.embed import embed
from pr2l.data.recorded import batch_source, recording
from pr2l.encoders.common.action_states import QUESTIONS, ActionStates
from pr2l.environments.common.drawing import draw
from pr2l.rollout import build
from pr2l.training.check import findings
from pr2l.training.collect import collect
from pr2l.training.train import train

# A state is the four bytes of the prompt's CRC-32 and one of the frame's; the answer has two tokens, then padding.
EXACT = '''
"""An encoder of the mean colour, and a VLM whose state says what it was asked about which frame."""
import zlib
from types import SimpleNamespace
import torch
from pydantic import BaseModel
from pr2l.core.types import Hidden, Tokens
from pr2l.encoders.base import Encoder
ASKED = []
STOP_AT = [None]
class Defaults(BaseModel): pass
class ExactVLM:
    options, hidden_size, new_tokens = SimpleNamespace(layers=(-1,)), 5, 3
    def key(self): return {"vlm": "exact"}
    def hidden(self, frames, prompts):
        if len(ASKED) == STOP_AT[0]: raise KeyboardInterrupt
        ASKED.append(len(prompts))
        pairs = zip(frames, prompts, strict=True)
        rows = [[*zlib.crc32(p.encode()).to_bytes(4, "big"), zlib.crc32(f.tobytes()) & 255] for f, p in pairs]
        states = torch.tensor(rows).float()[:, None, None].repeat(1, 1, 4, 1)  # a token of prompt, three of answer
        states[:, :, 0], states[:, :, 3] = -1, 0
        states[:, :, 1] -= 1
        states[:, :, 2] += 1
        mask = torch.tensor([[True, True, True, False]]).repeat(len(frames), 1)
        return Hidden(states, mask, {"prompt": slice(0, 1), "generated": slice(1, 4)}, [""] * len(frames))
class Exact(Encoder):
    tokens, width, vlm = 1, 3, ExactVLM()
    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames).float().mean(dim=(1, 2))[:, None]
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))
    def key(self): return {"encoder": "exact"}
def create(source, options): return Exact()
'''
CONFIG = {
    "why": "a test",
    "environment": "buttons",
    "task": "buttons",
    "environment_options": {"actions": "heads"},
    "encoder": "exact",
    "algorithm": "digiq",
    "algorithm_options": {"action_features": "text", "n": 4, "device": "cpu", "batch_size": 8, "critic_sizes": [8]},
    "network": "mlp",
    "num_envs": 8,
    "steps": 32,
    "evaluation_episodes": 1,
}


@pytest.fixture
def config(write_plugin, tmp_path, request):
    """config(key=value, ...) -> config of Digi-Q on six random episodes of the buttons."""
    write_plugin("environments", "buttons", (request.config.rootpath / "tests" / "toy_screen.py").read_text())
    write_plugin("encoders", "exact", EXACT)
    collect("buttons", "buttons", tmp_path / "episodes", options={"actions": "heads"}, episodes=6)
    (tmp_path / "buttons.yaml").write_text(yaml.safe_dump({**CONFIG, "data": str(tmp_path / "episodes")}))
    return lambda *overrides: load_config(tmp_path / "buttons.yaml", overrides)


def asked():
    return load_plugin("encoders", "exact").ASKED


def make(config):
    data = recording(config)
    return action_features(build.encoder(config, data.frame_shape), data, config), data


def state_of(frame, question):
    return [*zlib.crc32(question.encode()).to_bytes(4, "big"), zlib.crc32(frame.tobytes()) & 255]


@pytest.mark.parametrize("view", ["text", "drawn"])
def test_every_feature_belongs_to_its_frame_and_action(config, view):
    features, data = make(config(f"algorithm_options.action_features={view}"))
    chosen = candidates(data, 4)
    frames = np.concatenate([data.frames(number)[:-1] for number in range(data.episodes)])
    assert np.array_equal(features.actions, chosen.actions) and len(frames) == len(features.store)
    expected = []
    for frame, texts in zip(frames, chosen.texts, strict=True):
        drawn = [draw(frame, text or None) if view == "drawn" else frame for text in texts]
        questions = [QUESTIONS[view].format(action=text or "no action") for text in texts]
        expected.append([state_of(*pair) for pair in zip(drawn, questions, strict=True)])
    actions, values = features[np.arange(len(frames))]
    assert torch.equal(actions, torch.from_numpy(chosen.actions))
    assert values.tolist() == expected
    assert len({tuple(row) for rows in expected for row in rows}) > len(frames)


def test_transitions_have_candidates_with_the_taken_action_first(config):
    settings = config("algorithm_options.action_question='{goal} ? {action}'")
    data = recording(settings)
    source = batch_source(settings, build.encoder(settings, data.frame_shape), data)
    batch = source.next_batch(len(source))
    assert batch.proposed_actions.shape == (len(batch), 4, 6) and batch.action_features.shape == (len(batch), 4, 5)
    assert torch.equal(batch.proposed_actions[:, 0], batch.actions)
    module, options = load_plugin("environments", "buttons"), settings.options("environment")
    for row, context in enumerate(batch.contexts):
        for action, feature in zip(batch.proposed_actions[row], batch.action_features[row], strict=True):
            text = module.action_text(action.numpy(), context, options) or "no action"
            assert feature[:4].tolist() == state_of(np.zeros(1), f"{context['goal']} ? {text}")[:4]


def test_features_are_computed_once_and_an_interrupted_computation_continues(config, capsys):
    settings, module = config(), load_plugin("encoders", "exact")
    module.STOP_AT[0] = 2
    with pytest.raises(KeyboardInterrupt):
        make(settings)
    assert asked() == [8, 4]  # four questions per step of the first episode: two steps, then its last one
    module.STOP_AT[0] = None
    features, data = make(settings)
    steps = len(data) - data.episodes
    assert sum(asked()) == 4 * steps == 4 * len(features.store)
    count = len(asked())
    with locked(features.store.path):  # a process that only reads needs no lock
        again, _ = make(settings)
    assert len(asked()) == count and torch.equal(again.store[:].values, features.store[:].values)
    kilobytes = 2 * 4 * steps * 5 / 1e6
    assert f"{steps} steps x 4 actions = {4 * steps} questions, {kilobytes:.1f} MB" in capsys.readouterr().out
    make(config("algorithm_options.n=3"))
    make(config("algorithm_options.action_question='is {action} right ?'"))
    assert len(list((data.folder / "embeddings").glob("actions-text-*"))) == 3


def test_embed_computes_features_too(config, tmp_path):
    embed(tmp_path / "episodes", config())
    count = len(asked())
    make(config())
    assert count == len(asked()) > 0


def test_check_says_what_the_features_cost(config, tmp_path):
    """Each step has four candidates with five numbers of two bytes."""
    found = {finding.what: finding for finding in findings(config())}
    steps = len(recording(config())) - 6
    said = found["action features"].description
    assert said.startswith(f"{steps} steps x 4 actions = {4 * steps} questions, 0.0 MB, about 0 s; ")
    assert found["action features"].good and not list((tmp_path / "episodes" / "embeddings").glob("actions-*"))


def test_equal_seeds_give_equal_runs_on_features(config, tmp_path):
    first, second = (train(config(), root=tmp_path / name) for name in ("first", "second"))
    assert_same_run(first, second)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=pixels"], "action_features=text needs a VLM, but Pixels.* has none"),
        (["algorithm_options.action_question=is it right ?"], "does not name the action; write {action}"),
        (
            ["algorithm_options.action_question=as {gaol} does {action}"],
            r"has the slot {gaol}, but the slots are {action}, {goal}",
        ),
    ],
)
def test_unsuitable_options_are_explained(config, overrides, message):
    with pytest.raises(UserError, match=message):
        make(config(*overrides))


def test_a_vlm_that_generates_nothing_needs_prompt_tokens():
    vlm = SimpleNamespace(options=SimpleNamespace(layers=(-1,)), hidden_size=5, new_tokens=0)
    with pytest.raises(UserError, match="action_tokens=prompt"):
        ActionStates(vlm, "text")
    assert ActionStates(vlm, "text", segment="prompt").width == 5


TEXTS = ["tap(0.500, 0.250)", "back()", "tap(0.500, 0.750)"]


@pytest.mark.parametrize("name", ["llava", "florence2"])
@pytest.mark.parametrize("segment", ["generated", "prompt"])
def test_features_of_a_vlm_are_those_of_single_questions(name, segment, monkeypatch):
    """The frames of a batch pass the vision tower once, and no question changes the feature of another."""
    case = CASE[name]
    vlm = load(case, new_tokens=2, layers=(-2, -1))
    states, images = ActionStates(vlm, "text", segment=segment), pictures(2, case.size, case.size)
    passed, encode_images = [], vlm.encode_images
    monkeypatch.setattr(vlm, "encode_images", lambda frames: passed.append(len(frames)) or encode_images(frames))
    together = states.encode(images, [TEXTS, TEXTS[::-1]], [{}, {}])
    assert passed == [2] and together.shape == (2, 3, states.width) and states.width == 2 * vlm.hidden_size
    for row, texts in enumerate((TEXTS, TEXTS[::-1])):
        for column, text in enumerate(texts):
            hidden = vlm.hidden(images[row : row + 1], [f"Does {text} change the screen?"])
            tokens = hidden.states[0, :, hidden.spans[segment]][:, hidden.mask[0, hidden.spans[segment]]]
            torch.testing.assert_close(together[row, column], tokens.mean(dim=1).flatten(), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0, 0], together[0, 2], atol=1e-3)


def test_drawn_actions_change_what_a_vlm_sees():
    case = CASE["llava"]
    states = ActionStates(load(case, new_tokens=2), "drawn")
    features = states.encode(pictures(1, case.size, case.size), [[*TEXTS, ""]], [{}])[0]
    assert not any(torch.allclose(features[a], features[b], atol=1e-3) for a in range(4) for b in range(a))

"""Fine-tuning on whether actions change the screen, on a lamp that only a tap on the upper half switches."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_vlms import CASE, folder

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import read_json
from pr2l.data import changes
from pr2l.data.changes import EpisodeSource, difference, generated_changes, recorded_changes
from pr2l.data.screens import ScreenSet, ScreenSource
from pr2l.environments.common.drawing import draw
from pr2l.pretraining import finetune
from pr2l.pretraining.changes import MAJORITY, ChangeQuestion, ChangesConfig, draw_changes, evaluate_changes, example
from pr2l.pretraining.pretrain import pretrain
from pr2l.training.collect import collect
from pr2l.training.train import train

LAMP = '''
"""A screen; a tap on its upper half switches the light. Actions: two taps, back, and a malformed one."""
import gymnasium as gym
import numpy as np
from pydantic import BaseModel
TEXTS = ("tap(0.500, 0.250)", "tap(0.500, 0.750)", "back()", "")
class Defaults(BaseModel): pass
class Task:
    prompt, horizon, reward, success = None, 4, "none", "none"
    contexts = ({"goal": "light"},)
TASKS = {"lamp": Task()}
def kinds(task): return ()
def make(task, options=None, *, split="train", labels=False): return Lamp()
def action_text(action, context, options): return TEXTS[action]
class Lamp(gym.Env):
    action_space = gym.spaces.Discrete(4)
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (32, 32, 3), np.uint8))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.on = 0, bool(self.np_random.integers(2))
        return self.look(), self.info()
    def step(self, action):
        self.time, self.on = self.time + 1, self.on ^ (action == 0)
        return self.look(), 0.0, False, self.time == 4, self.info()
    def look(self): return {"frame": np.full((32, 32, 3), 250 if self.on else 20, np.uint8)}
    def info(self): return {"context": {"goal": "light"}, "success": False}
'''


@pytest.fixture
def episodes(write_plugin, tmp_path):
    write_plugin("environments", "lamp", LAMP)
    collect("lamp", "lamp", tmp_path / "episodes", episodes=20)
    return tmp_path / "episodes"


def config(data, **options):
    case = CASE["llava"]
    source = {"data": str(data)}
    values = {
        "why": "a test", "vlm": str(folder(case)), "method": "full", "learning_rate": 0.02, "steps": 40,
        "batch_size": 8, "threads": 1, "action_features": "text", "train": [{**source, "part": "train"}],
        "test": [{**source, "part": "held_out"}],
    }  # fmt: skip
    return values | options


class Answers:
    """Stand-in for a VLM that gives the answers of a function to questions."""

    def __init__(self, function):
        self.function = function

    def answer(self, frames, questions, new_tokens):
        return [self.function(frame, question) for frame, question in zip(frames, questions, strict=True)]


def test_difference_at_a_quarter_of_the_size_by_hand():
    """A bright block of 4 x 4 pixels is one of four quarter-size pixels; one bright pixel is a 16th of it."""
    before = np.zeros((8, 8, 3), np.uint8)
    block, pixel = before.copy(), before.copy()
    block[4:, 4:], pixel[0, 0] = 100, 80
    assert difference(before, block) == 100**2 / 4 > 30 > difference(before, pixel) == (80 / 16) ** 2 / 4 > 0
    assert difference(before, before) == 0


def test_recorded_changes_are_those_of_the_next_frame(episodes):
    """Only the tap on the upper half changes the screen, and the malformed action is left out."""
    everything, training, held_out = (
        recorded_changes(EpisodeSource(data=episodes, part=part)) for part in ("all", "train", "held_out")
    )
    assert {(row.action, row.changed) for row in everything.rows} == {
        ("tap(0.500, 0.250)", True), ("tap(0.500, 0.750)", False), ("back()", False),
    }  # fmt: skip
    assert len(everything) == len(training) + len(held_out) < 80 and everything.rows[0].context == {"goal": "light"}
    assert {row.frame // 25 for row in held_out.rows} == {0, 1, 2, 3}  # an episode has five frames
    assert {row.frame // 5 % 5 for row in held_out.rows} == {4} and 4 not in {
        row.frame // 5 % 5 for row in training.rows
    }
    row = held_out.rows[-1]
    assert held_out.frame(row.frame).shape == (32, 32, 3) and set(np.unique(held_out.frame(row.frame))) <= {20, 250}


def test_threshold_and_empty_sets(episodes):
    assert not any(row.changed for row in recorded_changes(EpisodeSource(data=episodes, threshold=230.0**2)).rows)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="no action in part=held_out.*part=all"):
        patch.setattr(changes, "HELD_OUT", 30)
        recorded_changes(EpisodeSource(data=episodes, part="held_out"))


def test_generated_screens_have_the_changes_of_their_walk():
    rows = [{"actions": [["back()", False], ["home()", True]]}, {"actions": []}, {"actions": [["enter()", False]]}]
    found = generated_changes(ScreenSet(rows, np.zeros(0, np.uint8)))
    expected = [(0, "back()", False), (0, "home()", True), (2, "enter()", False)]
    assert [(row.frame, row.action, row.changed) for row in found.rows] == expected


@pytest.mark.parametrize("view", ["text", "drawn"])
def test_examples_ask_what_digiq_asks(episodes, view):
    rows = recorded_changes(EpisodeSource(data=episodes))
    settings = ChangesConfig(**config(episodes, action_features=view))
    drawn = draw_changes([rows, rows], settings, 40, np.random.default_rng(0))
    pairs = {(question.text, question.answer) for _, question in drawn}
    if view == "drawn":
        assert pairs == {("Does the action drawn on the screen change it?", answer) for answer in ("yes", "no")}
        plain = {bytes(np.full((32, 32, 3), value, np.uint8)) for value in (20, 250)}
        frames = {bytes(draw(np.full((32, 32, 3), v, np.uint8), a)) for v in (20, 250) for a in LAMP_TEXTS}
        assert {bytes(frame) for frame, _ in drawn} <= frames and not {bytes(frame) for frame, _ in drawn} & plain
        return
    upper, lower, back = (f"Does {action} change the screen?" for action in LAMP_TEXTS)
    assert pairs == {(upper, "yes"), (lower, "no"), (back, "no")}


LAMP_TEXTS = ("tap(0.500, 0.250)", "tap(0.500, 0.750)", "back()")


def test_sets_are_drawn_in_proportion_to_their_sizes(episodes):
    rows = recorded_changes(EpisodeSource(data=episodes))
    first, second = changes.Changes(rows.rows[:1], rows.frame), changes.Changes(rows.rows[1:4], rows.frame)
    settings = ChangesConfig(**config(episodes, action_question="{action}{goal}"))
    drawn = draw_changes([first, second], settings, 4000, np.random.default_rng(0))
    share = np.mean([question.text == f"{rows.rows[0].action}light" for _, question in drawn])
    expected = np.mean([row.action == rows.rows[0].action for row in rows.rows[:4]])
    assert share == pytest.approx(expected, abs=0.03)


def test_accuracies_by_hand(episodes):
    rows = recorded_changes(EpisodeSource(data=episodes))
    settings = ChangesConfig(**config(episodes))
    counts = {action: sum(row.action == action for row in rows.rows) for action in LAMP_TEXTS}
    total, taps = len(rows), counts[LAMP_TEXTS[0]] + counts[LAMP_TEXTS[1]]
    result = evaluate_changes(Answers(lambda frame, text: "Yes." if "tap" in text else "no"), rows, settings)[
        "questions"
    ]
    assert result == {
        "changed": {"accuracy": round((total - counts[LAMP_TEXTS[1]]) / total, 4), "asked": total},
        "changed, back": {"accuracy": 1.0, "asked": counts["back()"]},
        "changed, tap": {"accuracy": round(counts[LAMP_TEXTS[0]] / taps, 4), "asked": taps},
        MAJORITY: {"accuracy": round(1 - counts[LAMP_TEXTS[0]] / total, 4), "asked": total},
    }


def test_sources_are_told_apart_and_mistakes_named():
    settings = ChangesConfig(**config("x", test=[{"frames": 5, "seed": 3}]))
    assert isinstance(settings.train[0], EpisodeSource) and settings.test == (ScreenSource(frames=5, seed=3),)
    with pytest.raises(ValidationError, match="parts\n *Extra inputs"):
        ChangesConfig(**config("x", train=[{"data": "x", "parts": "all"}]))


def overfit(settings, batch, rate):
    """Train on the same batch in each of 80 steps; return the VLM, and the share of right answers before and after."""
    trained = finetune.load_for_training(settings)
    optimizer = torch.optim.Adam(trained.trained_parameters().values(), lr=rate)
    shares = []
    for _ in range(80):
        loss, metrics = finetune.answer_loss(trained.vlm, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(metrics["right"])
    return trained, shares[0], shares[-1]


@pytest.mark.slow
def test_a_vlm_learns_a_handful_of_transitions(episodes, tmp_path):
    """All weights of a small random VLM learn the opposite of the truth, then LoRA teaches it the truth."""
    settings = ChangesConfig(**config(episodes))
    rows = recorded_changes(settings.train[0])
    different = {(rows.frame(row.frame).max(), row.action): row for row in rows.rows}
    batch = [example(rows, row, settings) for row in different.values()]
    assert len(batch) == 6  # three actions on the dark and on the bright screen
    opposite = {"yes": "no", "no": "yes"}
    wrong = [(frame, ChangeQuestion(asked.text, opposite[asked.answer])) for frame, asked in batch]
    trained, _, right = overfit(settings, wrong, rate=0.01)
    assert right == 1.0
    finetune.export(trained, settings, tmp_path)
    settings = ChangesConfig(**config(episodes, method="lora", vlm=str(tmp_path / "model")))
    _, before, after = overfit(settings, batch, rate=0.01)
    assert before == 0.0 and after == 1.0


@pytest.mark.slow
def test_pretrain_adapts_a_vlm_whose_states_digiq_then_reads(episodes, tmp_path, capsys):
    file = tmp_path / "changes.yaml"
    file.write_text(json.dumps(config(episodes, steps=100, learning_rate=0.01)))
    model = pretrain(file, folder=tmp_path / "run")
    before, after = (read_json(tmp_path / "run" / f"{name}.json") for name in ("evaluation_before", "evaluation"))
    (title,) = before
    assert title == f"{episodes} (held_out)" and before[title]["questions"]["changed"]["accuracy"] == 0
    assert after[title]["questions"]["changed"]["accuracy"] == 1 > after[title]["questions"][MAJORITY]["accuracy"]
    assert "changed, always the more frequent answer" in capsys.readouterr().out
    run = {
        "why": "a test", "environment": "lamp", "task": "lamp", "encoder": "prompted", "vlm": str(model),
        "vlm_options": {"new_tokens": 2, "layers": [-1]}, "algorithm": "digiq", "data": str(episodes), "network": "mlp",
        "algorithm_options": {"action_features": "text", "n": 3, "device": "cpu"}, "steps": 128,
        "evaluation_episodes": 1, "num_envs": 8,
    }  # fmt: skip
    (tmp_path / "digiq.yaml").write_text(json.dumps(run))
    assert (train(load_config(tmp_path / "digiq.yaml"), root=tmp_path / "runs") / "results.json").exists()
    (store,) = (episodes / "embeddings").glob("actions-text-*")
    assert json.loads((store / "store.json").read_text())["shape"][1] == 3


def test_resumed_training_equals_uninterrupted_training(episodes, tmp_path):
    changed = {"method": "lora", "lora": {"r": 2}, "steps": 3, "batch_size": 2, "learning_rate": 1e-3}
    settings = ChangesConfig(**config(episodes, **changed))
    draw = partial(draw_changes, [recorded_changes(settings.train[0])], settings)

    def stop(stage, step, metrics):
        if step == 1:
            raise KeyboardInterrupt

    def adapted(name, on_step=lambda *_: None):
        (tmp_path / name).mkdir(exist_ok=True)
        trained = finetune.load_for_training(settings)
        finetune.train(trained, draw, settings, tmp_path / name, on_step)
        return trained.trained_parameters()

    expected = adapted("uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        adapted("interrupted", stop)
    resumed = adapted("interrupted")
    assert all(torch.equal(weight, resumed[name]) for name, weight in expected.items())

"""Players that do not learn, further evaluations, and their rows; the world's outcome follows from its options."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import toy_screen
import yaml
from toy_runs import TOY

from pr2l.benchmark import runner, unlearned
from pr2l.benchmark.report import markdown, of_task, summarise, task_head
from pr2l.benchmark.rows import read_rows, row_of
from pr2l.benchmark.suites import load_suite
from pr2l.benchmark.unlearned import play
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.training.runs import Run

LEVELS = '''
"""Episodes of two steps that succeed if both actions are those of the script, and the option `closed` is off."""
import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict

class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    closed: bool = False

class Task:
    prompt, horizon, contexts = None, 2, ({},)
    reward = success = "both actions are 7"

TASKS = {"levels": Task()}

def kinds(task):
    return ()

def oracle(task):
    return lambda env: 7

def make(task, options=None, *, split="train", labels=False):
    return Levels(options or Defaults())

class Levels(gym.Env):
    metadata = {"render_fps": 5}
    action_space = gym.spaces.Discrete(1000)
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (4, 4, 3), np.uint8))

    def __init__(self, options):
        self.options = options

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.right = 0, True
        return self.frame(), {"context": {}, "success": False}

    def step(self, action):
        self.steps += 1
        self.right &= action == 7
        success = bool(self.right and self.steps == 2 and not self.options.closed)
        return self.frame(), float(success), self.steps == 2, False, {"context": {}, "success": success}

    def frame(self):
        return {"frame": np.full((4, 4, 3), 60 * self.steps, np.uint8)}
'''
OPTIONS = {"n_steps": 16, "n_epochs": 1, "batch_size": 64, "head_sizes": [16], "device": "cpu"}
METHOD = TOY | {"environment": "levels", "task": "levels", "algorithm_options": OPTIONS, "steps": 64}
SUITE = {
    "why": "a world with a closed level",
    "version": 1,
    "tasks": {"levels/levels": {"overrides": ["evaluations.closed.closed=true"]}},
    "methods": {
        "pixels": {"config": "pixels"},
        "script": {"config": "pixels", "player": "script"},
    },
    "baseline": "pixels",
    "seeds": [0, 1],
    "evaluation_episodes": 4,
    "threshold": 0.5,
}


@pytest.fixture
def levels(write_plugin, tmp_path, monkeypatch):
    """The suite `levels`; the working folder is tmp_path."""
    monkeypatch.chdir(tmp_path)
    write_plugin("environments", "levels", LEVELS)
    write_plugin("configs", "levels/levels/pixels", yaml.safe_dump(METHOD))
    write_plugin("configs", "benchmarks/levels", yaml.safe_dump(SUITE, sort_keys=False))
    return load_suite("levels")


def test_script_plays_each_evaluation_with_its_options(levels):
    planned = levels.plan("levels/levels", "script", 0)
    run = play(planned.config, planned.player, Path("runs"))
    results = run.results()
    assert results["played"]["success"] == [1.0] * 4 and results["evaluation"]["length"] == 2
    assert results["random"]["success"]["value"] == 0
    assert list(results["evaluations"]) == ["closed"]
    assert results["evaluations"]["closed"]["played"]["success"] == [0.0] * 4
    assert (run.path / "video.mp4").exists() or (run.path / "video.gif").exists()


def test_runs_of_a_player_and_of_a_policy_give_rows_and_columns(levels):
    for planned in levels.planned():
        runner._make(levels, planned, Path("out/levels"), threads=1)
    assert runner.missing(levels, Path("out/levels")) == []
    rows = read_rows(Path("out"), levels)
    assert [(row.method, row.seed) for row in rows] == [("pixels", 0), ("pixels", 1), ("script", 0)]
    assert rows[2].command == "pr2l bench run levels" and rows[2].results["steps"] == 0
    [folder] = Path("out/levels", rows[2].name).glob("*/results.json")
    assert row_of(Run.load(folder.parent), levels).method == "script"  # though its config is that of `pixels`
    summary = summarise(levels, rows)
    assert (summary["rows"], summary["wanted"]) == (3, 3)
    assert task_head(summary, "levels/levels")[:3] == ("method", "success rate", "success rate, closed")
    # Wilson's interval of 4 of 4, and of 0 of 4 episodes
    assert of_task(summary, "levels/levels")[0][:3] == ("script", "1.00 [0.51, 1.00]", "0.00 [0.00, 0.49]")
    assert "| script | 1.00 [0.51, 1.00] | 0.00 [0.00, 0.49] |" in markdown(summary)


def test_row_without_an_evaluation_of_its_config_is_refused(levels):
    planned = levels.plan("levels/levels", "script", 0)
    runner._make(levels, planned, Path("out/levels"), threads=1)
    path = Path("out/levels") / f"{planned.name}.json"
    values = read_json(path)
    trained = {key: value for key, value in values["results"].items() if key != "player"}
    write_json(path, values | {"results": trained})
    with pytest.raises(UserError, match="was played by a trained policy, and not by script"):
        read_rows(Path("out"), levels)
    edited = {"evaluation": {"success": {"value": 0.25}, "length": 2}, "random": values["results"]["random"]}
    edited["played"] = {"success": [0.0] * 4, "return": [0.0] * 4}
    for evaluations, message in (({}, "incomplete: KeyError"), ({"closed": edited}, "is not the mean of its episodes")):
        write_json(path, values | {"results": values["results"] | {"evaluations": evaluations}})
        with pytest.raises(UserError, match=message):
            read_rows(Path("out"), levels)


def test_evaluation_with_an_unknown_option_names_the_most_similar_one(levels):
    with pytest.raises(UserError, match="unknown key 'close'. Did you mean 'closed'"):
        load_config("levels/levels/pixels", ["evaluations.other.close=true"])


def test_zero_shot_needs_actions_as_text(levels):
    config = levels.plan("levels/levels", "script", 0).config
    with pytest.raises(UserError, match="needs environment_options.actions=text"):
        play(config, "zero_shot", Path("runs"))


def test_zero_shot_vlm_is_asked_the_question_of_the_prompt(write_plugin, tmp_path, monkeypatch):
    """The VLM taps the middle of the button that the question names."""

    class Asked:
        questions: ClassVar[set[str]] = set()

        def __init__(self, vlm, options):
            assert (vlm, options.max_new_tokens) == ("a VLM", 24)

        def generate(self, conversations, n, temperature, seed):
            return [[self.answer(*messages[0]["content"])] for messages in conversations]

        def answer(self, image, text):
            self.questions.add(text["text"])
            colour = next(name for name in toy_screen.COLOURS if name in text["text"])
            rows, columns = np.nonzero((image["image"] == toy_screen.COLOURS[colour]).all(axis=-1))
            return f"tap({columns.mean() / toy_screen.WIDTH:.3f}, {rows.mean() / toy_screen.HEIGHT:.3f})"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unlearned, "load_vlm", lambda name, options: f"a {name}")
    monkeypatch.setattr(unlearned, "PromptedAgent", Asked)
    write_plugin("environments", "screen", Path(toy_screen.__file__).read_text())
    (tmp_path / "tap.yaml").write_text("text: 'Where do I {goal}?'\nslots: [goal]\nwhy: a test\nsource: a test")
    config = METHOD | {"environment": "screen", "task": "buttons", "vlm": "VLM", "prompt": str(tmp_path / "tap.yaml")}
    config |= {"environment_options": {"actions": "text"}, "vlm_options": {"new_tokens": 24}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = play(load_config(str(tmp_path / "config.yaml")), "zero_shot", tmp_path / "runs")
    results = run.results()
    assert Asked.questions == {f"Where do I tap the {colour} button?" for colour in toy_screen.COLOURS}
    assert results["player"] == "zero_shot" and results["steps"] == 0
    assert results["played"]["success"] == [1.0] * 10 and results["evaluation"]["length"] == 1


def test_data_commands_run_once_in_their_order(levels, tmp_path, monkeypatch):
    commands = []

    def run(words, check):
        commands.append(words[3:])
        Path(words[-1]).mkdir(parents=True, exist_ok=True)
        return runner.subprocess.CompletedProcess(words, 1 if "fails" in words else 0)

    monkeypatch.setattr(runner.subprocess, "run", run)
    data = {"data/a": "collect levels levels 'x=[1, 2]'", "data/b": "evaluator label data/a noisy"}
    suite = tmp_path / "with_data.yaml"
    suite.write_text(yaml.safe_dump(SUITE | {"data": data}))
    for _ in range(2):
        runner.prepare(load_suite(str(suite)))
    collected = ["collect", "levels", "levels", "x=[1, 2]", "--output", "data/a"]
    labelled = ["evaluator", "label", "data/a", "noisy", "--output", "data/b"]
    assert commands == [collected, labelled, collected]  # `pr2l collect` continues what it has begun
    suite.write_text(yaml.safe_dump(SUITE | {"data": {"data/c": "fails"}}))
    with pytest.raises(UserError, match="needs the data of with_data.*\npr2l fails --output data/c"):
        runner.plan(str(suite), Path("out"))
    with pytest.raises(UserError, match="pr2l fails --output data/c' ended with exit code 1"):
        runner.prepare(load_suite(str(suite)))

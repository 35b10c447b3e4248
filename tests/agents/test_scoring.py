"""Agreement of an evaluator with the environment, worked by hand, and `pr2l evaluator score` on small data sets."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import minari
import numpy as np
import pytest
from api_server import gemini, running
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from pr2l.agents.agreement import agreement
from pr2l.agents.evaluators.base import Evaluator
from pr2l.agents.judging import action_texts, score_steps
from pr2l.agents.labelling import label
from pr2l.agents.scoring import score
from pr2l.core.errors import UserError
from pr2l.core.io import read_json
from pr2l.data.recording import Recording
from pr2l.data.space_arrays import stack

ROOT = Path(__file__).parents[2]
FRAME = spaces.Dict(frame=spaces.Box(0, 255, (4, 3, 3), np.uint8))

DISCRETE = spaces.Discrete(9)


def write(folder, successes, action_space=DISCRETE, actions=(3, 4), infos=None, context="goal", terminated=True):
    """Write a data set whose episodes have two steps, three different screens, and these verdicts."""
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", FRAME, action_space, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__})
    for number, success in enumerate(successes):
        greys = np.array([0, 100, 200])[:, None, None, None] + np.full((1, 4, 3, 3), number)
        buffer = EpisodeBuffer(
            observations={"frame": greys.astype(np.uint8)},
            actions=stack(action_space, actions),
            rewards=[0.0, 0.0],
            terminations=[False, terminated],
            truncations=[False, not terminated],
            infos=infos,
        )
        storage.update_episodes([buffer])
        verdict = {} if success is None else {"success": success}
        storage.update_episode_metadata([{f"context/{context}": f"task {number}", **verdict}], [number])
    return folder


def test_agreement_worked_by_hand():
    probabilities = [0.9, 0.8, 0.5, 0.3, 0.1, 0.0, 1.0, None, None]
    successes = [True, False, True, True, False, False, True, True, False]
    result = agreement(probabilities, successes, bins=5)
    assert result.precision == (3, 4)  # 0.9 0.5 1.0 among 0.9 0.8 0.5 1.0
    assert result.recall == (3, 4)  # 0.9 0.5 1.0 among 0.9 0.5 0.3 1.0
    assert result.false_positives == (1, 3)  # 0.8 among 0.8 0.1 0.0
    assert result.accuracy == (5, 7)
    assert (result.abstentions, result.successes_abstained) == ((2, 9), (1, 2))
    assert result.brier == pytest.approx(0.2)  # (0.01 + 0.64 + 0.25 + 0.49 + 0.01 + 0 + 0) / 7
    assert result.ece == pytest.approx(2 / 7)  # (2 * 0.05 + 0.7 + 0.5 + 3 * 0.7 / 3) / 7
    assert [row.episodes for row in result.bins] == [2, 1, 1, 0, 3]
    assert result.bins[0][3:] == (pytest.approx(0.05), 0.0) and result.bins[3][3:] == (None, None)
    assert result.bins[4] == (0.8, 1.0, 3, pytest.approx(0.9), pytest.approx(2 / 3))
    assert result.precision.value == 0.75
    assert result.precision.interval[1:] == (pytest.approx(0.3006, abs=1e-4), pytest.approx(0.9544, abs=1e-4))


def test_perfect_and_inverted_evaluators():
    successes = [True, True, False, False]
    perfect, inverted = (agreement([float(s != wrong) for s in successes], successes) for wrong in (False, True))
    assert (perfect.brier, perfect.ece, perfect.precision.value, perfect.false_positives.value) == (0, 0, 1, 0)
    assert (inverted.brier, inverted.ece, inverted.recall.value, inverted.false_positives.value) == (1, 1, 0, 1)


def test_undefined_shares_are_none():
    nothing = agreement([None, None], [True, False])
    assert (nothing.precision.value, nothing.recall.interval, nothing.brier, nothing.ece) == (None, None, None, None)
    assert nothing.to_json()["precision"] == {"value": None, "episodes": 0, "among": 0}
    only_failures = agreement([0.2, 0.7], [False, False])
    assert (only_failures.precision, only_failures.recall, only_failures.false_positives) == ((0, 1), (0, 0), (1, 2))


class Steps(Evaluator):
    """Evaluator that returns the next of its numbers, and keeps what it gets."""

    def __init__(self, *numbers):
        self.numbers, self.calls = list(numbers), []

    def score(self, task, frames, actions, success=None):
        self.calls.append((len(frames), len(actions), success))
        return self.numbers.pop(0)


@pytest.mark.parametrize(
    ("numbers", "probability", "calls"),
    [
        ((0.1, 0.6, 0.0), 0.6, 2),  # the first success ends the episode
        ((0.1, 0.4, 0.2), 0.4, 3),
        ((None, 0.3, None), 0.3, 3),
        ((None, None, None), None, 3),
        ((0.5, 0.9, 0.9), 0.5, 1),
    ],
)
def test_score_of_every_step(numbers, probability, calls):
    evaluator = Steps(*numbers)
    frames = [np.zeros((1, 1, 3), np.uint8)] * 4
    assert score_steps(evaluator, "t", frames, ["a", "b", "c"], True) == probability
    assert evaluator.calls == [(2, 1, False), (3, 2, False), (4, 3, True)][:calls]


@pytest.mark.parametrize(
    ("space", "actions", "texts"),
    [
        (spaces.Discrete(9), (3, 4), ["3", "4"]),
        (spaces.MultiDiscrete([10, 144]), ((1, 2), (9, 143)), ["[1, 2]", "[9, 143]"]),
        (spaces.Text(40), ("tap(0.5, 0.5)", 'type("a")'), ["tap(0.5, 0.5)", 'type("a")']),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.Text(9)), ({"a": 1, "b": "x"},) * 2, ['{"a": 1, "b": "x"}'] * 2),
        (spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)]), ((1, 0), (2, 1)), ["[1, 0]", "[2, 1]"]),
    ],
)
def test_actions_as_text(space, actions, texts, tmp_path):
    assert action_texts(Recording(write(tmp_path / "d", [True], space, actions)), 0) == texts


def test_actions_from_the_infos(tmp_path):
    infos = {"action": ['""', '"tap(0.500, 0.250)"', '"back()"']}
    data = Recording(write(tmp_path / "d", [True], infos=infos))
    assert action_texts(data, 0, "action") == ["tap(0.500, 0.250)", "back()"]
    with pytest.raises(UserError, match=r"has no infos\['act'\]; it has: action"):
        action_texts(data, 0, "act")


def test_state_agrees_and_wrong_labels_do_not(tmp_path, capsys):
    folder = write(tmp_path / "d", [True, False, True, None, False])
    result = score(folder, "state", out=tmp_path / "s.json", cache=tmp_path / "a.jsonl")
    assert (result.precision, result.recall, result.false_positives) == ((2, 2), (2, 2), (0, 2))
    wrong = score(folder, "noisy", {"share": 1.0}, out=tmp_path / "n.json", cache=tmp_path / "a.jsonl")
    assert (wrong.precision, wrong.recall, wrong.false_positives) == ((0, 2), (0, 2), (2, 2))
    assert not (tmp_path / "a.jsonl").exists()
    output = capsys.readouterr().out
    assert "noisy on" in output and "false positives on failures" in output
    assert f"written to {tmp_path}/n.json" in output
    report = read_json(tmp_path / "n.json")
    assert report["agreement"]["accuracy"] == {"value": 0.0, "episodes": 0, "among": 4}
    assert report["episodes"][1] == {"episode": 1, "task": "task 1", "success": False, "probability": 1.0}
    assert [row["episode"] for row in report["episodes"]] == [0, 1, 2, 4]
    assert report["options"] == {"share": 1.0} and report["data"]["episodes"] == 5


def test_number_of_episodes_and_instruction(tmp_path):
    folder = write(tmp_path / "d", [True, False, True], context="target")
    files = {"out": tmp_path / "s.json", "cache": tmp_path / "a.jsonl"}
    score(folder, "state", instruction="take the {target}, {{now}}", episodes=2, **files)
    assert [row["task"] for row in read_json(tmp_path / "s.json")["episodes"]] == [
        "take the task 0, {now}",
        "take the task 1, {now}",
    ]
    with pytest.raises(UserError, match=r"has the slot \{goal\}, but the contexts of .* have \{target\}"):
        score(folder, "state", **files)
    for wrong in ("{target", "{target.x}", "{}", "{0}"):
        with pytest.raises(UserError, match="the instruction"):
            score(folder, "state", instruction=wrong, **files)
    with pytest.raises(UserError, match="no episode of .* has the environment's verdict"):
        score(write(tmp_path / "e", [None]), "state", **files)


def test_labelled_data_set_has_the_labels_of_the_evaluator(tmp_path, capsys):
    folder = write(tmp_path / "d", [True, False, None, True])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    scores = label(folder, "noisy", tmp_path / "new", {"share": 1.0}, cache=tmp_path / "a.jsonl")
    assert scores == {0: 0.0, 1: 1.0, 2: None, 3: 0.0}
    assert "4 episodes are in" in (output := capsys.readouterr().out)
    assert "1 successes, 3 failures, of which 1 abstentions" in output
    data, original = Recording(tmp_path / "new"), Recording(folder)
    assert data.successes == [False, True, False, False]
    rewards = [data.episode(number).rewards.tolist() for number in range(4)]
    assert rewards == [[0, 0], [0, 1], [0, 0], [0, 0]]
    assert np.array_equal(data.frames(3), original.frames(3)) and data.contexts == original.contexts
    assert {path: path.read_bytes() for path in before} == before
    assert data.key != original.key
    metadata = data.storage.metadata
    assert (metadata["dataset_id"], metadata["evaluator"]) == ("new", "noisy")
    assert metadata["evaluator_options"] == {"share": 1.0}
    with pytest.raises(UserError, match="new exists already"):
        label(folder, "state", tmp_path / "new", cache=tmp_path / "a.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "new"]


def test_success_terminates_an_episode_that_was_truncated(tmp_path):
    folder = write(tmp_path / "d", [True, False], terminated=False)
    label(folder, "noisy", tmp_path / "new", {"share": 1.0}, cache=tmp_path / "a.jsonl")
    episodes = [Recording(tmp_path / "new").episode(number) for number in range(2)]
    assert [(e.terminated.tolist(), e.truncated.tolist()) for e in episodes] == [
        ([False, False], [False, True]),
        ([False, True], [False, False]),
    ]


def command(server, folder, tmp_path):
    options = {"base_url": server.url, "key_variable": "KEY_OF_THE_TEST", "parallel": 1, "input_price": 1.0}
    words = ["evaluator", "score", str(folder), "vlm", "api=gemini", "model=m"]
    words += [f"model_options.{key}={value}" for key, value in options.items()]
    return [*words, "--out", str(tmp_path / "r.json"), "--cache", str(tmp_path / "a.jsonl")]


@pytest.fixture
def run(tmp_path):
    """Return run(words), which starts `pr2l`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KEY_OF_THE_TEST": "secret-of-the-test"}

    def start(words):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-m", "pr2l", *words], cwd=tmp_path, env=environment, **pipes)

    return start


def test_interrupted_score_continues_and_pays_for_the_rest_alone(tmp_path, run):
    folder = write(tmp_path / "d", [True, False, True, False])
    answers = [gemini("Status: success"), gemini("Status: success"), gemini("no idea"), gemini("Status: failure")]
    with running() as server:
        server.responses = [*answers[:2], (60.0, *answers[2])]
        first = run(command(server, folder, tmp_path))
        wait_for(lambda: len(server.requests) == 3)
        first.send_signal(signal.SIGINT)
        output, errors = first.communicate(timeout=20)
        assert first.returncode == 130, output + errors
        assert "2 of 4 episodes are scored; run the same command to continue" in output
        assert not (tmp_path / "r.json").exists()
        server.responses = answers[2:]
        second = run(command(server, folder, tmp_path))
        output, errors = second.communicate(timeout=60)
        assert second.returncode == 0, output + errors
        assert len(server.requests) == 5  # the interrupted one was sent twice
    assert "2 requests, 2 answers from the cache, 542 tokens in, 6 out, $0.0005" in output
    report = read_json(tmp_path / "r.json")
    assert [row["probability"] for row in report["episodes"]] == [1.0, 1.0, None, 0.0]
    assert report["agreement"]["precision"] == {"value": 0.5, "episodes": 1, "among": 2}
    assert report["agreement"]["abstentions"]["episodes"] == 1
    assert report["usage"] == {"requests": 2, "input_tokens": 542, "output_tokens": 6, "dollars": 542e-6, "cached": 2}
    replayed = run([*command(server, folder, tmp_path), "--replay"])  # without a server
    assert replayed.wait(60) == 0
    assert read_json(tmp_path / "r.json")["agreement"] == report["agreement"]
    for file in tmp_path.rglob("*.json*"):
        assert "secret" not in file.read_text()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_step_asks_once_per_screen(tmp_path, monkeypatch):
    folder = write(tmp_path / "d", [True])
    monkeypatch.setenv("KEY_OF_THE_TEST", "secret")
    with running() as server:
        server.responses = [gemini("Status: failure"), gemini("Status: success")]
        options = {"base_url": server.url, "key_variable": "KEY_OF_THE_TEST"}
        files = {"out": tmp_path / "r.json", "cache": tmp_path / "a.jsonl"}
        values = {"api": "gemini", "model": "m", "model_options": options}
        result = score(folder, "vlm", values, every_step=True, **files)
    assert result.recall == (1, 1) and len(server.requests) == 2


def test_errors_of_the_command(run):
    for words, message in (
        ("evaluator score none sttae", "Did you mean 'state'"),
        ("evaluator score none vlm modle=x", "Did you mean 'model'"),
        ("evaluator score none state", "none is not a data set"),
    ):
        process = run(shlex.split(words))
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 2 and message in errors and "Traceback" not in errors

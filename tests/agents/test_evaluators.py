"""Evaluators on episodes and models whose verdicts are known."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from api_server import gemini, openai, running
from small_vlms import CASE, load, shared_processors  # noqa: F401
from test_agents import text

from pr2l.agents.evaluators import AnswerCache, load_evaluator
from pr2l.agents.evaluators.common.judges import LocalJudge, VotingJudge, vote
from pr2l.agents.evaluators.common.prompts import Example, conversation, read_examples
from pr2l.agents.evaluators.common.screens import changed_screens, same_screen, shrink
from pr2l.agents.evaluators.noisy import NoisyEvaluator, flip_labels, uniform
from pr2l.agents.evaluators.state import StateEvaluator
from pr2l.agents.evaluators.trajectory import Defaults as TrajectoryDefaults
from pr2l.agents.evaluators.trajectory import TrajectoryEvaluator
from pr2l.agents.evaluators.vlm import Defaults, LastScreensEvaluator
from pr2l.agents.prompted import PromptedAgent
from pr2l.agents.usage import Usage
from pr2l.core import registry
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.messages import split_images

TASK = "turn on Wi-Fi"


def screen(grey, height=4, width=3):
    return np.full((height, width, 3), grey, np.uint8)


class Model:
    """Agent that answers each question with the next of its texts, and keeps the questions."""

    def __init__(self, *texts):
        self.texts, self.questions = list(texts), []

    def generate(self, messages, n=1, temperature=0.0, seed=0):
        assert len(messages) == 1
        split_images(messages[0])  # they are valid
        self.questions.append(messages[0])
        return [[self.texts.pop(0) for _ in range(n)]]


def judge(*texts, samples=1):
    return VotingJudge(Model(*texts), {}, AnswerCache(), samples, 1.0)


def last_screens(*texts, examples=(), **options):
    return LastScreensEvaluator(judge(*texts), Defaults(**options), examples)


def words_of(question):
    return [part["text"] if part["type"] == "text" else part["image"].shape for part in question[1]["content"]]


def greys_of(question):
    return [int(part["image"][0, 0, 0]) for part in question[1]["content"] if part["type"] == "image"]


def score(evaluator, *greys, success=None):
    return evaluator.score(TASK, [screen(grey) for grey in greys], ["tap(0.5, 0.5)"] * (len(greys) - 1), success)


def test_every_evaluator_is_found_by_its_file_name():
    assert set(registry.names("evaluators")) >= {"noisy", "question", "state", "trajectory", "vlm"}
    with pytest.raises(UnknownName, match="Did you mean 'state'"):
        load_evaluator("sttae")
    with pytest.raises(UserError, match="unknown key 'shar'.*Did you mean 'share'"):
        load_evaluator("noisy", {"shar": 0.1})
    assert isinstance(load_evaluator("state"), StateEvaluator)


def test_an_evaluator_is_one_new_file(write_plugin):
    source = '"""Never sure."""\n\nfrom pr2l.agents.evaluators.base import Evaluator\n'
    source += "from pr2l.agents.evaluators.state import Defaults\n\n"
    source += (
        "class Never(Evaluator):\n    def score(self, task, frames, actions, success=None):\n        return None\n\n"
    )
    source += "def create(options, cache):\n    return Never()\n"
    write_plugin("evaluators", "never", source)
    assert score(load_evaluator("noisy", {"evaluator": "never", "share": 1.0}), 0, 1, success=True) is None


def test_state_is_the_verdict_of_the_environment():
    scores = [score(load_evaluator("state"), 0, 1, success=success) for success in (True, False, None)]
    assert scores == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("answers", "probability"),
    [
        (["Status: success"], 1.0),
        (["The screen shows the list. status: **Failure**"], 0.0),
        (["I expect Status: success, but it is off.\nStatus: failure"], 0.0),  # the last verdict counts
        (["Status: successful"], None),
        (["", "I cannot see it"], None),
        (["Status: success", "Status: failure", "no idea", "Status: success"], 2 / 3),
    ],
)
def test_vote_is_the_share_of_success_among_the_verdicts(answers, probability):
    assert vote(answers) == probability
    voting = judge(*answers, samples=len(answers))
    assert voting.probability(conversation([text("?")])) == probability
    assert len(voting.agent.questions) == 1


def test_local_probability_compares_the_two_answers():
    agent = PromptedAgent(load(CASE["idefics3"], device="cpu"))
    evaluator = LastScreensEvaluator(LocalJudge(agent, {}, AnswerCache()), Defaults())
    frames = [screen(grey, 32, 32) for grey in (0, 200)]
    question = evaluator.question(TASK, frames)
    success, failure = agent.log_prob([question] * 2, ["Status: success", "Status: failure"]).tolist()
    expected = math.exp(success) / (math.exp(success) + math.exp(failure))
    assert evaluator.score(TASK, frames, ["tap"]) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 1 and abs(success - failure) > 1e-3
    with torch.enable_grad():
        assert isinstance(evaluator.score(TASK, [*frames, frames[0]], ["tap", "tap"]), float)


def test_question_compares_yes_and_no_about_the_last_screen():
    evaluator = load_evaluator("question", {"question": "is there a {task} ?"})
    frames = [screen(grey, 120, 160) for grey in (0, 80)]
    words = [{"type": "image", "image": frames[-1]}, text("is there a medikit ?")]
    yes, no = evaluator.judge.agent.log_prob([[{"role": "user", "content": words}]] * 2, ["yes", "no"]).tolist()
    expected = math.exp(yes) / (math.exp(yes) + math.exp(no))
    assert evaluator.score("medikit", frames, ["3"]) == pytest.approx(expected, abs=1e-6)
    assert expected < 0.5  # tiny sees no medikit in a grey frame
    swapped = load_evaluator("question", {"question": "is there a {task} ?", "answers": ["no", "yes"]})
    assert swapped.score("medikit", frames, ["3"]) == pytest.approx(1 - expected, abs=1e-6)


def test_screens_differ_from_the_tolerance_of_the_released_evaluator():
    """0.001 * 255^2 = 65.025: 8^2 = 64 is below it, 9^2 = 81 is not."""
    assert same_screen(screen(100), screen(108), 0.001) and same_screen(screen(108), screen(100), 0.001)
    assert not same_screen(screen(100), screen(109), 0.001)
    assert same_screen(screen(0), screen(255), 1.001) and not same_screen(screen(0), screen(255), 1.0)
    assert not same_screen(screen(100), screen(100), 0.0)
    assert not same_screen(screen(100, 4, 3), screen(100, 3, 4), 0.001)
    one_pixel = screen(100, 10, 10)
    one_pixel[0, 0] = 181  # 81^2 / 100 = 65.61 in the mean of 100 pixels
    assert not same_screen(screen(100, 10, 10), one_pixel, 0.001)
    one_pixel[0, 0] = 180  # 64.00
    assert same_screen(screen(100, 10, 10), one_pixel, 0.001)


def test_changed_screens_are_compared_with_the_last_kept_one():
    greys = [0, 5, 10, 10, 0]
    assert [int(frame[0, 0, 0]) for frame in changed_screens([screen(grey) for grey in greys], 0.001)] == [0, 10, 0]
    assert len(changed_screens([screen(grey) for grey in greys], 0.0)) == 5


def test_question_has_the_parts_of_the_released_prompt():
    example = Example(screen(1, 2, 2), "open Chrome", "The browser should be open. It is.", "success")
    evaluator = last_screens("Status: success", examples=[example, Example(screen(2, 2, 2), "go home", "", "failure")])
    assert score(evaluator, 0, 50, 100) == 1.0
    (question,) = evaluator.judge.agent.questions
    assert [message["role"] for message in question] == ["system", "user"]
    assert words_of(question) == [
        "===== Examples =====",
        *("Screenshot:", (2, 2, 3), "Task: open Chrome\nThe browser should be open. It is.\nStatus: success"),
        *("Screenshot:", (2, 2, 3), "Task: go home\nStatus: failure"),
        "===== Now decide =====",
        "Task: turn on Wi-Fi",
        *("Screenshot:", (4, 3, 3), "Screenshot:", (4, 3, 3)),
        evaluator.judge.instruction,
    ]
    assert greys_of(question) == [1, 2, 50, 100]


def test_unchanged_screens_are_not_judged():
    evaluator = last_screens(tolerance=0.001)
    assert score(evaluator, 100) == score(evaluator, 100, 100, 101) == 0.0
    assert evaluator.judge.agent.questions == []
    evaluator = last_screens("Status: success")
    assert score(evaluator, 0, 50, 100) == score(evaluator, 0, 50, 100, 100) == score(evaluator, 0, 50, 50, 100) == 1.0
    assert len(evaluator.judge.agent.questions) == 1


@pytest.mark.parametrize(("options", "probability"), [({}, 1.0), ({"tolerance": 0.001}, 0.0)])
def test_small_switch_on_a_phone_is_a_change(options, probability):
    """A grey switch of 22 x 12 pixels turns blue; the mean squared difference is 33, below the released 65.025."""
    before, after = screen(255, 448, 252), screen(255, 448, 252)
    before[100:112, 200:222], after[100:112, 200:222] = (200, 200, 200), (0, 122, 255)
    difference = 22 * 12 * (200**2 + 78**2 + 55**2) / (448 * 252 * 3)
    assert 30 < difference < 40
    assert last_screens("Status: success", **options).score(TASK, [before, after], ["tap"]) == probability


def test_repeated_screen_keeps_its_verdict():
    evaluator = last_screens("Status: failure", "Status: success")
    assert [score(evaluator, *greys) for greys in ((0, 50), (0, 50, 100), (0, 50, 100, 50))] == [0.0, 1.0, 0.0]
    assert [greys_of(question) for question in evaluator.judge.agent.questions] == [[0, 50], [50, 100]]
    assert evaluator.usage().cached == 1
    evaluator = last_screens("Status: success", skip_repeated=False)
    assert score(evaluator, 0, 50, 100, 50) == 1.0
    assert greys_of(evaluator.judge.agent.questions[0]) == [100, 50]


def test_first_screen_again_is_judged():
    """Many tasks end on the home screen, where the episode has started."""
    evaluator = last_screens("Status: success")
    assert score(evaluator, 0, 50, 0) == 1.0
    assert greys_of(evaluator.judge.agent.questions[0]) == [50, 0]


def test_without_tolerance_every_screen_is_judged():
    evaluator = last_screens("Status: success", "Status: failure", tolerance=0)
    assert (score(evaluator, 100), score(evaluator, 100, 100)) == (1.0, 0.0)


def test_number_of_last_screens():
    evaluator = last_screens("Status: success", "Status: success", screens=1)
    score(evaluator, 0, 50, 100)
    assert greys_of(evaluator.judge.agent.questions[0]) == [100]


def test_trajectory_shows_all_screens_and_actions():
    evaluator = TrajectoryEvaluator(judge("Status: success"), TrajectoryDefaults(screen_height=2))
    assert evaluator.score(TASK, [screen(grey, 4, 6) for grey in (0, 50, 50)], ["tap(0.5, 0.5)", "back()"]) == 1.0
    (question,) = evaluator.judge.agent.questions
    assert words_of(question) == [
        "Task: turn on Wi-Fi",
        *("Screenshot 1:", (2, 3, 3), "Action 1: tap(0.5, 0.5)"),
        *("Screenshot 2:", (2, 3, 3), "Action 2: back()"),
        *("Screenshot 3:", (2, 3, 3)),
        evaluator.judge.instruction,
    ]


def test_long_trajectory_shows_evenly_spread_screens_and_all_actions():
    evaluator = TrajectoryEvaluator(judge(), TrajectoryDefaults(max_screens=3))
    actions = [f"a{number}" for number in range(8)]
    question = evaluator.question(TASK, [screen(grey) for grey in range(9)], actions)
    assert greys_of(question) == [0, 4, 8]
    four = TrajectoryEvaluator(judge(), TrajectoryDefaults(max_screens=4))
    assert greys_of(four.question(TASK, [screen(grey) for grey in range(9)], actions)) == [0, 3, 5, 8]
    assert sum(str(part).startswith("Action") for part in words_of(question)) == 8


def test_episode_has_one_frame_more_than_actions():
    for evaluator in (last_screens(), TrajectoryEvaluator(judge(), TrajectoryDefaults())):
        with pytest.raises(ValueError, match="2 frames for 2 actions"):
            evaluator.score(TASK, [screen(0), screen(1)], ["a", "b"])


def test_shrink_keeps_the_shape_of_a_screen():
    assert shrink(screen(7, 2280, 1080), 570).shape == (570, 270, 3)
    assert shrink(screen(7, 8, 3), 4)[0, 0].tolist() == [7, 7, 7]
    small = screen(7, 448, 252)
    assert shrink(small, 570) is small
    assert shrink(screen(7, 100, 1), 10).shape == (10, 1, 3)


def test_examples_of_a_file(tmp_path):
    from PIL import Image

    Image.fromarray(screen(9, 8, 4)).save(tmp_path / "a.png")
    file = tmp_path / "examples.yaml"
    file.write_text("examples:\n- {image: a.png, task: open Chrome, status: success, reason: It is open.}\n")
    (example,) = read_examples(file, 4)
    assert example.screen.shape == (4, 2, 3) and example[1:] == ("open Chrome", "It is open.", "success")
    file.write_text("examples:\n- {image: a.png, task: open Chrome, status: sucess}\n")
    with pytest.raises(UserError, match="status = 'sucess'.*'success' or 'failure'"):
        read_examples(file, 4)
    file.write_text("examples:\n- {image: b.png, task: open Chrome, status: success}\n")
    with pytest.raises(UserError, match="no image file.*b.png"):
        read_examples(file, 4)
    with pytest.raises(UserError, match="no file of examples"):
        read_examples(tmp_path / "none.yaml", 4)


def test_samples_need_a_temperature():
    with pytest.raises(UserError, match="samples=3 are all equal at temperature=0"):
        load_evaluator("vlm", {"samples": 3})


@pytest.mark.parametrize("api", ["gemini", "openai_server"])
def test_evaluator_with_an_api_is_recorded_and_replayed_without_a_key(api, tmp_path, monkeypatch):
    response = {"gemini": gemini, "openai_server": openai}[api]
    frames, cache = [screen(0), screen(200)], tmp_path / "answers.jsonl"
    with running() as server:
        server.responses = [response("Status: success"), response("It is off. Status: failure"), response("?")]
        url = {"base_url": server.url, "key_variable": "KEY_OF_THE_TEST", "input_price": 2.0, "parallel": 1}
        options = {"api": api, "model": "m", "model_options": url, "samples": 3, "temperature": 1.0}
        monkeypatch.setenv("KEY_OF_THE_TEST", "secret-of-the-test")
        evaluator = load_evaluator("vlm", options, AnswerCache(cache))
        assert [evaluator.score(TASK, frames, ["tap"]) for _ in range(2)] == [0.5, 0.5]
        assert evaluator.usage() == Usage(3, 813, 9, pytest.approx(813 * 2e-6), cached=1)
    assert "secret" not in cache.read_text()
    monkeypatch.delenv("KEY_OF_THE_TEST")
    replayed = load_evaluator("vlm", options, AnswerCache(cache, replay=True))
    assert replayed.score(TASK, frames, ["tap"]) == 0.5 and replayed.usage() == Usage(cached=1)
    with pytest.raises(UserError, match="no answer to this question"):
        replayed.score("another task", frames, ["tap"])
    for other in ({"samples": 2}, {"temperature": 0.5}, {"model": "other"}, {"model_options": {"max_new_tokens": 5}}):
        with pytest.raises(UserError, match="no answer to this question"):
            load_evaluator("vlm", options | other, AnswerCache(cache, replay=True)).score(TASK, frames, ["tap"])


SHARES = (0.0, 0.03, 0.1, 0.3, 1.0)


@pytest.mark.parametrize("share", SHARES)
def test_flip_labels_has_exactly_the_share_of_wrong_labels(share):
    labels = np.arange(1000) % 4 == 0
    wrong = flip_labels(labels, share, seed=5) != labels
    assert wrong.sum() == round(1000 * share)
    assert np.array_equal(flip_labels(labels, share, seed=5) != labels, wrong)
    assert share in (0, 1) or not np.array_equal(flip_labels(labels, share, seed=6) != labels, wrong)


def test_wrong_labels_of_a_share_are_wrong_with_larger_shares():
    labels = np.zeros(1000, bool)
    rows = [flip_labels(labels, share, seed=0) for share in SHARES]
    assert all((more | less == more).all() for less, more in zip(rows, rows[1:], strict=False))


@pytest.mark.parametrize("share", SHARES)
def test_noisy_flips_where_the_number_of_the_episode_is_below_the_share(share):
    evaluator = NoisyEvaluator(StateEvaluator(), share, seed=3)
    flipped = 0
    for grey in range(200):
        frames = [screen(grey), screen(255 - grey)]
        expected = uniform(3, TASK, frames, ["tap"]) < share
        for success in (True, False):
            assert evaluator.score(TASK, frames, ["tap"], success) == float(success != expected)
        flipped += expected
    assert abs(flipped - 200 * share) <= 4 * math.sqrt(200 * share * (1 - share))


def test_number_of_an_episode_is_uniform_and_depends_on_all_of_it():
    frames = [screen(0), screen(1)]
    values = [uniform(seed, TASK, frames, ["tap"]) for seed in range(2000)]
    counts = Counter(int(value * 10) for value in values)
    assert set(counts) == set(range(10)) and all(140 <= count <= 260 for count in counts.values())  # 200 +- 4.5 sigma
    same = uniform(0, TASK, [frame.copy() for frame in frames], ("tap",))
    others = [
        uniform(0, "other", frames, ["tap"]),
        uniform(0, TASK, frames, ["back"]),
        uniform(0, TASK, [screen(0), screen(2)], ["tap"]),
        uniform(0, TASK, [screen(0, 3, 4), screen(1, 3, 4)], ["tap"]),
    ]
    assert same == values[0] and values[0] not in others and len(set(others)) == 4


def test_noisy_keeps_probabilities_and_abstentions():
    frames = [screen(0), screen(1)]
    always = NoisyEvaluator(last_screens("Status: success", "no idea", tolerance=0), 1.0, seed=0)
    assert [always.score(TASK, frames[:number], ["tap"] * (number - 1)) for number in (2, 1)] == [0.0, None]

"""Zero-shot agents on a toy screen with three buttons, whose right answers a script can compute."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_vlms import CASE, folder, shared_processors, unmodified  # noqa: F401
from small_vlms import load as load_shared
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_screen import COLOURS, HEIGHT, WIDTH, Buttons

from pr2l.agents.marks import draw_marks, marks_of, parse_with_marks
from pr2l.agents.prompted import Defaults as PromptedDefaults
from pr2l.agents.prompted import PromptedAgent
from pr2l.agents.screen import Defaults, ScreenAgent, Step, play_screens, read
from pr2l.agents.trainable import Defaults as TrainableDefaults
from pr2l.agents.trainable import TrainableAgent
from pr2l.core.errors import UserError
from pr2l.environments.common import screen_actions
from pr2l.environments.common.screen_actions import MalformedAction, ScreenAction, describe
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.training import video
from pr2l.vlms import lora
from pr2l.vlms.base import Defaults as VLMDefaults
from pr2l.vlms.loading import load_vlm

pytestmark = pytest.mark.usefixtures("shared_processors")

SCREEN = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)


class Script:
    """Agent whose answer is a function of the screenshot and the text of the prompt."""

    def __init__(self, answer):
        self.answer, self.prompts, self.arguments = answer, [], []

    def generate(self, messages, n=1, temperature=0.0, seed=0):
        self.arguments.append((n, temperature, seed))
        answers = []
        for ((image, text),) in ([message["content"] for message in conversation] for conversation in messages):
            self.prompts.append(text["text"])
            answers.append([self.answer(image["image"], text["text"])])
        return answers

    def log_prob(self, messages, responses, temperature=1.0):
        raise NotImplementedError


def tap_right_button(image, text):
    """Return a tap on the middle of the pixels of the colour that the task names."""
    colour = COLOURS[re.search(r"Task: tap the (\w+) button", text)[1]]
    rows, columns = np.nonzero((image == colour).all(axis=-1))
    return f"It is there: tap({(columns.mean() + 0.5) / WIDTH:.3f}, {(rows.mean() + 0.5) / HEIGHT:.3f})"


def screens(count, labels=False):
    return DummyVecEnv(
        [
            partial(lambda row: SeededEpisodes(Buttons(labels=labels), lambda n: row + n * count, labels=labels), row)
            for row in range(count)
        ]
    )


def test_agent_that_sees_the_button_solves_every_episode():
    script = Script(tap_right_button)
    agent = ScreenAgent(script, Defaults(temperature=0.5, seed=3))
    episodes = play_screens(agent, screens(3), 10)
    assert [(episode["success"], episode["l"]) for episode in episodes] == [(True, 1)] * 10
    assert agent.malformed == 0 and agent.actions >= 10
    assert set(script.arguments) == {(1, 0.5, 3)}


def test_episodes_do_not_depend_on_the_number_of_environments():
    """Three wrong taps and then the right one; each environment has its own history."""

    def answer(image, text):
        return tap_right_button(image, text) if "3. home()" in text else "home()"

    played = [play_screens(ScreenAgent(Script(answer)), screens(count), 5) for count in (1, 3)]
    assert [[(one["number"], one["success"], one["l"]) for one in episodes] for episodes in played] == [
        [(number, True, 4) for number in range(5)]
    ] * 2


def test_malformed_responses_are_counted_by_agent_and_environment():
    script = Script(lambda image, text: "click(5)" if "1. " not in text else "complete()")
    agent = ScreenAgent(script)
    episodes = play_screens(agent, screens(1), 4)
    assert [(one["l"], one["success"], one["measures"]) for one in episodes] == [
        (2, False, {"malformed_actions": 1.0})
    ] * 4
    assert (agent.actions, agent.malformed) == (8, 4)
    assert "1. 'click(5)' had no effect: 'click' is not an action. Actions: tap, long_press" in script.prompts[1]


def test_prompt():
    agent = ScreenAgent(Script(None), Defaults(history=2))
    past = [Step("tap(0.500, 0.250)", ""), Step("tap(9)", "", "tap needs 2 values"), Step("back()", "go: back()")]
    [message] = agent.messages(SCREEN, "open {the} menu", past)
    image, text = message["content"]
    assert message["role"] == "user" and np.array_equal(image["image"], SCREEN)
    assert text["text"] == (
        "You operate a device with a touch screen. The image shows the current screen.\n"
        "Task: open {the} menu\n\n"
        "Your last actions:\n"
        "2. 'tap(9)' had no effect: tap needs 2 values\n"
        "3. back()\n\n"
        f"You can take one of these actions:\n{describe()}\n\n"
        "Answer with the next action only."
    )


def test_prompt_of_the_first_step_and_other_options():
    agent = ScreenAgent(Script(None), Defaults(history=0, thought=True, types=("tap", "back")))
    past = [Step("back()", "back()")]
    for history in ([], past):
        text = agent.messages(SCREEN, "go", history)[0]["content"][1]["text"]
        assert "Your last actions" not in text and describe(("tap", "back")) in text and "home()" not in text
        assert text.endswith("Write one sentence about what to do next, and then the next action on a line of its own.")


def test_question_takes_the_place_of_the_whole_prompt():
    agent = ScreenAgent(Script(None), Defaults(question="Where do I tap to {goal}?"))
    [message] = agent.messages(SCREEN, "open {the} menu", [Step("back()", "")])
    image, text = message["content"]
    assert np.array_equal(image["image"], SCREEN) and text["text"] == "Where do I tap to open {the} menu?"


def test_history_begins_with_the_episode():
    script = Script(lambda image, text: "home()")
    agent = ScreenAgent(script)
    for starts in ([True, True], [False, False], [True, False]):
        agent.act([SCREEN] * 2, ["a", "b"], starts)
    assert ["1. home()" in prompt for prompt in script.prompts] == [False, False, True, True, False, True]
    assert "2. home()" in script.prompts[-1]


def test_actions_of_longer_responses():
    assert read('First back(), then type("a").', [], SCREEN) == Step('type("a")', 'First back(), then type("a").')
    nothing = read("?" * 5000, [], SCREEN)
    assert nothing.action == "?" * 1000 and nothing.problem and len(nothing.response) == 5000


LABELS = [
    {"name": "screen", "box": (0, 0, WIDTH, HEIGHT), "distance": 0.0},
    {"name": "save", "box": (10, 20, 30, 40), "distance": 0.0},
    {"name": "keyboard/q", "box": (0, 80, 10, 90), "distance": 0.0},
    {"name": "below", "box": (0, HEIGHT, 10, HEIGHT + 10), "distance": 0.0},
    {"name": "edge", "box": (40, 90, 60, 120), "distance": 0.0},
]


def test_marks_are_visible_elements():
    marks = marks_of(LABELS, SCREEN, ("keyboard/",))
    assert marks == [("save", (10, 20, 30, 40)), ("edge", (40, 90, WIDTH, HEIGHT))]
    assert [mark.name for mark in marks_of(LABELS, SCREEN)] == ["save", "keyboard/q", "edge"]


def test_marks_are_drawn_as_boxes_with_numbers():
    marks = marks_of(LABELS, SCREEN, ("keyboard/",))
    drawn = draw_marks(SCREEN, marks)
    changed = (drawn != SCREEN).any(axis=-1)
    assert (SCREEN == 245).all() and drawn.dtype == np.uint8
    assert changed[20, 10:30].all() and changed[39, 10:30].all() and changed[20:40, 29].all()
    assert changed[21:29, 11:15].any() and not changed[36:39, 20:29].any() and not changed[:20].any()
    assert (drawn[39, 20] != drawn[HEIGHT - 1, 50]).any()  # the boxes have different colours
    swapped = draw_marks(SCREEN, marks[::-1])
    assert (swapped[20:40, 10:30] != drawn[20:40, 10:30]).any()
    assert np.array_equal(draw_marks(SCREEN, []), SCREEN)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("tap(mark=1)", ScreenAction("tap", 20 / WIDTH, 30 / HEIGHT)),
        ("long_press( mark = 2 )", ScreenAction("long_press", 47 / WIDTH, 93 / HEIGHT)),
        ("tap(0.500, 0.250)", ScreenAction("tap", 0.5, 0.25)),
        ("home()", ScreenAction("home")),
    ],
)
def test_marks_stand_for_the_centres_of_their_boxes(text, action):
    assert parse_with_marks(text, marks_of(LABELS, SCREEN, ("keyboard/",)), SCREEN) == action


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tap(mark=0)", "there is no mark 0; the marks are 1 to 3"),
        ("tap(mark=4)", "no mark 4"),
        ("swipe(mark=1)", "cannot read"),
        ("tap(mark=one)", "cannot read"),
        ("tap(mark=" + "1" * 5000 + ")", "cannot read"),
    ],
)
def test_marks_that_do_not_exist(text, message):
    with pytest.raises(MalformedAction, match=message):
        parse_with_marks(text, marks_of(LABELS, SCREEN), SCREEN)
    with pytest.raises(MalformedAction, match="the screen has no marks"):
        parse_with_marks("tap(mark=1)", [], SCREEN)


def test_agent_with_marks_names_the_right_element():
    def answer(image, text):
        colour = re.search(r"Task: tap the (\w+) button", text)[1]
        return f"tap(mark={re.search(rf'^(.): {colour}$', text, re.MULTILINE)[1]})"

    script = Script(answer)
    options = Defaults(marks=True, mark_names=True)
    episodes = play_screens(ScreenAgent(script, options), screens(2, labels=True), 6)
    assert [(one["success"], one["l"]) for one in episodes] == [(True, 1)] * 6
    assert "tap(mark=n): touch the element" in script.prompts[0]


def test_marks_need_labels_and_every_prompt_needs_a_goal(monkeypatch):
    with pytest.raises(UserError, match="labels=True"):
        play_screens(ScreenAgent(Script(None), Defaults(marks=True)), screens(1), 1)
    monkeypatch.setattr(Buttons, "_info", lambda self, success: {"context": {}, "success": success})
    with pytest.raises(UserError, match="no 'goal'"):
        play_screens(ScreenAgent(Script(None)), screens(1), 1)


def test_video_shows_touches_and_responses(monkeypatch):
    monkeypatch.setattr(video, "picture", lambda frame, lines: (frame, lines))
    recorder = video.EpisodeVideo(1)
    play_screens(ScreenAgent(Script(tap_right_button)), screens(1), 1, recorder)
    (touched, lines), *end = recorder.pictures()
    plain = Buttons().reset(seed=0)[0]["frame"]
    x, y = (float(number) for number in re.search(r"tap\((.*), (.*)\)", lines[1]).groups())
    rows, columns = np.nonzero((touched != plain).any(axis=-1))
    assert columns.mean() == pytest.approx(x * WIDTH, abs=2) and rows.mean() == pytest.approx(y * HEIGHT, abs=2)
    assert lines[0].startswith("goal: tap the ") and lines[1].startswith("VLM: It is there: tap(")
    assert all(np.array_equal(frame, plain) and lines[1] == "success" for frame, lines in end)


def test_vlm_with_random_weights_only_writes_malformed_actions():
    vlm = load_shared(CASE["idefics3"], device="cpu")
    agent = ScreenAgent(PromptedAgent(vlm, PromptedDefaults(max_new_tokens=4)), Defaults(temperature=1.0))
    episodes = play_screens(agent, screens(2), 2)
    assert [(one["l"], one["measures"]["malformed_actions"]) for one in episodes] == [(6, 6.0)] * 2
    assert agent.malformed == agent.actions == 12


RESPONSES = ["tap(0.512, 0.250)", 'type("hello")', "swipe(0.500, 0.800, 0.500, 0.200)"]
token_exact = pytest.mark.parametrize("case", [CASE["idefics3"], CASE["qwen2_5_vl"]], ids=lambda case: case.name)


def conversation(case):
    frame = np.random.default_rng(0).integers(0, 255, (case.size, case.size, 3), dtype=np.uint8)
    return ScreenAgent(Script(None), Defaults(types=("tap", "back"))).messages(frame, "tap the red button")


@torch.no_grad()
def by_hand(case, messages, ids):
    """The log-probability of each token, with the unmodified model and one forward pass per token."""
    image, text = messages[0]["content"]
    talk = [{"role": "user", "content": [{"type": "image"}, text]}]
    inputs = case.inputs(folder(case), [image["image"]], talk, "")
    values = []
    for token in ids:
        logits = unmodified(case)(**inputs).logits[0, -1].float()
        values.append(float(torch.log_softmax(logits, dim=-1)[token]))
        size = inputs["input_ids"].shape
        more = {"input_ids": token, "attention_mask": 1, "mm_token_type_ids": case.answer_types}
        inputs |= {
            key: torch.cat([inputs[key], torch.full((size[0], 1), value)], dim=1)
            for key, value in more.items()
            if key in inputs
        }
    return values


@token_exact
def test_log_probability_of_an_action_is_the_sum_over_its_tokens(case):
    """log pi(action | prompt) = the sum of log p(token | prompt, earlier tokens), the end token included."""
    options = TrainableDefaults(max_new_tokens=32, lora=lora.Lora(r=4, alpha=8))
    vlm = load_vlm(str(folder(case)), VLMDefaults(image_size=case.image_size, device="cpu"))
    agent, messages = TrainableAgent(vlm, options), conversation(case)
    total = agent.log_prob([messages] * 3, RESPONSES)
    values, mask = agent.token_log_probs([messages] * 3, RESPONSES)
    for row, response in enumerate(RESPONSES):
        ids = [*vlm.tokenizer(response, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]
        assert vlm.tokenizer.decode(ids, skip_special_tokens=True) == response
        expected = torch.tensor(by_hand(case, messages, ids))
        torch.testing.assert_close(values[row, mask[row]], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(total[row], expected.sum(), rtol=0, atol=1e-3)


@token_exact
def test_log_probability_of_a_sampled_action_is_that_of_its_own_tokens(case):
    vlm = load_vlm(str(folder(case)), VLMDefaults(image_size=case.image_size, device="cpu"))
    agent, messages = TrainableAgent(vlm, TrainableDefaults(max_new_tokens=5)), conversation(case)
    for response in agent.sample([messages], n=3, temperature=2.0)[0]:
        expected = sum(by_hand(case, messages, response.token_ids))
        assert agent.log_prob([messages], [response]).item() == pytest.approx(expected, abs=1e-3)


def test_gradient_steps_make_an_action_more_probable_than_another():
    """Five steps of a policy gradient with advantage 1 for one action and -1 for the other."""
    case = CASE["idefics3"]
    vlm = load_vlm(str(folder(case)), VLMDefaults(image_size=case.image_size, device="cpu"))
    agent = TrainableAgent(vlm, TrainableDefaults(lora=lora.Lora(r=4, alpha=8)))
    rows = [conversation(case)] * 2, ["tap(0.512, 0.250)", "back()"]
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.02)
    before = agent.log_prob(*rows).detach()
    for _ in range(5):
        optimizer.zero_grad()
        (-(agent.log_prob(*rows) * torch.tensor([1.0, -1.0])).mean()).backward()
        optimizer.step()
    after = agent.log_prob(*rows).detach()
    assert after[0] - before[0] > 1 > after[1] - before[1]


def test_examples_of_the_documentation_run():
    page = (Path(__file__).parents[2] / "docs" / "screen_actions.md").read_text(encoding="utf-8")
    actions, agent = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    values = {"vlm_agent": Script(tap_right_button), "venv": screens(2)}
    exec(actions, values)  # noqa: S102
    exec(agent, values)  # noqa: S102
    assert values["text"] == "tap(0.500, 0.250)" and values["message"].startswith("x = 180 is outside 0..1")
    assert values["row"].tolist() == [3, 0, 0, 0, 2, 3] and values["typed"].text == "On my way!"
    assert values["string"].startswith('"action_type": "DUAL_POINT", "touch_point": "[0.2500, 0.5000]"')
    assert values["values"] == {"action_type": "click", "x": 540, "y": 600}
    assert (values["success"], values["malformed"]) == (1, 0)
    assert all(f"`{screen_actions.example(action)[:4]}" in page for action in screen_actions.TYPES)

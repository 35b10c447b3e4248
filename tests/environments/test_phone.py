"""The phone in Chromium: episodes, rewards, determinism, and scripted solutions of the templates."""

import numpy as np
import pytest

from pr2l.environments.base import UserError
from pr2l.environments.common import screen_actions
from pr2l.environments.common.screen_actions import ScreenAction, UnsupportedAction
from pr2l.environments.phone import Defaults, PhoneEnv, kinds, library, make, oracle
from pr2l.environments.phone.state import validate
from pr2l.environments.phone.user import NotOnScreen
from tests.environments.browser_pages import needs_chromium

SMALL = {"scale": 0.5, "actions": "text"}


@pytest.fixture
def phone():
    """Return a function that makes environments, which are closed after the test."""
    made = []

    def open_phone(task="SystemWifiTurnOn", *, split="train", labels=False, **options):
        made.append(make(task, Defaults(**{**SMALL, **options}), split=split, labels=labels))
        return made[-1]

    yield open_phone
    for env in made:
        env.close()


def play(env, seed):
    """Play the scripted solution; return the last step's values, and the number of steps."""
    env.reset(seed=seed)
    steps, ended = 0, False
    while not ended:
        result = env.step(env.oracle_action())
        steps, ended = steps + 1, result[2] or result[3]
    return result, steps


def tap(env, name):
    """Return the text of a tap on an element."""
    x0, y0, x1, y1 = next(element.box for element in env.elements() if element.name == name)
    return screen_actions.format(ScreenAction("tap", x=(x0 + x1) / 2 / 360, y=(y0 + y1) / 2 / 640))


@needs_chromium
@pytest.mark.parametrize("name", ["SystemWifiTurnOn", "ContactsAddContact", "SimpleCalendarEventsOnDate"])
def test_scripted_solution_succeeds(phone, name):
    env = phone(name)
    (_, reward, terminated, truncated, info), steps = play(env, 0)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["measures"] == {"malformed_actions": 0, "side_effects": 0, "declared": True}
    assert info["side_effects"] == [] and info["template"] == name
    validate(env.state())
    assert steps < library.find(name).step_limit()


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("name", library.templates())
def test_scripted_solution_succeeds_on_20_seeds(phone, name):
    env = phone("all", templates=(name,))
    for seed in range(20):
        (*_, info), _ = play(env, seed)
        assert info["success"], (seed, info["context"]["goal"], info["side_effects"])
        validate(env.state())


# Templates whose script types a text that is not in the instruction, besides all questions.
NOT_FOR_HEADS = {"ExpenseAddFromNote", "MarkorMergeNotes", "SimpleSmsResend", "SimpleSmsSendReceivedAddress"}


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("name", library.templates())
def test_heads_solve_all_templates_whose_texts_are_in_the_instruction(phone, name):
    env = phone("all", templates=(name,), actions="heads")
    env.reset(seed=2)
    if name in NOT_FOR_HEADS or env.episode.task.answer is not None:
        with pytest.raises(UnsupportedAction):
            play(env, 2)
    else:
        assert play(env, 2)[0][-1]["success"]


@needs_chromium
@pytest.mark.slow
def test_idle_agent_solves_no_template(phone):
    for name in library.templates():
        env = phone("all", templates=(name,))
        env.reset(seed=1)
        _, reward, terminated, _, info = env.step("complete()")
        assert (reward, terminated, info["success"]) == (0.0, True, False), name
        env.close()


@needs_chromium
@pytest.mark.slow
def test_random_agent_solves_few_episodes(phone):
    env = phone("mini", actions="heads")
    env.action_space.seed(0)
    successes = 0
    for seed in range(24):
        env.reset(seed=seed)
        ended = False
        while not ended:
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            ended = terminated or truncated
        successes += info["success"]
    assert successes <= 2


@needs_chromium
def test_seed_and_actions_determine_every_pixel(phone):
    frames = []
    for _ in range(2):
        env = phone("all", templates=("ContactsAddContact",))
        episode = [env.reset(seed=5)[0]["frame"]]
        for _ in range(6):
            episode.append(env.step(env.oracle_action())[0]["frame"])
        frames.append(episode)
    assert all(np.array_equal(first, second) for first, second in zip(*frames, strict=True))
    assert len({frame.tobytes() for frame in frames[0]}) == 7


@needs_chromium
def test_seeds_and_looks_differ(phone):
    env, plain = phone("all"), phone("all", looks="fixed")
    frames = {env.reset(seed=seed)[0]["frame"].tobytes() for seed in range(4)}
    assert len(frames) == 4
    orders = []
    for seed in range(2):
        plain.reset(seed=seed)
        orders.append([element.name for element in plain.elements() if element.name.startswith("launcher/")])
    assert orders[0] == orders[1] and len(orders[0]) == 11


@needs_chromium
def test_success_needs_the_declaration_unless_the_option_ends_early(phone):
    for early in (False, True):
        env = phone(end_on_success=early)
        env.reset(seed=0)
        for _ in range(3):  # Settings, Network & internet, Wi-Fi
            _, reward, terminated, _, info = env.step(env.oracle_action())
        assert (reward, terminated, info["success"]) == (float(early), early, early)
    phone_of_first = phone()
    phone_of_first.reset(seed=0)
    assert phone_of_first.step("impossible()")[1:4] == (0.0, True, False)


@needs_chromium
def test_declarations_do_nothing_with_the_option(phone):
    env = phone(end_on_success=True, declarations="ignore")
    first = env.reset(seed=0)[0]["frame"]
    for action in ("complete()", "impossible()", 'answer("no")'):
        observation, *rest = env.step(action)
        assert np.array_equal(observation["frame"], first) and rest[:3] == [0.0, False, False]
    for _ in range(3):
        result = env.step(env.oracle_action())
    assert result[1:4] == (1.0, True, False)
    question = phone("ContactsNumberOf", end_on_success=True, declarations="ignore")
    question.reset(seed=0)
    assert question.step('answer("no")')[1:4] == (0.0, True, False)
    with pytest.raises(ValueError, match="declarations=ignore needs end_on_success=true"):
        Defaults(declarations="ignore")


@needs_chromium
def test_task_to_verify_never_ends_early(phone):
    env = phone("SystemWifiTurnOnVerify", end_on_success=True)
    env.reset(seed=0)
    for _ in range(2):
        assert env.step(env.oracle_action())[1:4] == (0.0, False, False)
    assert env.step("complete()")[1:4] == (1.0, True, False)


@needs_chromium
def test_contact_deleted_on_the_way_fails_the_task(phone):
    env = phone()
    env.reset(seed=0)
    name = "{first_name} {last_name}".format(**env.episode.before["contacts"][0])
    for element in ("launcher/Contacts", f"Contacts/{name}", "Contacts/Delete", "Contacts/dialog/Delete"):
        env.step(tap(env, element))
    env.step("home()")
    for element in ("launcher/Settings", "Settings/Network & internet", "Settings/Wi-Fi switch"):
        env.step(tap(env, element))
    _, reward, terminated, _, info = env.step("complete()")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["measures"]["side_effects"] == 1 and info["side_effects"][0].startswith("contacts/c1 removed")


@needs_chromium
def test_malformed_action_does_nothing_and_is_counted(phone):
    env = phone()
    first = env.reset(seed=0)[0]["frame"]
    for count, action in enumerate(("tap(0.5)", "tap(7, 3)", "press the button"), 1):
        observation, reward, terminated, truncated, info = env.step(action)
        assert np.array_equal(observation["frame"], first)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert info["measures"]["malformed_actions"] == count and info["action"] == ""
    assert env.step("Next: home()")[4]["action"] == "home()"


@needs_chromium
def test_limit_of_steps_truncates(phone):
    env = phone()
    env.reset(seed=0)
    results = [env.step("home()")[2:4] for _ in range(10)]
    assert results == [(False, False)] * 9 + [(False, True)]


@needs_chromium
def test_the_state_is_read_only_where_it_can_matter(phone):
    """At the limit of steps, at a declared end, and after every step that can end an episode by success."""
    env = phone()
    reads = []
    env.state = lambda: reads.append(env._steps) or PhoneEnv.state(env)
    env.reset(seed=0)
    [env.step("home()") for _ in range(10)]
    env.reset(seed=0)
    [env.step(action) for action in ("home()", "tap(0.5, 0.5)", "complete()")]
    assert reads == [10, 3]
    env.options = env.options.model_copy(update={"end_on_success": True})
    env.reset(seed=0)
    [env.step("home()") for _ in range(2)]
    assert reads == [10, 3, 1, 2]


@needs_chromium
def test_back_and_home_leave_a_page(phone):
    env = phone()
    first = env.reset(seed=0)[0]["frame"]
    for button in ("back()", "home()"):
        env.step(tap(env, "launcher/Notes"))
        assert any(element.name == "Notes/New note" for element in env.elements())
        assert np.array_equal(env.step(button)[0]["frame"], first)


@needs_chromium
def test_heads_solve_a_task_with_text_of_the_instruction(phone):
    env = phone("ContactsAddContact", actions="heads")
    assert list(env.action_space.nvec) == [10, 144, 9, 4, 48, 12]
    assert play(env, 3)[0][-1]["success"]


@needs_chromium
def test_heads_type_words_of_the_screen_only_with_the_option(phone):
    env = phone("ContactsNumberOf", actions="heads")
    with pytest.raises(UnsupportedAction, match="is not among the first 48 words"):
        play(env, 0)
    env = phone("ContactsNumberOf", actions="heads", screen_words=True, words=200)
    assert play(env, 0)[0][-1]["success"]


@needs_chromium
def test_labels_are_the_elements_in_pixels_of_the_frame(phone):
    env = phone("all", labels=True)
    observation, info = env.reset(seed=0)
    names = {label["name"] for label in info["labels"]}
    assert set(kinds("all")) < names
    height, width, _ = observation["frame"].shape
    assert (height, width) == (320, 180)
    for label in info["labels"]:
        x0, y0, x1, y1 = label["box"]
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and label["distance"] == 0.0
    assert all(element.visible for element in env.elements())


@needs_chromium
def test_steps_of_several_environments_run_at_the_same_time(phone):
    environments = [phone() for _ in range(2)]
    alone = phone()
    for env in (*environments, alone):
        env.reset(seed=0)
    for _ in range(3):
        action = alone.oracle_action()
        frame = alone.step(action)[0]["frame"]
        for env in environments:
            env.begin_step(action)
        assert all(np.array_equal(env.step(action)[0]["frame"], frame) for env in environments)


@needs_chromium
def test_failed_page_truncates_the_episode_and_the_next_one_works(phone):
    env = phone(timeout=1.0)
    first = env.reset(seed=0)[0]["frame"]
    env._page.begin(None)
    env._page.finish()
    env._page.evaluate("setTimeout(() => { for (;;) {} }, 1) && null")
    observation, reward, terminated, truncated, info = env.step("home()")
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert info["cut"].startswith("timeout") and observation["frame"].shape == first.shape
    assert np.array_equal(env.reset(seed=0)[0]["frame"], first)


@needs_chromium
def test_script_names_what_is_on_the_screen_instead(phone):
    env = phone()
    env.reset(seed=0)
    env.oracle_action()  # makes the script
    env.step(tap(env, "launcher/Notes"))
    message = "'Settings/Network & internet' is not on the screen, which has .*Notes/"
    with pytest.raises(NotOnScreen, match=message):
        for _ in range(40):
            env.step(env.oracle_action())
    with pytest.warns(UserWarning, match="the script of SystemWifiTurnOn cannot go on"):
        assert oracle("all")(env) == "impossible()"


@needs_chromium
def test_actions_are_drawn_on_frames(phone):
    env = phone(actions="heads")
    frame = env.reset(seed=0)[0]["frame"]
    drawn = env.draw_action(frame, env.element(ScreenAction("tap", x=0.5, y=0.5)))
    assert drawn.shape == frame.shape and not np.array_equal(drawn, frame)
    assert np.array_equal(drawn[:70], frame[:70])


def test_template_of_one_s_own_module_replaces_those_of_the_task(phone):
    env = phone("all", templates=("pr2l.environments.phone.tasks.files:FilesDeleteFile",))
    assert list(env.templates.values()) == [library.find("FilesDeleteFile")]


def test_wrong_names_are_errors_before_a_browser_starts(phone):
    with pytest.raises(UserError, match="Did you mean 'ContactsAddContact'"):
        phone("ContactAddContact")
    with pytest.raises(UserError, match="is not a task template"):
        phone("all", templates=("Fly",))
    with pytest.raises(UserError, match="none of SystemWifiTurnOn is in the split 'evaluation'"):
        phone("SystemWifiTurnOn", split_by="app", split="evaluation")
    with pytest.raises(UserError, match="the oracle needs the phone"):
        oracle("all")(type("Other", (), {"unwrapped": None})())

"""Parts of the Android environment that need neither android_env nor an emulator."""

import io
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pr2l.core import registry
from pr2l.environments.android import environment as android
from pr2l.environments.android import gestures
from pr2l.environments.android.actions import ScreenActions
from pr2l.environments.android.adb_screen import connected, input_command
from pr2l.environments.android.android_world import AndroidWorld, parameter_seed, step_limit
from pr2l.environments.android.environment_screen import EnvironmentScreen, EnvironmentTask
from pr2l.environments.android.finger import gesture
from pr2l.environments.android.gestures import LIFT, REPEAT, TOUCH, Touch, touches, typing_commands, untypable
from pr2l.environments.android.instructions import Instructions, read, split_lists
from pr2l.environments.android.mobilegym import MobileGym, find, mobilegym_action
from pr2l.environments.android.remote import Phone
from pr2l.environments.android.tasks import TASKS
from pr2l.environments.common.screen_action_space import ScreenActionSpace, TextActions
from pr2l.environments.common.screen_actions import TYPES, ScreenAction, parse

POINT = {"x": 0.5, "y": 0.5}
FIELD_VALUES = {
    **{"tap": POINT, "long_press": POINT, "swipe": {**POINT, "to_x": 0.5, "to_y": 0.1}},
    **{"type": {"text": "a"}, "answer": {"text": "a"}},
}

# Touches


def test_tap_touches_and_lifts_at_its_point():
    assert touches(parse("tap(0.500, 0.250)")) == [Touch(TOUCH, 0.5, 0.25, 0.05), Touch(LIFT, 0.5, 0.25)]


def test_long_press_holds_the_finger_for_a_second():
    sequence = touches(parse("long_press(0.100, 0.900)"))
    assert [touch.type for touch in sequence] == [TOUCH, REPEAT, REPEAT, REPEAT, REPEAT, LIFT]
    assert {(touch.x, touch.y) for touch in sequence} == {(0.1, 0.9)}
    assert sum(touch.seconds for touch in sequence) == pytest.approx(1.0)


def test_swipe_moves_along_a_line():
    sequence = touches(parse("swipe(0.500, 0.800, 0.900, 0.200)"))
    assert [touch.type for touch in sequence] == [TOUCH] * 9 + [LIFT]
    assert [touch.x for touch in sequence] == pytest.approx([*np.linspace(0.5, 0.9, 9), 0.9])
    assert [touch.y for touch in sequence] == pytest.approx([*np.linspace(0.8, 0.2, 9), 0.2])
    assert sum(touch.seconds for touch in sequence) == pytest.approx(0.4)


@pytest.mark.parametrize("action", ["back()", "home()", "enter()", 'type("a")', 'answer("a")', "complete()"])
def test_other_actions_touch_nothing(action):
    assert touches(parse(action)) == []


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("hello", ["input text hello"]),
        ("two words", ["input text two%swords"]),
        ("it's $5; rm -rf /", ["""input text 'it'"'"'s%s$5;%srm%s-rf%s/'"""]),
        ("50%sure", ["input text 50%", "input text sure"]),
        ("a\nb", ["input text a", "input keyevent KEYCODE_ENTER", "input text b"]),
        ("naïve ✓", ["input text nave%s"]),
        ("", []),
        ("é", []),
        ("x" * 250, ["input text " + "x" * 200, "input text " + "x" * 50]),
    ],
)
def test_texts_are_quoted_for_the_shell_of_the_phone(text, commands):
    assert [" ".join(command) for command in typing_commands(text)] == commands


def typed_by_android(line):
    """Return what Android's `input text` types: %s is a space (com.android.commands.input.Input.sendText)."""
    characters, escaped = [], False
    for character in line:
        if escaped and character == "s":
            characters[-1] = " "
            escaped = False
            continue
        characters.append(character)
        escaped = character == "%"
    return "".join(characters)


@given(st.text(st.sampled_from("ab %s'\"$\\`é\n"), max_size=450))
def test_any_text_arrives_as_it_is_except_for_untypable_characters(text):
    import shlex

    arrived = ""
    for command in typing_commands(text):
        words = shlex.split(" ".join(command))
        arrived += "\n" if words[1] == "keyevent" else typed_by_android(words[2])
    assert arrived == text.replace("é", "")
    assert untypable(text) == text.count("é")


# Tasks


def test_tasks_are_those_of_android_world_and_lists_of_instructions():
    world = {name: task for name, task in TASKS.items() if name not in ("instructions", "mobilegym")}
    assert len(world) == 116
    assert sum(name.startswith(("SystemWifi", "SystemBluetooth")) for name in world) == 8
    assert (world["SystemWifiTurnOff"].horizon, world["RecipeDeleteSingleRecipe"].horizon) == (10, 10)
    assert (world["MarkorMergeNotes"].horizon, world["OsmAndTrack"].horizon) == (78, 120)
    assert all(task.apps for task in world.values())


@pytest.mark.parametrize(("complexity", "limit"), [(1, 10), (1.2, 12), (2.2, 22), (3.4, 34), (7.8, 78), (12, 120)])
def test_step_limit_is_ten_times_the_complexity(complexity, limit):
    assert step_limit(complexity) == limit


def test_seeds_of_parameters_differ_between_the_splits():
    numbers = {split: {parameter_seed(split, seed) for seed in range(1000)} for split in ("train", "evaluation")}
    assert len(numbers["train"]) == len(numbers["evaluation"]) == 1000
    assert not numbers["train"] & numbers["evaluation"]
    assert parameter_seed("train", 3) == parameter_seed("train", 3) < 2**32


@dataclass
class World:
    """Stand-in for AndroidWorld's environment, which records what is done to it."""

    wifi: str = "on"
    interaction_cache: str = ""
    calls: list = field(default_factory=list)

    def reset(self, go_home):
        self.calls.append(f"reset {go_home}")

    def hide_automation_ui(self):
        self.calls.append("hide")


class WifiTask:
    """Task with the interface of AndroidWorld's TaskEval; its score is 1 if wifi is off."""

    start_on_home_screen, complexity, name = True, 1.8, "Wifi"

    def __init__(self, params):
        self.params = params
        self.goal = f"Turn wifi {params['state']}."

    @classmethod
    def set_device_time(cls, env):
        env.calls.append("time")

    @classmethod
    def generate_random_params(cls):
        import random

        return {"state": random.choice(["off", "OFF", "Off"])}

    def initialize_task(self, env):
        env.calls.append("initialize")
        env.wifi = "on"

    def is_successful(self, env):
        env.calls.append("is_successful")
        return 1.0 if env.wifi == "off" else 0.5

    def tear_down(self, env):
        env.calls.append("tear_down")


@pytest.fixture
def android_world(monkeypatch):
    """Install a stand-in for AndroidWorld's registry, with one task."""

    class TaskRegistry:
        def get_registry(self, family):
            assert family == "android_world"
            return {"Wifi": WifiTask}

    package, module = type(sys)("android_world"), type(sys)("android_world.registry")
    module.TaskRegistry = TaskRegistry
    package.registry = module
    monkeypatch.setitem(sys.modules, "android_world", package)
    monkeypatch.setitem(sys.modules, "android_world.registry", module)


def test_android_world_task_is_set_up_scored_and_torn_down(android_world):
    world = World()
    source = AndroidWorld("Wifi", "train", None, world)
    goal, limit = source.begin(7)
    assert goal.lower() == "turn wifi off." and limit == 18
    assert source.begin(7)[0] == goal
    assert world.calls == ["time", "initialize", "reset True", "hide", "tear_down", *world.calls[:4]]
    world.calls.clear()
    assert source.score(None) == 0.0 and world.calls == []
    assert source.score(parse("complete()")) == 0.5
    world.wifi = "off"
    assert source.score(None) == 0.0 and source.score(parse("impossible()")) == 1.0
    assert source.score(parse('answer("42")')) == 1.0 and world.interaction_cache == "42"
    source.end()
    source.end()
    assert world.calls == [*["is_successful"] * 3, "tear_down"]
    assert len({source.begin(seed)[0] for seed in range(20)}) == 3
    assert AndroidWorld("Wifi", "train", 5, world).begin(0)[1] == 5


# Lists of instructions


def test_instructions_of_a_file(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("# general\nOpen settings\n\n  Go to ebay.com  \nOpen settings\n")
    assert read(str(file)) == ["Open settings", "Go to ebay.com"]
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="has none"):
        read(str(file))
    with pytest.raises(ValueError, match="cannot read"):
        read(str(tmp_path / "missing.txt"))


def test_held_out_instructions_do_not_move_when_others_are_added():
    lines = [f"Search for item {number}" for number in range(500)]
    some, more = (split_lists(lines[:count], None, overlap=False) for count in (250, 500))
    for split in ("train", "evaluation"):
        assert set(some[split]) == set(more[split]) & set(lines[:250])
    assert not set(more["train"]) & set(more["evaluation"])
    assert len(more["train"]) + len(more["evaluation"]) == 500 and 60 < len(more["evaluation"]) < 140
    spaced = split_lists([line.upper().replace(" ", "  ") for line in lines], None, overlap=False)
    assert [line.lower().split() for line in spaced["train"]] == [line.lower().split() for line in more["train"]]


def test_overlap_of_two_lists_is_refused_unless_allowed():
    training, evaluation = ["a", "b", "c"], ["c", "d", "b"]
    with pytest.raises(ValueError, match=r"2 of 3 instructions for evaluation are also for training, such as 'c'"):
        split_lists(training, evaluation, overlap=False)
    assert split_lists(training, evaluation, overlap=True) == {"train": training, "evaluation": evaluation}
    assert split_lists(["a"], ["b"], overlap=False) == {"train": ["a"], "evaluation": ["b"]}
    with pytest.raises(ValueError, match="too short"):
        split_lists(["a"], None, overlap=False)


def test_list_of_instructions_has_no_reward():
    source = Instructions(["a", "b", "c"], limit=10)
    assert {source.begin(seed) for seed in range(30)} == {("a", 10), ("b", 10), ("c", 10)}
    assert source.begin(4) == source.begin(4)
    assert source.score(parse("complete()")) == 0.0


# The environment


class Echo(gym.Env):
    """Environment whose actions are texts, which it keeps."""

    action_space = gym.spaces.Text(100)
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (2, 2, 3), np.uint8))

    def reset(self, *, seed=None, options=None):
        self.texts = []
        return {}, {"context": {"goal": "search for red shoes"}}

    def begin_step(self, action):
        self.texts.append("begin")

    def step(self, action):
        self.texts.append(action)
        return {}, 0.0, False, False, {}


def test_heads_become_texts():
    heads = ScreenActionSpace(rows=20, columns=9)
    env = ScreenActions(Echo(), heads)
    assert env.action_space == heads.space and env.unwrapped.action_space != env.action_space
    env.reset()
    for text in ('type("red shoes")', "tap(0.500, 0.525)", "home()", "complete()"):
        env.step(heads.encode(parse(text), "search for red shoes"))
    env.begin_step(np.zeros(6, np.int64))
    env.step(np.array([TYPES.index("type"), 0, 0, 0, 40, 0]))
    *texts, begin, malformed = env.unwrapped.texts
    assert texts == ['type("red shoes")', "tap(0.500, 0.525)", "home()", "complete()"] and begin == "begin"
    assert malformed == str(np.array([TYPES.index("type"), 0, 0, 0, 40, 0]))
    with pytest.raises(ValueError):
        parse(malformed)


def test_of_a_longer_text_the_last_action_counts():
    env = ScreenActions(Echo(), TextActions())
    assert env.reset()[1]["action"] == ""
    actions = [env.step(text)[4]["action"] for text in ("tap(0.5, 0.5)", "Not home() but: back()", "what?")]
    assert env.unwrapped.texts == ["tap(0.500, 0.500)", "back()", "what?"]
    assert actions == ["tap(0.500, 0.500)", "back()", ""]


def test_action_is_drawn_where_the_finger_touches():
    env, frame = ScreenActions(Echo(), ScreenActionSpace(20, 9)), np.zeros((200, 90, 3), np.uint8)
    env.reset()
    drawn = env.draw_action(frame, ScreenActionSpace(20, 9).encode(parse("tap(0.5, 0.25)")))
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert abs(rows.mean() - 50) < 4 and abs(columns.mean() - 45) < 3 and not frame.any()


def test_make_refuses_what_does_not_fit_together(tmp_path, monkeypatch):
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    with pytest.raises(ValueError, match="Did you mean 'SystemWifiTurnOff'"):
        android.make("SystemWifiTurnOf")
    with pytest.raises(ValueError, match="needs environment_options.instructions"):
        android.make("instructions")
    with pytest.raises(ValueError, match="all other tasks have none"):
        android.make("SystemWifiTurnOff", android.Defaults(instructions="list.txt"))
    with pytest.raises(ValueError, match="'test' is not a split"):
        android.make("SystemWifiTurnOff", split="test")
    with pytest.raises(ValueError, match="AndroidWorld changes the data of apps as root"):
        android.make("SystemWifiTurnOff", android.Defaults(devices=("R5CT",)))
    with pytest.raises(ValueError, match="accessibility"):
        android.make("instructions", android.Defaults(instructions="list.txt"), labels=True)
    with pytest.raises(ValueError, match="pr2l sim install android-world"):
        android.make("SystemWifiTurnOff")
    with pytest.raises(ValueError, match="pr2l sim install android`"):
        android.make("instructions", android.Defaults(instructions="list.txt"))


def test_environment_is_in_the_registry():
    assert registry.load("environments", "android").TASKS is TASKS
    heads = android.make("SystemWifiTurnOff", android.Defaults(python=sys.executable))
    assert heads.observation_space["frame"].shape == (560, 252, 3)
    assert heads.action_space == gym.spaces.MultiDiscrete([10, 180, 9, 4, 48, 12])
    text = android.make("SystemWifiTurnOff", android.Defaults(python=sys.executable, actions="text"))
    assert isinstance(text.action_space, gym.spaces.Text) and text.action_space.contains("tap(0.1, 0.2)")


def test_every_screen_action_is_a_touch_a_key_a_text_or_the_agents_word():
    covered = {"tap", "long_press", "swipe", "type", *gestures.KEYS, "answer", "complete", "impossible"}
    assert covered == set(TYPES)
    assert ScreenAction("tap", 0, 1).x == 0.0


# Touches of other screens


def test_gestures_of_a_phone_on_a_cable():
    commands = {
        "tap(0.500, 0.250)": "input tap 540 600",
        "long_press(0.500, 0.250)": "input swipe 540 600 540 600 1000",
        "swipe(0.500, 0.800, 0.500, 0.200)": "input swipe 540 1920 540 480 400",
        "tap(1, 1)": "input tap 1079 2399",
    }
    assert {text: " ".join(input_command(parse(text), (1080, 2400))) for text in commands} == commands


def test_states_in_the_output_of_adb_devices():
    lines = ["* daemon started successfully", "List of devices attached", "R5CT\tdevice", "emulator-5554\toffline", ""]
    assert connected(lines) == {"R5CT": "device", "emulator-5554": "offline"}


@pytest.mark.parametrize("action", ["tap(0.250, 0.750)", "long_press(0.005, 0.995)", "swipe(0.5, 0.8, 0.9, 0.2)"])
def test_touches_become_the_gesture_that_they_came_from(action):
    """On a screen of 100 x 200 pixels, whose centres the actions touch."""
    expected = parse(action)
    path, held = [], 0.0
    for touch in touches(expected):
        path.append((min(int(touch.x * 100), 99), min(int(touch.y * 200), 199)))
        held += touch.seconds
    seen = gesture(path, held, 100, 200)
    assert seen.type == expected.type
    for name in ("x", "to_x"):
        assert getattr(seen, name) == pytest.approx(getattr(expected, name), abs=0.0051)
    for name in ("y", "to_y"):
        assert getattr(seen, name) == pytest.approx(getattr(expected, name), abs=0.0026)


def test_screen_of_an_environment_takes_touches_keys_and_texts():
    env = Echo()
    env.observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (200, 100, 3), np.uint8))
    frames = iter(np.full((200, 100, 3), value, np.uint8) for value in range(1, 99))
    env.reset = lambda seed: ({"frame": next(frames)}, {"context": {"goal": f"goal {seed}"}})
    env.texts = []
    env.step = lambda action: (env.texts.append(action) or {"frame": next(frames)}, 0.5, len(env.texts) == 5, False, {})
    screen = EnvironmentScreen(env)
    source = EnvironmentTask(screen, lambda: 7)
    screen.press("KEYCODE_HOME")  # before the first episode
    assert not screen.screenshot().any() and source.begin(3) == ("goal 3", 7)
    screen.touch(0, 0, False)  # android_env lifts the finger at every reset
    assert env.texts == [] and (screen.screenshot() == 1).all()
    screen.touch(50, 40, True)
    screen.touch(50, 40, False)
    assert (screen.screenshot() == 2).all() and source.score(None) == 0.5 and source.score(None) == 0.0
    screen.press("KEYCODE_BACK")
    screen.press("KEYCODE_POWER")
    screen.type('say "hi"')
    screen.touch(10, 10, True)
    screen.wait(1.0)
    screen.touch(10, 10, False)
    assert source.score(parse("complete()")) == 2.0  # the reward of four steps
    screen.type("after the end")
    expected = ["tap(0.505, 0.203)", "back()", 'type("say \\"hi\\"")', "long_press(0.105, 0.052)", "complete()"]
    assert env.texts == expected and source.score(None) == 0.0


# MobileGym


class BenchEnv:
    """Stand-in for MobileGym's environment, whose phone has a light that a tap of the upper half turns on."""

    def __init__(self, **options):
        assert options["coord_space"] == "norm_0_1" and options["url"] == "http://localhost:3000"
        self.actions, self.lit, self.agent_answer = [], False, None

    async def start(self):
        self.actions.append("start")

    async def close(self):
        self.actions.append("close")

    async def step(self, action):
        self.actions.append((action.action_type, action.data))
        self.lit |= action.action_type == "CLICK" and action.data["point"][1] < 0.5
        self.agent_answer = action.data.get("value") if action.action_type == "ANSWER" else self.agent_answer
        return SimpleNamespace(observation=self.screen())

    async def get_state(self, required_apps):
        return {"lit": self.lit, "apps": required_apps}

    def screen(self):
        return BenchObservation(self.lit)


@dataclass(frozen=True)
class BenchObservation:
    lit: bool
    state: dict = field(default_factory=dict)

    def get_screenshot_bytes(self):
        file = io.BytesIO()
        Image.new("RGB", (36, 80), (255, 255, 255) if self.lit else (0, 0, 0)).save(file, "PNG")
        return file.getvalue()


class LightTask:
    apps, description = ["light"], "Turn on the light"

    def __init__(self, _seed):
        self.seed = _seed

    def teardown(self, env):
        env.actions.append("teardown")


@pytest.fixture
def bench_env(monkeypatch):
    """Install a stand-in for MobileGym's package, and return the environments that it makes."""
    made = []

    def make_env(**options):
        made.append(BenchEnv(**options))
        return made[-1]

    class Registry:
        def get_by_id(self, task):
            if task != "light.TurnOn":
                raise ValueError("Task 'TurnOff' not found in suite 'light'. Available: ['TurnOn']")
            return LightTask

    class Controller:
        @staticmethod
        async def setup(env, task, eval_mode):
            env.lit = False
            return env.screen(), {}

    class Evaluator:
        def __init__(self, judge_mode, eval_mode):
            assert (judge_mode, eval_mode) == ("state", "text")

        async def evaluate(self, task, first, last, outcome):
            assert not first.lit and last.state["apps"] == ["light"]
            return SimpleNamespace(passed=last.state["lit"])

    def RunnerConfig(*, agent, model_name, eval_mode):
        return SimpleNamespace(get_max_steps=lambda task: 15)

    names = ("CLICK", "LONG_PRESS", "TYPE", "SWIPE", "BACK", "HOME", "ENTER", "ANSWER", "COMPLETE", "ABORT")
    modules = {
        "bench_env": {},
        "bench_env.env": {
            "MobileGymEnv": make_env,
            "ActionType": {name: name for name in names},
            "Action": lambda action_type, data: SimpleNamespace(action_type=action_type, data=data),
        },
        "bench_env.task": {"TaskRegistry": Registry},
        "bench_env.config": {"RunnerConfig": RunnerConfig},
        "bench_env.runner": {},
        "bench_env.runner.base": {"Controller": Controller, "Evaluator": Evaluator},
    }
    for name, attributes in modules.items():
        module = type(sys)(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_mobilegym_episode_succeeds_if_its_judge_says_so(bench_env):
    gym = MobileGym("http://localhost:3000", "light.TurnOn", "train", (40, 18), None)
    phone = Phone(gym, gym, (40, 18))
    observation, info = phone.reset(3)
    assert info["context"] == {"goal": "Turn on the light"} and not observation["frame"].any()
    assert phone.step("complete()")[1:4] == (0.0, True, False)
    phone.reset(4)
    assert phone.step("tap(0.5, 0.75)")[1:4] == (0.0, False, False)
    observation, *result, _ = phone.step("tap(0.5, 0.25)")
    assert (observation["frame"] == 255).all() and observation["frame"].shape == (40, 18, 3) and result[0] == 0.0
    *result, info = phone.step("complete()")
    assert result[1:] == [1.0, True, False] and info["success"]
    phone.reset(5)
    phone.step("tap(0.5, 0.25)")
    assert phone.step("impossible()")[1:4] == (0.0, True, False)  # giving up is no success, whatever the state
    phone.reset(6)
    phone.step("tap(0.5, 0.25)")
    assert phone.step('answer("7")')[1] == 1.0 and bench_env[0].agent_answer == "7"
    phone.reset(7)
    assert [phone.step("back()")[3] for _ in range(15)] == [False] * 14 + [True]
    phone.close()
    assert bench_env[0].actions[0] == "start" and bench_env[0].actions[-2:] == ["teardown", "close"]
    assert bench_env[0].actions.count("teardown") == 5


def test_actions_of_mobilegym(bench_env):
    assert mobilegym_action(parse("swipe(0.5, 0.8, 0.5, 0.2)")) == (
        "SWIPE", {"point1": [0.5, 0.8], "point2": [0.5, 0.2]}
    )  # fmt: skip
    assert mobilegym_action(parse('type("a")')) == ("TYPE", {"value": "a"})
    assert {mobilegym_action(ScreenAction(name, **FIELD_VALUES.get(name, {})))[0] for name in TYPES} == {
        "CLICK", "LONG_PRESS", "SWIPE", "TYPE", "BACK", "HOME", "ENTER", "ANSWER", "COMPLETE", "ABORT"
    }  # fmt: skip


def test_wrong_folder_or_task_of_mobilegym_is_a_user_error(bench_env, tmp_path):
    with pytest.raises(ValueError, match="TurnOff' not found"):
        MobileGym("http://localhost:3000", "light.TurnOff", "train", (40, 18), None)
    with pytest.raises(ValueError, match="no bench_env in it; clone"):
        find(str(tmp_path))
    with pytest.raises(ValueError, match="needs both"):
        android.make("mobilegym", android.Defaults(mobilegym=str(tmp_path)))
    with pytest.raises(ValueError, match="all other tasks have neither"):
        android.make("SystemWifiTurnOff", android.Defaults(mobilegym=str(tmp_path), task_id="light.TurnOn"))

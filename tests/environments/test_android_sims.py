"""The android-env package in its interpreter: its fake simulator, a drawn screen, and a stand-in for the emulator."""

import json
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_sdk import adb_shell, emulators, state_of, write_sdk
from processes import TIMEOUT

from pr2l.environments.android import environment as android
from pr2l.environments.android import slots
from pr2l.environments.common.screen_actions import coordinate, format, parse, pixel
from pr2l.environments.isolation.interpreters import interpreter
from pr2l.environments.isolation.isolated import WORKER, Isolated, Timeouts
from pr2l.environments.phone import environment as phone_environment
from pr2l.rollout.contract import ContractCheck

pytestmark = [pytest.mark.sims, pytest.mark.timeout(900)]

TESTS = Path(__file__).parents[1]
WIDTH, HEIGHT, SIDE = 90, 160, 20  # of tests/android_target.py


def target(**options) -> Isolated:
    """Return the phone of tests/android_target.py."""
    return Isolated(
        str(TESTS / "android_target.py"),
        "target",
        options,
        split="train",
        labels=False,
        name="target",
        python=interpreter("android"),
        env={"PYTHONPATH": str(TESTS)},
    )


@pytest.fixture(scope="module")
def phone():
    with closing(target()) as env:
        yield env


def middle(frame):
    """Return the action that taps the middle of the red target in a frame."""
    rows, columns = np.nonzero((frame == (255, 0, 0)).all(axis=2))
    x, y = (columns.mean() + 0.5) / frame.shape[1], (rows.mean() + 0.5) / frame.shape[0]
    return f"tap({x:.3f}, {y:.3f})"


def test_pixels_and_touches_pass_unchanged(phone):
    frame = phone.reset(seed=3)[0]["frame"]
    assert frame.shape == (HEIGHT, WIDTH, 3) and (frame == phone.call("screenshot")).all()
    assert (frame == (255, 0, 0)).all(axis=2).sum() == SIDE**2
    before = len(phone.call("state")["events"])
    phone.step("tap(0.5, 0.25)")
    phone.step("long_press(0, 1)")
    phone.step("swipe(0.5, 0.75, 0.5, 0.25)")
    events = [tuple(event) for event in phone.call("state")["events"][before:]]
    assert events[:4] == [(45, 40, True), (45, 40, False), (0, 159, True), (0, 159, False)]
    assert events[4:] == [(45, y, True) for y in range(120, 39, -10)] + [(45, 40, False)]


def test_texts_and_keys_arrive(phone):
    phone.reset(seed=3)
    for action in ('type("it\'s 50%s off; ✓")', "enter()", "back()", "home()"):
        phone.step(action)
    state = phone.call("state")
    assert state["typed"] == "it's 50%s off; "
    assert state["keys"] == ["KEYCODE_ENTER", "KEYCODE_BACK", "KEYCODE_HOME"]
    *_, info = phone.step("complete()")
    assert info["measures"] == {"malformed_actions": 0, "untypable_characters": 1}


def test_malformed_actions_are_counted_and_do_nothing(phone):
    frame = phone.reset(seed=4)[0]["frame"]
    before = phone.call("state")
    for number, action in enumerate(("tap(2, 2)", "", "jump()", "tap(0.5", '{"action_type": "click"}'), start=1):
        observation, reward, terminated, truncated, info = phone.step(action)
        assert info["measures"]["malformed_actions"] == number
        assert (reward, terminated, truncated) == (0, False, False)
    assert (observation["frame"] == frame).all() and phone.call("state") == before


def test_episodes_end_at_success_at_the_agents_word_and_at_the_limit(phone):
    frame, info = phone.reset(seed=5)
    assert info == {"context": {"goal": "touch the target 5"}, "success": False, "measures": info["measures"]}
    _, reward, terminated, truncated, info = phone.step(middle(frame["frame"]))
    assert (reward, terminated, truncated, info["success"]) == (1, True, False, True)
    for action in ("complete()", "impossible()", 'answer("42")'):
        phone.reset(seed=6)
        _, reward, terminated, truncated, info = phone.step(action)
        assert (reward, terminated, truncated, info["success"]) == (0, True, False, False)
    phone.reset(seed=7)
    ends = [phone.step("back()")[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]


def test_frames_are_the_mean_of_the_pixels_that_they_cover():
    with closing(target(frame_size=[80, 45])) as env:
        frame = env.reset(seed=3)[0]["frame"]
        screen = env.call("screenshot")
    blocks = screen.reshape(80, 2, 45, 2, 3).mean(axis=(1, 3))
    assert frame.shape == (80, 45, 3) and np.abs(frame - blocks).max() <= 0.51


def test_return_of_500_episodes_equals_the_number_of_successes(phone):
    """The reward arrives in the step that earns it: never late, in the next episode, or twice."""
    env, random = ContractCheck(phone, "target"), np.random.default_rng(0)
    returns, successes, hits = [], [], 0
    for seed in range(500):
        observation, _ = env.reset(seed=seed)
        rewards, done = [], False
        while not done:
            hit = random.random() < 0.4
            action = middle(observation["frame"]) if hit else "back()" if random.random() < 0.8 else "complete()"
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == float(hit) == float(info["success"])
            rewards.append(reward)
            done = terminated or truncated
            hits += hit
        assert rewards[:-1] == [0.0] * (len(rewards) - 1)
        returns.append(sum(rewards))
        successes.append(info["success"])
    assert returns == list(map(float, successes)) and sum(returns) == hits
    assert 250 < hits < 500


FAKE = f"""
import sys
sys.path.append({str(WORKER.parent)!r})
import worker
worker.make_packages("environments.android.remote")
worker.make_packages("environments.isolation.wire")
from android_env.components import config_classes
from android_env.components.simulators.fake import fake_simulator
from environments.android.device import Device, load
from environments.android.instructions import Instructions
from environments.android.remote import Phone
fake = fake_simulator.FakeSimulator(config_classes.FakeSimulatorConfig(screen_dimensions=(64, 36)))
phone = Phone(Device(load(fake), (64, 36), settle=0.0), Instructions(["look around"], 50), (64, 36))
for episode in range(3):
    frame = phone.reset(episode)[0]["frame"]
    for action in ["tap(0.5, 0.5)", "swipe(0.5, 0.9, 0.5, 0.1)", 'type("a b")', "home()"] * 20:
        observation, reward, terminated, truncated, info = phone.step(action)
        assert observation["frame"].shape == (64, 36, 3) and reward == 0 and not info["success"]
        if truncated:
            break
    print(episode, phone._steps)
phone.close()
"""


def test_fake_simulator_of_android_env_runs_episodes():
    """Its log claims rewards and ends of episodes at random, which must not reach the environment."""
    done = subprocess.run([str(interpreter("android")), "-c", FAKE], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["0 50", "1 50", "2 50"]


# The web phone of pr2l as android_env's simulator


def web_phone(task, **options):
    remote = str(TESTS / "android_web_phone.py")
    return Isolated(remote, task, options, split="train", labels=False, name="web", python=interpreter("android"))


@pytest.fixture(scope="module")
def web_phones():
    """The web phone behind android_env, and in this process."""
    options = {"looks": "fixed", "templates": ("SystemWifiTurnOn", "ContactsStarContact", "ClockTurnOffAlarm")}
    with (
        closing(web_phone("mini", **options)) as far,
        closing(phone_environment.make("mini", phone_environment.Defaults(**options, actions="text"))) as near,
    ):
        yield far, near


def at_centres(action, height, width):
    """Return an action whose points are centres of pixels, as android_env's integers are."""
    moved = {
        name: coordinate(pixel(getattr(action, name), size), size)
        for name, size in (("x", width), ("y", height), ("to_x", width), ("to_y", height))
        if getattr(action, name) is not None
    }
    return parse(format(replace(action, **moved)))


@pytest.mark.parametrize("seed", range(4))
def test_web_phone_shows_the_same_pixels_through_android_env(web_phones, seed):
    far, near = web_phones
    (seen, info), (expected, expected_info) = far.reset(seed=seed), near.reset(seed=seed)
    assert info["context"] == expected_info["context"]
    assert (seen["frame"] == expected["frame"]).all()
    height, width = seen["frame"].shape[:2]
    touches = ("swipe(0.5, 0.8, 0.5, 0.2)", "home()", "long_press(0.3, 0.4)", "back()", "tap(0.5, 0.9)", 'type("a b")')
    for text in (*(format(at_centres(parse(touch), height, width)) for touch in touches), "what?"):
        seen, *result, info = far.step(text)
        expected, *expected_result, expected_info = near.step(text)
        assert (seen["frame"] == expected["frame"]).all(), text
        assert result == expected_result and info["success"] == expected_info["success"]
        assert info["measures"]["malformed_actions"] == expected_info["measures"]["malformed_actions"]


@pytest.mark.parametrize("seed", range(6))
def test_oracle_of_the_web_phone_succeeds_through_android_env(web_phones, seed):
    far, _ = web_phones
    far.reset(seed=seed)
    rewards, done = [], False
    while not done:
        _, reward, terminated, truncated, info = far.step(far.call("oracle_action"))
        rewards.append(reward)
        done = terminated or truncated
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0] and info["success"] and terminated


# An emulator: the whole path from its command line to frames, with tests/fake_emulator.py as its program.


@pytest.fixture
def sdk(tmp_path, monkeypatch):
    """Folder of an Android SDK with the stand-ins; the emulator has a gRPC server of android_env's messages."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for the locks of the workers
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write_sdk(tmp_path, interpreter("android"))
    return tmp_path


@pytest.fixture
def instructions(tmp_path):
    file = tmp_path / "instructions.txt"
    file.write_text("\n".join(f"touch target number {number}" for number in range(20)))
    return str(file)


def make(sdk, instructions, *arguments, **options):
    settings = {"sdk": str(sdk), "instructions": instructions, "avd": "pixel", "frame_size": (160, 90), "settle": 0.0}
    settings |= {"actions": "text", "emulator_arguments": arguments}
    return android.make("instructions", android.Defaults(**settings | options))


@pytest.fixture(autouse=True)
def no_emulator_is_left():
    assert not emulators()
    yield
    deadline = time.monotonic() + TIMEOUT
    while emulators() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not emulators()


def test_emulator_is_started_touched_and_ended(sdk, instructions):
    with closing(make(sdk, instructions, "--boot", "1", snapshot="clean")) as env:
        frame, info = env.reset(seed=0)
        assert info["context"]["goal"].startswith("touch target number") and not info["success"]
        assert (frame["frame"][0, 0] == (128, 128, 128)).all() and (frame["frame"][50, 45] == (255, 0, 0)).all()
        touched = env.step("tap(0.5, 0.3)")[0]["frame"]
        assert (touched[0, 0] == (0, 255, 0)).all()
        env.step('type("two words")')
        env.step("back()")
        state = state_of(slots.Slot(0))
        assert state["touches"][-2:] == [[45, 48, 1], [45, 48, 0]]
        assert (state["typed"], state["keys"][-1]) == ("two words", "KEYCODE_BACK")
        [emulator] = emulators()
        command = " ".join(emulator.cmdline())
        assert "-avd pixel -read-only -no-snapshot-save -snapshot clean -port 5554 -grpc 8554" in command
        restored = env.reset(seed=1)[0]["frame"]  # from the snapshot
        assert (restored[0, 0] == (128, 128, 128)).all() and state_of(slots.Slot(0))["typed"] == ""


def test_two_environments_have_an_emulator_each(sdk, instructions):
    with closing(make(sdk, instructions)) as one, closing(make(sdk, instructions)) as two:
        one.reset(seed=0), two.reset(seed=0)
        assert len(emulators()) == 2
        assert (one.step("tap(0.5, 0.3)")[0]["frame"][0, 0] == (0, 255, 0)).all()
        assert (two.step("home()")[0]["frame"][0, 0] == (128, 128, 128)).all()


def test_running_emulator_is_used_and_kept(sdk, instructions):
    slot = slots.Slot(5)
    command = [str(sdk / "emulator/emulator"), "-avd", "pixel", "-port", str(slot.console), "-grpc", str(slot.grpc)]
    running = subprocess.Popen(command)
    try:
        while slots.is_free(slot.grpc):
            time.sleep(0.1)
        with closing(make(sdk, instructions, running=(slot.console,))) as env:
            env.reset(seed=0)
            assert (env.step("tap(0.5, 0.3)")[0]["frame"][0, 0] == (0, 255, 0)).all()
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()


def test_phone_on_a_cable_is_touched_through_adb_alone(sdk, instructions):
    slot = slots.Slot(6)
    command = [str(sdk / "emulator/emulator"), "-avd", "pixel", "-port", str(slot.console), "-grpc", str(slot.grpc)]
    with subprocess.Popen(command) as phone:
        try:
            while slots.is_free(slot.console):
                time.sleep(0.1)
            with (
                closing(make(sdk, instructions, devices=(slot.serial,))) as env,
                closing(make(sdk, instructions, devices=(slot.serial,))) as second,
                closing(make(sdk, instructions, devices=("R5CT",))) as absent,
            ):
                frame = env.reset(seed=0)[0]["frame"]
                assert (frame[0, 0] == (128, 128, 128)).all() and (frame[50, 45] == (255, 0, 0)).all()
                env.step("swipe(0.5, 0.75, 0.5, 0.5)")
                env.step("long_press(0, 0)")
                assert (env.step("tap(0.5, 0.3)")[0]["frame"][0, 0] == (0, 255, 0)).all()
                env.step('type("two words")')
                state = state_of(slot)
                moves = [[45, 120, 1], [45, 80, 0], [0, 0, 1], [0, 0, 0], [45, 48, 1], [45, 48, 0]]
                assert state["touches"] == moves
                assert (state["typed"], state["keys"]) == ("two words", ["KEYCODE_HOME"])
                with pytest.raises(ValueError, match="are all in use"):
                    second.reset(seed=0)
                with pytest.raises(ValueError, match=r"'R5CT' is not ready.*emulator-5566 \(device\)"):
                    absent.reset(seed=0)
        finally:
            phone.kill()


@pytest.mark.filterwarnings("ignore:Android is replaced")
@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_emulator_that_fails_in_an_episode_is_replaced(fault, sdk, instructions):
    env = make(sdk, instructions)
    env.unwrapped.timeouts = Timeouts(step=10, silence=10)
    with closing(env):
        env.reset(seed=0)
        before, _, _, truncated, _ = env.step("tap(0.5, 0.3)")
        assert not truncated
        with suppress(subprocess.CalledProcessError):  # the emulator crashes before it answers
            adb_shell(slots.Slot(0), fault)
        observation, reward, terminated, truncated, info = env.step("tap(0.1, 0.9)")
        assert (reward, terminated, truncated, info["success"]) == (0, False, True, False) and "step" in info["cut"]
        assert (observation["frame"] == before["frame"]).all() and env.unwrapped.restarts == 1
        observation, _ = env.reset(seed=1)
        assert (observation["frame"][0, 0] == (128, 128, 128)).all() and len(emulators()) == 1


@pytest.mark.filterwarnings("ignore:Android is replaced")
def test_emulator_that_fails_between_episodes_is_replaced(sdk, instructions):
    with closing(make(sdk, instructions)) as env:
        env.reset(seed=0)
        [first] = emulators()
        with suppress(subprocess.CalledProcessError):
            adb_shell(slots.Slot(0), "crash")
        env.reset(seed=1)
        [second] = emulators()
        assert first.pid != second.pid and env.unwrapped.restarts == 1


def test_unknown_virtual_device_is_a_user_error(sdk, instructions):
    with (
        closing(make(sdk, instructions, avd="pixl")) as env,
        pytest.raises(ValueError, match="no virtual device 'pixl'. Did you mean 'pixel'.*pixel, tablet"),
    ):
        env.reset(seed=0)


def test_task_of_android_world_names_the_next_step_without_it(sdk):
    options = android.Defaults(sdk=str(sdk), avd="pixel", python=str(interpreter("android")))
    with (
        closing(android.make("SystemWifiTurnOff", options)) as env,
        pytest.raises(ValueError, match="No module named 'android_world'"),
    ):
        env.reset(seed=0)


def test_checks_report_all_parts(sdk):
    options = json.dumps({"sdk": str(sdk), "android_world": False})
    command = [str(interpreter("android")), "-s", str(WORKER), "--check", "environments.android.remote", options]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {name: (works, text) for name, works, text, _ in map(json.loads, lines)}
    assert list(found) == ["android_env", "Android SDK", "virtual devices", "acceleration"]
    assert all(works for works, _ in found.values())
    assert found["virtual devices"][1] == "pixel, tablet" and "KVM" in found["acceleration"][1]

"""Vector environments in worker processes: equality with one process, errors, and the end of all processes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
import toy_world
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import TIMEOUT, command_line
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.core.errors import UnknownName
from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder
from pr2l.environments.doom import environment as doom
from pr2l.environments.isolation import Timeouts
from pr2l.rollout import watchdog, worker_process, workers
from pr2l.rollout.episodes import SeededEpisodes, make_episodes, training_seed
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.rollout.workers import Workers, WorkerTraceback, arrange

ROOT = Path(__file__).parents[2]
COUNT = 5


def factories(count=COUNT, **options):
    """Return picklable factories of environments of the toy world before their first episode."""
    envs = [toy_world.make("colours", toy_world.Defaults(**options), labels=True) for _ in range(count)]
    return [partial(SeededEpisodes, env, partial(training_seed, 0, row)) for row, env in enumerate(envs)]


@pytest.fixture(scope="module")
def shared():
    with closing(Workers(factories(), workers=2, groups=2)) as venv:
        yield venv


@pytest.fixture
def venv(shared):
    """COUNT environments of the toy world in two workers and two groups, before their first episode."""
    shared.set_attr("_next", 0)
    return shared


def in_this_process(factories):
    return DummyVecEnv([lambda factory=factory: factory() for factory in factories])


def actions(step, count=COUNT):
    return (np.arange(count) + step) % 3


def assert_same(value, expected):
    """Assert that nested values and their types are equal; only the types of dicts may differ."""
    if isinstance(value, dict) and isinstance(expected, dict):
        assert value.keys() == expected.keys()
        value, expected = [*value.values()], [expected[key] for key in value]
    assert type(value) is type(expected)
    if isinstance(value, np.ndarray):
        assert (value.dtype, value.tolist()) == (expected.dtype, expected.tolist())
    elif isinstance(value, str | int | float | None):
        assert value == expected
    else:
        for part, expected_part in zip(value, expected, strict=True):
            assert_same(part, expected_part)


def processes_of(venv):
    return [psutil.Process(worker.process.pid) for worker in venv._workers]


def have_ended(processes):
    return not psutil.wait_procs(processes, timeout=TIMEOUT)[1]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
def test_arrange_distributes_rows_evenly(count, processes, groups):
    rows = arrange(count, processes, groups)
    assert [row for group in rows for share in group for row in share] == list(range(count))
    shares = [sum(map(len, share)) for share in zip(*rows, strict=True)]
    assert len(shares) == min(count, processes) and max(shares) - min(shares) <= 1
    assert len(rows) == min(groups, max(shares)) and all(any(group) for group in rows)


def test_arrange_six_rows_in_two_workers():
    rows = [[list(share) for share in group] for group in arrange(6, 2, 2)]
    assert rows == [[[0, 1], [2, 3]], [[4], [5]]]


def test_steps_equal_those_in_one_process(venv):
    expected = in_this_process(factories())
    observation = venv.reset()
    assert_same(observation, expected.reset())
    frames, copy = observation["frame"], observation["frame"].copy()
    truncated = 0
    for step in range(15):
        result = venv.step(actions(step))
        assert_same(result, expected.step(actions(step)))
        assert_same(venv.reset_infos, expected.reset_infos)
        truncated += sum("terminal_observation" in info and info["TimeLimit.truncated"] for info in result[3])
    assert_same(venv.env_method("state"), expected.env_method("state"))
    assert truncated >= COUNT * (15 // 7)
    assert (frames == copy).all()  # observations are not the memory into which workers write


def test_seeds_and_episode_ends_equal_those_in_one_process(tmp_path):
    envs = [toy_world.TerminatedAndTruncated(toy_world.make("colours")) for _ in range(2)]
    factories = [partial(gym.wrappers.OrderEnforcing, env) for env in envs]
    with closing(Workers(factories, 1)) as venv, closing(in_this_process(factories)) as expected:
        venv.seed(7), expected.seed(7)
        for _ in range(2):  # a seed is for one reset
            assert_same(venv.reset(), expected.reset())
        for step in range(7):
            assert_same(venv.step(actions(step, 2)), expected.step(actions(step, 2)))
        assert venv.env_is_wrapped(toy_world.TerminatedAndTruncated) == [True] * 2  # an inner wrapper
        for row in range(2):
            venv.set_attr("close", (tmp_path / f"{row} is closed").touch, row)
    assert len([*tmp_path.iterdir()]) == 2


def test_methods_and_attributes_of_single_environments(venv):
    venv.reset()
    venv.set_attr("note", "text", indices=[4, 1])
    assert venv.get_attr("note", [1, 4, 1]) == ["text"] * 3
    assert venv.env_is_wrapped(SeededEpisodes) == [True] * COUNT
    assert not any(venv.env_is_wrapped(gym.ObservationWrapper))
    assert venv.metadata == {"render_fps": 5} and venv.render_mode is None
    state = venv.env_method("state", indices=3)[0]
    venv.step(actions(0))
    venv.env_method("restore", state, indices=3)
    assert [len(state["actions"]) for state in venv.env_method("state")] == [1, 1, 1, 0, 1]
    assert not venv.has_attr("nothing")  # an error in an environment, after which all continue
    assert venv.step(actions(0))[0]["frame"].shape == (COUNT, 6, 8, 3)


def test_next_group_is_simulated_while_the_caller_has_the_first(venv):
    venv.reset()
    venv.step_async(actions(0))
    groups = venv.step_groups()
    rows, (observations, rewards, _, _) = next(groups)
    assert list(rows) == [0, 1, 2] and len(observations["frame"]) == len(rewards) == 3
    assert all(worker.pipe.poll(TIMEOUT) for worker in venv._workers)  # the results have arrived before the request
    assert [list(rows) for rows, _ in groups] == [[3, 4]]


def test_interrupted_step_does_not_answer_the_next(venv):
    expected = in_this_process(factories())
    expected.reset(), expected.step(actions(0))
    venv.reset(), venv.step_async(actions(0))
    next(venv.step_groups())
    assert_same(venv.step(actions(1)), expected.step(actions(1)))


class Echo(Encoder):
    """One token: brightness of the left and right half of the frame, and 1 for the context "right"."""

    tokens, width = 1, 3

    def __init__(self):
        self.batches = []

    def encode(self, frames, contexts, labels=None):
        self.batches.append(len(frames))
        right = [context["target"] == "right" for context in contexts]
        rows = np.stack([frames[:, :, :4].mean(axis=(1, 2, 3)), frames[:, :, 4:].mean(axis=(1, 2, 3)), right], axis=1)
        return Tokens(torch.tensor(rows)[:, None], torch.ones(len(frames), 1, dtype=torch.bool))

    def answers(self):
        return [f"row {row}" for row in range(self.batches[-1])]


def test_groups_are_embedded_in_separate_batches_with_their_contexts(venv):
    grouped, single = VecEmbed(venv, Echo()), VecEmbed(in_this_process(factories()), Echo())
    assert_same(grouped.reset(), single.reset())
    dones_of_steps = []
    for step in range(12):
        observations, _, dones, infos = result = grouped.step(actions(step))
        assert_same(result, single.step(actions(step)))
        assert_same((grouped.frames, grouped.contexts), (single.frames, single.contexts))
        terminal = [info["terminal_observation"]["tokens"] for info in infos if "episode" in info]
        for token in (*observations["tokens"], *terminal):
            assert (token[0, 1] > 0) == token[0, 2] and (token[0, 0] > 0) != token[0, 2]
        dones_of_steps.append(dones)
    assert grouped.answers == ["row 0", "row 1", "row 2", "row 0", "row 1"]
    assert single.encoder.batches == [COUNT, *(COUNT + sum(dones) for dones in dones_of_steps)]
    groups = [size for dones in dones_of_steps for size in (3 + sum(dones[:3]), 2 + sum(dones[3:]))]
    assert grouped.encoder.batches == [COUNT, *groups]


def test_environment_error_has_the_traceback_of_the_worker():
    with closing(Workers(factories(2, crash_at=2), 1)) as venv:
        venv.reset()
        venv.step(actions(0, 2))
        with pytest.raises(RuntimeError, match="the toy engine has died") as error:
            venv.step(actions(1, 2))
        assert isinstance(error.value.__cause__, WorkerTraceback)
        assert "worker of environments 0, 1 (process" in str(error.value.__cause__)
        assert 'raise RuntimeError("the toy engine has died")' in str(error.value.__cause__)
        processes = processes_of(venv)
    assert have_ended(processes)


def test_failed_factory_leaves_no_process(shared):
    failing = partial(make_episodes, "nowhere", "colours", None, "train", False, partial(training_seed, 0, 0))
    before = {*psutil.Process().children()}
    with pytest.raises(RuntimeError, match="UnknownName: 'nowhere'"):
        Workers([*factories(1), failing], 2)
    assert not {*psutil.Process().children()} - before


def test_workers_do_not_import_torch():
    modules = "pr2l.rollout.worker_process, pr2l.rollout.episodes, pr2l.environments.doom"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_exception_that_cannot_be_pickled_becomes_runtime_error():
    error = ValueError("can be pickled")
    assert worker_process._portable(error) is error
    replacement = worker_process._portable(UnknownName("doors", "rde", ["red"]))
    assert type(replacement) is RuntimeError and "Did you mean 'red'?" in str(replacement)


def test_killed_worker_is_named_and_all_workers_end():
    with closing(Workers(factories(3), 2)) as venv:
        venv.reset()
        processes = processes_of(venv)
        venv.set_attr("start", os.posix_spawnp)  # as a simulator starts an engine, here one that does not end with it
        (engine,) = venv.env_method("start", "sleep", ["sleep", "1000"], {}, indices=2)
        processes[1].kill()
        with pytest.raises(RuntimeError, match=r"environments 2 .* killed by SIGKILL"):
            venv.step(actions(0, 3))
        assert have_ended(processes)
        with pytest.raises(RuntimeError, match="closed"):
            venv.step(actions(0, 3))
    os.kill(engine, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows shared memory as files")
def test_shared_memory_has_no_file(shared):
    assert not Path("/dev/shm", shared._memory.name).exists()


def test_close_does_not_wait_for_a_hanging_simulator(monkeypatch):
    monkeypatch.setenv("TOY_DELAY", "1000")
    end, deadlines = workers._Worker.end, []
    monkeypatch.setattr(workers._Worker, "end", lambda worker, until: (deadlines.append(until), end(worker, until)))
    venv = Workers(factories(2), 2, timeouts=Timeouts(close=0.2))
    venv.reset()
    venv.step_async(actions(0, 2))
    processes = processes_of(venv)
    start = time.monotonic()
    venv.close()
    assert have_ended(processes) and time.monotonic() - start < TIMEOUT
    assert deadlines[0] == deadlines[1]  # it waits for both at the same time


def test_step_timeout_raises_and_ends_the_workers(monkeypatch, capfd):
    monkeypatch.setenv("TOY_HANG_AT", "2")
    monkeypatch.setattr(watchdog, "INTERVAL", 0.05)
    with closing(Workers(factories(3), 2, timeouts=Timeouts(step=0.2, close=0.2))) as venv:
        venv.reset()
        venv.step(actions(0, 3))
        processes = processes_of(venv)
        seed = training_seed(0, 0, 0)
        with pytest.raises(RuntimeError, match=f"environments 0, 1 .* hangs: step 2 of the episode with seed {seed}"):
            venv.step(actions(1, 3))
        assert have_ended(processes)
    assert "toy_world.py" in capfd.readouterr().err  # the line at which the step hangs


def test_step_timeout_applies_to_restored_episodes(monkeypatch):
    monkeypatch.setenv("TOY_HANG_AT", "2")
    monkeypatch.setattr(watchdog, "INTERVAL", 0.05)
    with closing(Workers(factories(1), 1, timeouts=Timeouts(step=0.2, close=0.2))) as venv:
        state = {"episode": 0, "actions": [0, 1, 2], "observation": "", "again": False}
        with pytest.raises(RuntimeError, match="hangs: step 2 of"):
            venv.env_method("restore", state, indices=0)


PLAYING = """
import os, signal
from functools import partial
import gymnasium as gym
import numpy as np
from environments import doom
from pr2l.rollout.episodes import make_episodes, training_seed
from pr2l.rollout.workers import Workers
make = partial(make_episodes, "doom", "fetch", doom.Defaults(rooms=4), "train", False, isolated=ISOLATED)
venv = Workers([partial(make, partial(training_seed, 0, 0))], 1)
venv.reset()
"""
HANGING = """
import os, signal
from functools import partial
import numpy as np
import toy_world
from pr2l.rollout.episodes import SeededEpisodes, training_seed
from pr2l.rollout.workers import Workers
os.environ["TOY_DELAY"] = "1000"
venv = Workers([partial(SeededEpisodes, toy_world.make("colours"), partial(training_seed, 0, 0))], 1)
venv.reset()
venv.step_async(np.zeros(1, int))
print("playing", flush=True)
signal.pause()
"""
STEP_FOREVER = """
print("playing", flush=True)
while True:
    venv.step(np.zeros(1, int))
"""
WAITING = """
try:
    print("playing", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print(venv.step(np.zeros(1, int))[1].tolist())
    venv.close()
"""


@pytest.fixture
def start():
    """start(program) -> a process that has printed "playing", and its child processes."""
    processes = []

    def start(program):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        if process.stdout.readline() != "playing\n":
            raise RuntimeError(process.stderr.read())
        return process, psutil.Process(process.pid).children(recursive=True)

    yield start
    for process in processes:
        with process:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a Doom engine to its parent")
@pytest.mark.parametrize("isolated", [pytest.param(False, marks=pytest.mark.slow), True])
def test_workers_and_engines_end_when_the_program_is_killed(start, isolated):
    process, children = start(PLAYING.replace("ISOLATED", str(isolated)) + STEP_FOREVER)
    commands = [command_line(child) for child in children]
    assert sum("+viz_instance_id" in command for command in commands) == 1
    assert sum("worker.py" in command for command in commands) == 2 * isolated  # a worker and its guard
    process.send_signal(signal.SIGKILL)
    assert have_ended(children)


@pytest.mark.slow  # the worker waits for ten seconds
def test_hanging_worker_ends_when_the_program_is_killed(start):
    process, children = start(HANGING)
    process.send_signal(signal.SIGKILL)
    assert have_ended(children)


@pytest.mark.parametrize("isolated", [pytest.param(False, marks=pytest.mark.slow), True])
def test_workers_ignore_ctrl_c(start, isolated):
    """A terminal sends SIGINT to the whole process group, and the program may continue in order to save."""
    process, children = start(PLAYING.replace("ISOLATED", str(isolated)) + WAITING)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err, process.returncode) == ("[-0.009999999776482582]\n", "", 0)
    assert have_ended(children)


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_doom_in_workers_equals_doom_in_this_process(isolated):
    make = partial(make_episodes, "doom", "fetch", doom.Defaults(rooms=4), "train", True)
    factories = [partial(make, partial(training_seed, 0, row)) for row in range(2)]
    remote = [partial(factory, isolated=isolated) for factory in factories]
    with closing(Workers(remote, 2)) as venv, closing(in_this_process(factories)) as expected:
        assert_same(venv.reset(), expected.reset())
        for step in range(6):
            assert_same(venv.step(actions(step, 2)), expected.step(actions(step, 2)))

"""Simulators in worker processes show what they would show in this one, and never outlive it."""

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
    """Picklable factories of the toy world, each with an environment that has not begun yet."""
    envs = [toy_world.make("colours", toy_world.Defaults(**options), labels=True) for _ in range(count)]
    return [partial(SeededEpisodes, env, partial(training_seed, 0, row)) for row, env in enumerate(envs)]


@pytest.fixture(scope="module")
def shared():
    with closing(Workers(factories(), workers=2, groups=2)) as venv:
        yield venv


@pytest.fixture
def venv(shared):
    """COUNT toy environments in two workers and two groups, before their first episode."""
    shared.set_attr("_next", 0)
    return shared


def in_this_process(factories):
    return DummyVecEnv([lambda factory=factory: factory() for factory in factories])


def actions(step, count=COUNT):
    return (np.arange(count) + step) % 3


def assert_same(one, other):
    """Equal through all nesting, with the same types in the same places, but for the kinds of dict."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        one, other = [*one.values()], [other[key] for key in one]
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
    elif isinstance(one, str | int | float | None):
        assert one == other
    else:
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)


def processes_of(venv):
    return [psutil.Process(worker.process.pid) for worker in venv._workers]


def gone(processes):
    return not psutil.wait_procs(processes, timeout=TIMEOUT)[1]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
def test_every_row_is_in_one_group_of_one_worker_and_the_load_is_even(count, processes, groups):
    rows = arrange(count, processes, groups)
    assert [row for group in rows for share in group for row in share] == list(range(count))
    shares = [sum(map(len, share)) for share in zip(*rows, strict=True)]
    assert len(shares) == min(count, processes) and max(shares) - min(shares) <= 1
    assert len(rows) == min(groups, max(shares)) and all(any(group) for group in rows)


def test_six_rows_in_two_workers_as_the_module_draws_them():
    rows = [[list(share) for share in group] for group in arrange(6, 2, 2)]
    assert rows == [[[0, 1], [2, 3]], [[4], [5]]]


def test_a_step_gives_what_it_gives_in_one_process(venv):
    theirs = in_this_process(factories())
    shown = venv.reset()
    assert_same(shown, theirs.reset())
    first, kept = shown["frame"], shown["frame"].copy()
    ended = 0
    for step in range(15):
        one, other = venv.step(actions(step)), theirs.step(actions(step))
        assert_same(one, other)
        assert_same(venv.reset_infos, theirs.reset_infos)
        ended += sum("terminal_observation" in info and info["TimeLimit.truncated"] for info in one[3])
    assert_same(venv.env_method("state"), theirs.env_method("state"))
    assert ended >= COUNT * (15 // 7)
    assert (first == kept).all()  # what was handed out is not the memory that workers write into


def test_seeds_and_ends_are_those_of_one_process(tmp_path):
    envs = [toy_world.EndedTwice(toy_world.make("colours")) for _ in range(2)]
    factories = [partial(gym.wrappers.OrderEnforcing, env) for env in envs]
    with closing(Workers(factories, 1)) as ours, closing(in_this_process(factories)) as theirs:
        ours.seed(7), theirs.seed(7)
        for _ in range(2):  # a seed is good for one reset
            assert_same(ours.reset(), theirs.reset())
        for step in range(7):
            assert_same(ours.step(actions(step, 2)), theirs.step(actions(step, 2)))
        assert ours.env_is_wrapped(toy_world.EndedTwice) == [True] * 2  # an inner wrapper
        for row in range(2):
            ours.set_attr("close", (tmp_path / f"{row} is closed").touch, row)
    assert len([*tmp_path.iterdir()]) == 2


def test_environments_can_be_asked_and_told_one_by_one(venv):
    venv.reset()
    venv.set_attr("note", "mine", indices=[4, 1])
    assert venv.get_attr("note", [1, 4, 1]) == ["mine"] * 3
    assert venv.env_is_wrapped(SeededEpisodes) == [True] * COUNT
    assert not any(venv.env_is_wrapped(gym.ObservationWrapper))
    assert venv.metadata == {"render_fps": 5} and venv.render_mode is None
    later = venv.env_method("state", indices=3)[0]
    venv.step(actions(0))
    venv.env_method("restore", later, indices=3)
    assert [len(state["actions"]) for state in venv.env_method("state")] == [1, 1, 1, 0, 1]
    assert not venv.has_attr("nothing")  # an error of an environment, after which all go on
    assert venv.step(actions(0))[0]["frame"].shape == (COUNT, 6, 8, 3)


def test_the_next_group_is_simulated_while_the_last_is_looked_at(venv):
    venv.reset()
    venv.step_async(actions(0))
    groups = venv.step_groups()
    rows, (shown, rewards, _, _) = next(groups)
    assert list(rows) == [0, 1, 2] and len(shown["frame"]) == len(rewards) == 3
    assert all(worker.pipe.poll(TIMEOUT) for worker in venv._workers)  # there already, though nobody asked
    assert [list(rows) for rows, _ in groups] == [[3, 4]]


def test_a_step_that_is_broken_off_does_not_answer_for_the_next(venv):
    theirs = in_this_process(factories())
    theirs.reset(), theirs.step(actions(0))
    venv.reset(), venv.step_async(actions(0))
    next(venv.step_groups())
    assert_same(venv.step(actions(1)), theirs.step(actions(1)))


class Echo(Encoder):
    """One token: the brightness of the frame's left and right half, and 1 if the context says "right"."""

    tokens, width = 1, 3

    def __init__(self):
        self.batches = []

    def encode(self, frames, contexts, labels=None):
        self.batches.append(len(frames))
        told = [context["target"] == "right" for context in contexts]
        halves = np.stack([frames[:, :, :4].mean(axis=(1, 2, 3)), frames[:, :, 4:].mean(axis=(1, 2, 3)), told], axis=1)
        return Tokens(torch.tensor(halves)[:, None], torch.ones(len(frames), 1, dtype=torch.bool))

    def answers(self):
        return [f"row {row}" for row in range(self.batches[-1])]


def test_groups_are_embedded_one_by_one_under_their_own_contexts(venv):
    ours, theirs = VecEmbed(venv, Echo()), VecEmbed(in_this_process(factories()), Echo())
    assert_same(ours.reset(), theirs.reset())
    ended = []
    for step in range(12):
        one, other = ours.step(actions(step)), theirs.step(actions(step))
        assert_same(one, other)
        assert_same((ours.frames, ours.contexts), (theirs.frames, theirs.contexts))
        last = [info["terminal_observation"]["tokens"] for info in one[3] if "episode" in info]
        for token in (*one[0]["tokens"], *last):
            assert (token[0, 1] > 0) == token[0, 2] and (token[0, 0] > 0) != token[0, 2]
        ended.append(one[2])
    assert ours.answers == ["row 0", "row 1", "row 2", "row 0", "row 1"]
    assert theirs.encoder.batches == [COUNT, *(COUNT + sum(dones) for dones in ended)]
    groups = [size for dones in ended for size in (3 + sum(dones[:3]), 2 + sum(dones[3:]))]
    assert ours.encoder.batches == [COUNT, *groups]


def test_an_error_of_an_environment_arrives_with_its_traceback():
    with closing(Workers(factories(2, hang_at=2), 1)) as venv:
        venv.reset()
        venv.step(actions(0, 2))
        with pytest.raises(RuntimeError, match="the toy engine has died") as caught:
            venv.step(actions(1, 2))
        assert isinstance(caught.value.__cause__, WorkerTraceback)
        assert "worker of environments 0, 1 (process" in str(caught.value.__cause__)
        assert 'raise RuntimeError("the toy engine has died")' in str(caught.value.__cause__)
        processes = processes_of(venv)
    assert gone(processes)


def test_an_environment_that_cannot_be_made_leaves_no_process(shared):
    bad = partial(make_episodes, "nowhere", "colours", None, "train", False, partial(training_seed, 0, 0))
    before = {*psutil.Process().children()}
    with pytest.raises(RuntimeError, match="UnknownName: 'nowhere' is not among the environments"):
        Workers([*factories(1), bad], 2)
    assert not {*psutil.Process().children()} - before


def test_workers_do_without_torch():
    modules = "pr2l.rollout.worker_process, pr2l.rollout.episodes, pr2l.environments.doom"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_an_exception_that_cannot_be_sent_is_told_in_words():
    sendable = ValueError("as it is")
    assert worker_process._portable(sendable) is sendable
    told = worker_process._portable(UnknownName("doors", "rde", ["red"]))
    assert type(told) is RuntimeError and "Did you mean 'red'?" in str(told)


def test_a_worker_that_dies_is_named_and_takes_all_with_it():
    with closing(Workers(factories(3), 2)) as venv:
        venv.reset()
        processes = processes_of(venv)
        venv.set_attr("start", os.posix_spawnp)  # as a simulator starts an engine, here one that outlives it
        (engine,) = venv.env_method("start", "sleep", ["sleep", "1000"], {}, indices=2)
        processes[1].kill()
        with pytest.raises(RuntimeError, match=r"worker of environments 2 \(process \d+\) has died: killed by SIGKILL"):
            venv.step(actions(0, 3))
        assert gone(processes)
        with pytest.raises(RuntimeError, match="have been closed"):
            venv.step(actions(0, 3))
    os.kill(engine, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows shared memory as files")
def test_shared_memory_has_no_name_that_could_be_left_behind(shared):
    assert not Path("/dev/shm", shared._memory.name).exists()


def test_close_does_not_wait_for_a_simulator_that_hangs(monkeypatch):
    monkeypatch.setenv("TOY_DELAY", "1000")
    end, deadlines = workers._Worker.end, []
    monkeypatch.setattr(workers._Worker, "end", lambda worker, until: (deadlines.append(until), end(worker, until)))
    venv = Workers(factories(2), 2, timeouts=Timeouts(close=0.2))
    venv.reset()
    venv.step_async(actions(0, 2))
    processes = processes_of(venv)
    began = time.monotonic()
    venv.close()
    assert gone(processes) and time.monotonic() - began < TIMEOUT
    assert deadlines[0] == deadlines[1]  # both are waited for at once


def test_a_step_beyond_its_time_limit_is_named_and_ends_the_workers(monkeypatch, capfd):
    monkeypatch.setenv("TOY_HOLD", "2")
    monkeypatch.setattr(watchdog, "INTERVAL", 0.05)
    with closing(Workers(factories(3), 2, timeouts=Timeouts(step=0.2, close=0.2))) as venv:
        venv.reset()
        venv.step(actions(0, 3))
        processes = processes_of(venv)
        seed = training_seed(0, 0, 0)
        with pytest.raises(RuntimeError, match=f"environments 0, 1 .* hangs: step 2 of the episode with seed {seed}"):
            venv.step(actions(1, 3))
        assert gone(processes)
    assert "toy_world.py" in capfd.readouterr().err  # where it hangs


def test_a_restored_episode_that_hangs_is_named_too(monkeypatch):
    monkeypatch.setenv("TOY_HOLD", "2")
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
venv = Workers([partial(make, partial(training_seed, 0, row)) for row in range(2)], 2)
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
WITHOUT_END = """
print("playing", flush=True)
while True:
    venv.step(np.zeros(2, int))
"""
WAITING = """
try:
    print("playing", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print(venv.step(np.zeros(2, int))[1].tolist())
    venv.close()
"""


@pytest.fixture
def start():
    """start(program): a process that runs it and has said that it is playing; and all that it has started."""
    started = []

    def start(program):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        if process.stdout.readline() != "playing\n":
            raise RuntimeError(process.stderr.read())
        return process, psutil.Process(process.pid).children(recursive=True)

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a Doom engine to its parent")
@pytest.mark.parametrize("isolated", [False, True])
def test_no_worker_and_no_doom_engine_survives_a_kill_of_the_program(start, isolated):
    process, offspring = start(PLAYING.replace("ISOLATED", str(isolated)) + WITHOUT_END)
    commands = [command_line(one) for one in offspring]
    assert sum("+viz_instance_id" in command for command in commands) == 2
    assert sum("worker.py" in command for command in commands) == 4 * isolated  # two, each with its guard
    process.send_signal(signal.SIGKILL)
    assert gone(offspring)


@pytest.mark.slow  # it is given ten seconds
def test_a_simulator_that_hangs_does_not_survive_a_kill_of_the_program(start):
    process, offspring = start(HANGING)
    process.send_signal(signal.SIGKILL)
    assert gone(offspring)


@pytest.mark.parametrize("isolated", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ctrl_c_leaves_the_workers_to_the_program(start, isolated):
    """A terminal sends SIGINT to the whole process group; the program may want to go on, in order to save."""
    process, offspring = start(PLAYING.replace("ISOLATED", str(isolated)) + WAITING)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err, process.returncode) == ("[-0.009999999776482582, -0.009999999776482582]\n", "", 0)
    assert gone(offspring)


@pytest.mark.parametrize("isolated", [False, True])
def test_doom_in_workers_is_doom(isolated):
    make = partial(make_episodes, "doom", "fetch", doom.Defaults(rooms=4), "train", True)
    factories = [partial(make, partial(training_seed, 0, row)) for row in range(3)]
    isolating = [partial(factory, isolated=isolated) for factory in factories]
    with closing(Workers(isolating, 2, 2)) as ours, closing(in_this_process(factories)) as theirs:
        assert_same(ours.reset(), theirs.reset())
        for step in range(6):
            assert_same(ours.step(actions(step, 3)), theirs.step(actions(step, 3)))

"""Steps of some environments while others are busy: `send` and `receive` of InProcessVecEnv and VecEmbed."""

import time
from contextlib import closing

import numpy as np
import pytest
from gated_world import LIMIT, GatedWorld, seeded
from stable_baselines3.common.vec_env import DummyVecEnv
from test_vec_embed import Echo, real_tokens

from pr2l.core.errors import UserError
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.step_threads import StepThreads
from pr2l.rollout.vec_embed import VecEmbed


def gated(*worlds):
    """Return environments whose seeds begin at 0, 10, 20, ..., after a reset."""
    venv = InProcessVecEnv([lambda row=row, world=world: seeded(world, 10 * row) for row, world in enumerate(worlds)])
    venv.reset()
    return venv


def frames(observations):
    return observations["frame"][:, 0, 0, 0].tolist()


def test_one_environment_goes_on_while_the_other_is_slow(worlds):
    """Environment 0 makes 7 steps, two episodes and a step, before the first step of environment 1 ends."""
    with closing(gated(*worlds)) as venv:
        worlds[1].gate.clear()
        venv.send([0, 1], [0, 1])
        seen = []
        for _ in range(7):
            rows, (observations, rewards, dones, infos) = venv.receive()
            assert rows == [0] and rewards.tolist() == [1] and venv.running == {1}
            seen.append((frames(observations)[0], bool(dones[0]), "terminal_observation" in infos[0]))
            venv.send([0], [0])
        step, end = (False, False), (True, True)
        assert seen == [(1, *step), (2, *step), (10, *end), (11, *step), (12, *step), (20, *end), (21, *step)]
        worlds[1].gate.set()
        rows = []
        while venv.running:
            received, (observations, *_) = venv.receive()
            rows += zip(received, frames(observations), strict=True)
        assert sorted(rows) == [(0, 22), (1, 101)] and worlds[1].actions == [1]


def test_a_slow_reset_holds_back_nobody(worlds):
    with closing(gated(*worlds)) as venv:
        for _ in range(2):
            venv.step(np.zeros(2, int))
        worlds[1].reset = lambda **_: worlds[1].gate.clear() or GatedWorld.reset(worlds[1], **_)
        venv.send([0, 1], [0, 0])
        assert venv.receive()[0] == [0]
        venv.send([0], [0])
        assert venv.receive()[0] == [0] and venv.running == {1}
        worlds[1].gate.set()
        rows, (observations, _, dones, infos) = venv.receive()
        assert (rows, dones.tolist(), frames(observations)) == ([1], [True], [110])
        assert venv.reset_infos[1]["context"] == {"target": "11"} and infos[0]["context"] == {"target": "10"}


def test_the_state_is_that_of_the_received_observation(worlds):
    """The step of environment 1 has ended, and even begun another episode, but nobody has received it."""
    with closing(gated(*worlds)) as venv:
        for _ in range(2):
            venv.step(np.ones(2, int))
        before = venv.env_method("state")
        venv.send([0, 1], [0, 0])
        received = set(venv.receive(most=1)[0])
        deadline = time.monotonic() + LIMIT
        while any(env._next == 1 for env in venv.envs):
            assert time.monotonic() < deadline
        (late,) = {0, 1} - received
        assert venv.env_method("state", indices=late)[0] == before[late]
        assert before[late]["actions"] == [1, 1] and before[late]["episode"] == 0
        venv.receive()
        state = venv.env_method("state", indices=late)[0]
        assert state["actions"] == [] and state["episode"] == 1


def test_receive_waits_for_a_batch_but_not_for_long(worlds):
    envs = [seeded(world, 0) for world in worlds]
    for env in envs:
        env.reset()
    threads = StepThreads(envs)
    threads.send(0, 0), threads.send(1, 0)
    assert {*threads.receive(least=2, most=2, patience=20)} == {0, 1}
    worlds[1].gate.clear()
    threads.send(0, 0), threads.send(1, 0)
    assert [*threads.receive(least=2, most=2, patience=0.01)] == [0]
    threads.send(0, 0)
    worlds[1].gate.set()
    assert {*threads.receive(least=2, most=1, patience=20), *threads.receive(least=2, most=1, patience=20)} == {0, 1}
    threads.close(20)


def test_misuse_is_refused(worlds):
    with closing(gated(*worlds)) as venv:
        worlds[1].gate.clear()
        with pytest.raises(RuntimeError, match="no environment is running"):
            venv.receive()
        venv.send([1], [0])
        with pytest.raises(RuntimeError, match="environment 1 is running: receive"):
            venv.send([1], [0])
        for call in (venv.reset, lambda: venv.step(np.zeros(2, int))):
            with pytest.raises(RuntimeError, match=r"environments \[1\] are running"):
                call()
        worlds[1].gate.set()


def test_an_exception_of_an_environment_is_raised(worlds):
    def crash(action):
        raise ZeroDivisionError("the engine has died")

    with closing(gated(*worlds)) as venv:
        worlds[0].step = crash
        venv.send([0], [0])
        with pytest.raises(ZeroDivisionError, match="the engine has died"):
            venv.receive()


def test_only_frames_of_received_environments_are_encoded(worlds):
    """In the last step the frame of the next episode and the last frame of the old one are encoded."""
    frames = InProcessVecEnv([lambda: seeded(worlds[0], 0), lambda: seeded(worlds[1], 0)])
    with closing(VecEmbed(frames, Echo())) as venv:
        venv.reset()
        worlds[1].gate.clear()
        venv.send([0, 1], [0, 0])
        for tokens in ([1, 0, 1], [2, 0, 2], [10, 1, 0]):
            rows, (observations, _, dones, infos) = venv.receive()
            assert rows == [0] and real_tokens(observations) == [tokens]
            venv.send([0], [0])
        assert dones.tolist() == [True] and infos[0]["terminal_observation"]["tokens"][0].tolist() == [3, 0, 3]
        assert venv.encoder.batches == [2, 1, 1, 2] and venv.contexts == [{"target": "1"}] and venv.running == {0, 1}
        worlds[1].gate.set()


def test_a_new_episode_is_encoded_with_the_context_of_its_own_environment(worlds):
    """Environment 1 ends its episode alone, while the first context of environment 0 is still "0"."""
    with closing(VecEmbed(gated(*worlds), Echo())) as venv:
        for _ in range(3):
            venv.send([1], [0])
            rows, (observations, *_) = venv.receive()
        assert rows == [1] and real_tokens(observations) == [[110, 11, 0]] and venv.contexts == [{"target": "11"}]


def test_environments_that_step_together_are_refused():
    venv = VecEmbed(DummyVecEnv([GatedWorld]), Echo())
    for call in (lambda: venv.send([0], [0]), venv.receive, lambda: venv.running):
        with pytest.raises(UserError, match="DummyVecEnv steps all environments together.*workers=0"):
            call()

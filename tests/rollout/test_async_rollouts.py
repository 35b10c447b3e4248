"""Asynchronous rollouts: what each environment plays, steps that go on in the next rollout, and exact resumption."""

from contextlib import closing
from itertools import count

import numpy as np
from gated_world import GatedWorld, seeded
from test_vec_embed import Echo

from pr2l.policies.base import Actions, Hooks
from pr2l.policies.common.async_rollouts import AsyncRollouts
from pr2l.policies.common.replay import Episode, Replay, Rollouts, row_of
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.vec_embed import VecEmbed


def embedded(*worlds):
    """Return environments whose seeds, and so their tokens, begin at 0 and 100; see GatedWorld."""
    factories = [lambda row=row, world=world: seeded(world, 10 * row) for row, world in enumerate(worlds)]
    return VecEmbed(InProcessVecEnv(factories), Echo())


class Player:
    """A policy that counts its batches, and rollouts of it in some environments."""

    def __init__(self, venv, episodes=None):
        self.venv, self.replay, self.batches, self.infos = venv, Replay(1000, 0.5), [], []
        if episodes is None:
            observations = venv.reset()
            episodes = [Episode([row_of(observations, row)]) for row in range(venv.num_envs)]
        hooks = Hooks()
        hooks.on_step = self.infos.extend
        self.rollouts = AsyncRollouts(venv, episodes, self.replay, None, hooks)
        self.numbers = count()

    def act(self, observation):
        self.batches.append(len(observation["mask"]))
        return Actions(np.array([next(self.numbers) % 2 for _ in observation["mask"]]))

    def collect(self, n_steps):
        return self.rollouts.collect(self.act, n_steps)

    def steps(self):
        """Return the numbers of steps in the replay and in running episodes."""
        return sum(map(len, self.replay.trajectories)), sum(len(episode.actions) for episode in self.rollouts.episodes)

    def first_tokens(self):
        """Return the first number of each observation of each trajectory."""
        return [steps.observations["tokens"][:, 0, 0].tolist() for steps in self.replay.trajectories]


def test_a_slow_step_goes_on_in_the_next_rollout(worlds):
    """Environment 0 plays all 12 steps of the first rollout; no step is lost or counted twice in the second."""
    with closing(embedded(*worlds)) as venv:
        player = Player(venv)
        worlds[1].gate.clear()
        assert player.collect(6) == 12 == len(player.infos) and player.steps() == (12, 0)
        assert player.first_tokens() == [[10 * seed + step for step in range(4)] for seed in range(4)]
        assert player.batches == [2] + [1] * 11 and venv.running == {1}
        worlds[1].gate.set()
        assert player.collect(6) == 12 and sum(player.steps()) == 24 == len(player.infos)
        taken = len(worlds[0].actions) + len(worlds[1].actions)
        assert 0 <= taken - 24 <= len(venv.running)  # a step that is running may have been taken
        for first in (0, 100):
            mine = [tokens for tokens in player.first_tokens() if (tokens[0] >= 100) == (first > 0)]
            assert mine == [[first + 10 * seed + step for step in range(4)] for seed in range(len(mine))]


def test_actions_are_those_that_the_environment_has_taken(worlds):
    with closing(embedded(*worlds)) as venv:
        player = Player(venv)
        player.collect(9)
        for row, world in enumerate(worlds):
            finished = player.replay.trajectories
            mine = [steps for steps in finished if (steps.observations["tokens"][0, 0, 0] >= 100) == row]
            actions = [action for steps in mine for action in steps.actions.tolist()]
            actions += [int(action) for action in player.rollouts.episodes[row].actions]
            assert actions == world.actions[: len(actions)] and len(world.actions) - len(actions) in (0, 1)


def test_a_failed_episode_is_truncated_and_its_environment_goes_on(worlds):
    """The second step of seed 0 fails: its episode is cut and repeated."""
    worlds[0].fails_at = 2
    with closing(embedded(worlds[0])) as venv:
        player = Player(venv)
        player.collect(8)
        assert player.first_tokens() == [[0, 1, 2], [0, 1, 2, 3], [10, 11, 12, 13]]
        assert [bool(steps.truncated[-1]) for steps in player.replay.trajectories] == [True, False, False]


def test_a_slow_step_is_repeated_after_a_resume(worlds):
    """The checkpoint is taken while the second step of environment 1 runs, before the policy changes."""
    with closing(embedded(*worlds)) as venv:
        player = Player(venv)
        Rollouts.collect(player.rollouts, player.act, 1)  # one step of each
        worlds[1].gate.clear()
        player.collect(2)
        tensors, states = [episode.tensors() for episode in player.rollouts.episodes], venv.states()
        chosen = player.rollouts.episodes[1].chosen
        worlds[1].gate.set()
    assert states[1]["actions"] == [worlds[1].actions[0]] and worlds[1].actions[1] == chosen
    fresh = GatedWorld(), GatedWorld()
    with closing(embedded(*fresh)) as venv:
        venv.restore(states)
        resumed = Player(venv, [Episode.of_tensors(parts) for parts in tensors])
        resumed.collect(4)
        assert fresh[1].actions[:2] == worlds[1].actions[:2] and resumed.batches[0] == 1
        assert sum(resumed.steps()) - sum(len(parts.get("actions", ())) for parts in tensors) == 8
        assert resumed.first_tokens()[0][0] in (10, 100)

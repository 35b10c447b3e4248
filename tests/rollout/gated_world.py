"""Environment whose steps and resets wait until the test opens its gate, so that a test decides who is slow."""

import threading

from diary_world import DiaryWorld

from pr2l.rollout.episodes import SeededEpisodes

LIMIT = 20  # seconds after which a closed gate fails the test


class GatedWorld(DiaryWorld):
    """DiaryWorld whose episode is the seed, so that it can be replayed.

    `fails_at`, a number of steps over all episodes, cuts that step's episode as a failed page does.
    """

    def __init__(self, length=3, fails_at=0):
        super().__init__(length, truncated=False)
        self.gate, self.actions, self.fails_at = threading.Event(), [], fails_at
        self.gate.set()

    def reset(self, *, seed=None, options=None):
        assert self.gate.wait(LIMIT)
        self.episode = seed - 1
        return super().reset()

    def step(self, action):
        assert self.gate.wait(LIMIT)
        self.actions.append(int(action))
        observation, reward, terminated, truncated, info = super().step(action)
        if len(self.actions) == self.fails_at:
            return observation, 0.0, False, True, {**info, "cut": "the page has failed"}
        return observation, reward, terminated, truncated, info


def seeded(world, first_seed):
    """Return episodes with the seeds first_seed, first_seed + 1, ..."""
    return SeededEpisodes(world, lambda number: first_seed + number)

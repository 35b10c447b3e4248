"""Plays the episodes of a data set with random actions, an oracle or a run.

The actions in an episode depend on the seed of the episode only, so a data set does not depend on interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.core.errors import UnknownName, UserError
from pr2l.rollout import build
from pr2l.rollout.elements import as_element
from pr2l.rollout.episodes import POLICY, SeededEpisodes
from pr2l.training import checkpoints
from pr2l.training.evaluate import Actor, learner_actor, play, trained
from pr2l.training.recorder import Recorder
from pr2l.training.runs import Run


def run_of(policy: str, environment: str, task: str) -> Run | None:
    """Load the run of a policy.

    Args:
        policy: "random", "oracle", or a run folder.
        environment: The environment in which the policy plays.
        task: The task that the policy plays.

    Returns:
        The run; None for "random" and "oracle".

    Raises:
        UnknownName: There is no such folder.
        UserError: The folder is not a run folder, or the run has another task.
    """
    if policy in ("random", "oracle"):
        return None
    if not Path(policy).is_dir():
        raise UnknownName("policies", policy, ["random", "oracle"], hint="There is no run folder of that name either.")
    run = Run.load(Path(policy))
    if (run.config.environment, run.config.task) != (environment, task):
        raise UserError(
            f"{policy} was trained on {run.config.environment} {run.config.task}, not on {environment} {task}; "
            f"collect there, or name a run of {environment} {task}"
        )
    return run


def newest_checkpoint(run: Run | None) -> int | None:
    """Return the step of a run's newest checkpoint, None if there is none.

    Args:
        run: Result of `run_of`; None for a policy that is not a run.
    """
    return None if run is None else max(checkpoints.steps(run.checkpoints), default=None)


def play_episodes(
    env: Recorder, module: ModuleType, task: str, run: Run | None, policy: str, seeds: Sequence[int]
) -> None:
    """Play the episodes of these seeds.

    Args:
        env: The recorder of the episodes.
        module: The module of the environment.
        task: The name of the task.
        run: The run whose policy plays, None for the other policies.
        policy: "random" or "oracle", if there is no run.
        seeds: The seeds of the episodes.
    """
    if not seeds:
        return
    order = [*seeds, seeds[0]]  # the last one begins, but is not played
    venv = DummyVecEnv([lambda: SeededEpisodes(env, lambda episode: order[min(episode, len(seeds))])])
    if run is not None:
        encoder, learner, _ = trained(run)
        act = learner_actor(learner, greedy=run.config.evaluation_greedy)
        play(
            build.encoded(run.config, venv, encoder),
            _seeded(env, act, torch.manual_seed),
            len(seeds),
        )
    elif policy == "oracle":
        decide = module.oracle(task)
        act = _single_actor(lambda: as_element(env.action_space, decide(env), "action of the oracle"))
        play(venv, act, len(seeds))
    else:
        play(venv, _seeded(env, _single_actor(env.action_space.sample), env.action_space.seed), len(seeds))


def _seeded(env: Recorder, act: Actor, set_seed: Callable[[int], Any]) -> Actor:
    """Return an actor whose random actions in an episode depend on nothing but the seed of the episode."""

    def seeded(observation: Any, starts: np.ndarray) -> np.ndarray:
        if starts[0]:
            # Not the seed itself, which the environment has: its random numbers would be those of the actions.
            sequence = np.random.SeedSequence(env.episode_seed, spawn_key=(POLICY,))
            set_seed(int(sequence.generate_state(1)[0]))
        return act(observation, starts)

    return seeded


def _single_actor(decide: Callable[[], Any]) -> Any:
    """Make an actor for one environment; it returns a list, because arrays cannot hold Dict or Text actions."""
    return lambda observation, starts: [decide()]

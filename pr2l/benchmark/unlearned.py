"""Runs of a suite whose player does not learn: the environment's scripted solution, or a VLM that is asked for actions.

Their run folders have the files of a trained run, except for checkpoints and curves.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from pr2l.agents.prompted import Defaults, PromptedAgent
from pr2l.agents.screen import Defaults as ScreenOptions
from pr2l.agents.screen import ScreenAgent, screen_player
from pr2l.benchmark.suites import Player as Name
from pr2l.core import prompt, registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.rollout.elements import as_element
from pr2l.rollout.vec_frames import VecFrames
from pr2l.training.evaluate import Actor, Player, report_player
from pr2l.training.metrics import Metrics
from pr2l.training.runs import Run
from pr2l.training.video import describe
from pr2l.vlms.loading import load_vlm


def play(config: RunConfig, player: Name, root: Path) -> Run:
    """Evaluate a player that does not learn, and write its run folder.

    Args:
        config: Config of the run. Its environment and its evaluations are used, and for "zero_shot" its VLM, the VLM's
            new_tokens and the prompt; the environment's actions are texts then. Without a prompt, the VLM is asked as
            pr2l/agents/screen.py asks it.
        player: What plays.
        root: Parent of the run folder.

    Returns:
        The run, whose results say that no step was trained.

    Raises:
        UserError: The task has no scripted solution, or `player` is "zero_shot" and the actions are not texts.
    """
    plays, start = player_of(config, player), time.monotonic()
    run = Run.create(config, root)
    results = report_player(run, plays, describe, 0)
    write_json(run.path / "results.json", {**results, "player": player})
    with closing(Metrics(run.path, config)) as metrics:
        metrics.write({"step": 0, "seconds": time.monotonic() - start})
    return run


def player_of(config: RunConfig, player: Name) -> Player:
    """Return a player; the arguments are those of `play`."""
    return _script_player(config) if player == "script" else _zero_shot_player(config)


def _script_player(config: RunConfig) -> Player:
    module = registry.load("environments", config.environment)
    if not hasattr(module, "oracle"):
        raise UserError(f"{config.environment} has no scripted solutions, which player=script needs")
    decide = module.oracle(config.task)

    def make(frames: VecEnv) -> tuple[VecEnv, Actor]:
        envs: Any = frames.envs  # type: ignore[attr-defined]  # of this process, as a script reads the environment
        space = frames.action_space

        def act(observation: Any, starts: np.ndarray) -> Any:
            return [as_element(space, decide(env), "action of the oracle") for env in envs]

        return VecFrames(frames), act

    return make


def _zero_shot_player(config: RunConfig) -> Player:
    if config.environment_options.get("actions") != "text":
        raise UserError("player=zero_shot needs environment_options.actions=text, because a VLM writes its actions")
    options = config.options("vlm")
    agent = PromptedAgent(load_vlm(config.vlm, options), Defaults(max_new_tokens=options.new_tokens))
    question = prompt.load(config.prompt_name).text if config.prompt_name else ""
    return lambda frames: screen_player(ScreenAgent(agent, ScreenOptions(question=question)), frames)

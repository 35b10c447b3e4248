"""Evaluate a trained agent on episodes that no run has trained on."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.table import Table
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.io import write_json
from pr2l.core.statistics import Estimate, bootstrap, episode_mean, success_rate
from pr2l.encoders.base import Encoder
from pr2l.policies.base import Learner
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training.runs import Run
from pr2l.training.video import EpisodeVideo, write_video

# (observations, which environments begin an episode) -> actions
Actor = Callable[[Any, np.ndarray], np.ndarray]

COMMITTED = Path(__file__).parents[2] / "docs" / "results"  # absent from an installed package
VIDEO_EPISODES = 3  # that the video shows


@dataclass(frozen=True)
class Score:
    """Statistics of evaluation episodes; 95 % intervals: Wilson for rates, bootstrap over episodes for other means."""

    episodes: int
    success: Estimate
    returned: Estimate
    length: float
    cut: int = 0  # episodes that the simulator aborted on both attempts; their partial return is counted
    measures: dict[str, Estimate] = field(default_factory=dict)  # the task's own, of the last step of an episode

    @classmethod
    def of(cls, played: Sequence[dict[str, Any]]) -> Score:
        """The statistics of `played`, "episode" infos of SeededEpisodes, at least one."""
        return cls(
            episodes=len(played),
            success=success_rate([[float(one["success"]) for one in played]]),
            returned=bootstrap([one["r"] for one in played]),
            length=float(np.mean([one["l"] for one in played])),
            cut=sum("cut" in one for one in played),
            measures={name: episode_mean([values]) for name in _names(played) if (values := _finite(played, name))},
        )

    def as_json(self) -> dict[str, Any]:
        estimates = {"success": self.success._asdict(), "return": self.returned._asdict()}
        measures = {name: estimate._asdict() for name, estimate in self.measures.items()}
        return {"episodes": self.episodes, **estimates, "length": self.length, "cut": self.cut, "measures": measures}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Score:
        success, returned = Estimate(**values["success"]), Estimate(**values["return"])
        measures = {name: Estimate(**each) for name, each in values.get("measures", {}).items()}
        return cls(values["episodes"], success, returned, values["length"], values.get("cut", 0), measures)


def by_context(played: Sequence[dict[str, Any]]) -> dict[str, Score]:
    """The score of the episodes of each context, by the text that fills the prompt's slots."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in played:
        groups[_about(one)].append(one)
    return {name: Score.of(groups[name]) for name in sorted(groups)}


def evaluate(path: Path, episodes: int | None = None) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run: print a table, write a video and results.json.

    Args:
        path: The run folder.
        episodes: How many; None = as in the run's config.

    Returns:
        What results.json holds.

    Raises:
        UserError: The folder holds no run or no checkpoint.
    """
    run = Run.load(path)
    return report(run, *trained(run), episodes)


def trained(run: Run) -> tuple[Encoder, Learner, int]:
    """The encoder and the learner of the run's newest checkpoint, and its step; UserError if there is none."""
    checkpoint = run.latest()
    encoder = build.encoder(run.config)
    if encoder.fit_frames:
        encoder.load_state_dict(checkpoint.below("encoder"))
    learner = build.learner(run.config, encoder, build.frame_spaces(run.config))
    learner.load_policy(checkpoint.below("model"))
    return encoder, learner, checkpoint.step


def report(run: Run, encoder: Encoder, learner: Learner, step: int, episodes: int | None = None) -> dict[str, Any]:
    """Play a learner and the random policy on the same episodes, write the results into the run and print them.

    Seeds torch's generator.

    Args:
        run: The run.
        encoder: Of the learner's tokens; its cache is cleared.
        learner: With the weights of the run.
        step: Steps that it was trained for.
        episodes: How many; None = as in the run's config.

    Returns:
        What results.json holds.
    """
    config, console = run.config, Console()
    encoder.clear_cache()  # so that the numbers are the same after training and by `pr2l evaluate`
    count = episodes or config.evaluation_episodes
    at_once = min(config.num_envs, count)
    with closing(build.environments(config, "evaluation", labels=encoder.needs_labels, count=at_once)) as frames:
        played = _play_and_record(run, encoder, learner, frames, count)
        frames.env_method("rewind")  # the same simulators: starting as many again may take minutes
        by_chance = play(frames, random_actor(frames.action_space, at_once), count)
    chance, agent = Score.of(by_chance), Score.of(played)
    contexts = by_context(played)
    about = ("environment", "task", "algorithm", "encoder", "vlm", "prompt", "network", "seed")
    results = {
        **{key: getattr(config, key) for key in about},
        "steps": step,
        "evaluation": agent.as_json(),
        "by_context": {name: score.as_json() for name, score in contexts.items()},
        "random": chance.as_json(),
        "played": columns(played),
    }
    write_json(run.path / "results.json", results)
    rows = {"random": chance, **committed(config), f"this run ({config.encoder})": agent}
    console.print(table(f"{config.environment}/{config.task} after {step:,} steps", rows))
    if len(contexts) > 1:
        console.print(table(f"this run ({config.encoder}) by context", contexts, of="context"))
    for sentence in undefined_measures(played):
        console.print(sentence, style="yellow")
    console.print(f"{run.path}: results.json, video, metrics.csv, curves.png", style="dim")
    return results


def columns(played: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """One list per quantity over the episodes, for comparisons over several runs."""
    return {
        "success": [float(one["success"]) for one in played],
        "return": [one["r"] for one in played],
        "context": [_about(one) for one in played],
        **{name: [_measure(one, name) for one in played] for name in _names(played)},
    }


def _about(one: dict[str, Any]) -> str:
    return ", ".join(one["context"].values())


def _names(played: Sequence[dict[str, Any]]) -> list[str]:
    """The measures that any of the episodes has."""
    return list(dict.fromkeys(name for episode in played for name in episode.get("measures", {})))


def _measure(episode: dict[str, Any], name: str) -> float | None:
    """A measure of an episode; None where it is missing, NaN or infinite, which JSON cannot hold."""
    value = float(episode.get("measures", {}).get(name, math.nan))
    return value if math.isfinite(value) else None


def _finite(played: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [value for episode in played if (value := _measure(episode, name)) is not None]


def undefined_measures(played: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each measure that some episodes do not define."""
    sentences = []
    for name in _names(played):
        numbers = [str(episode["number"]) for episode in played if _measure(episode, name) is None]
        if numbers:
            sentences.append(
                f"{name} is not a finite number in evaluation episodes {', '.join(numbers)}: null in results.json, "
                "and left out of the mean"
            )
    return sentences


def _play_and_record(
    run: Run, encoder: Encoder, learner: Learner, frames: VecEnv, episodes: int
) -> list[dict[str, Any]]:
    """The "episode" infos of the learner's evaluation episodes; the first of them become the run's video."""
    video = EpisodeVideo(min(VIDEO_EPISODES, frames.num_envs))
    torch.manual_seed(run.config.seed)
    act = learner_actor(learner, greedy=run.config.evaluation_greedy)
    played = play(VecEmbed(frames, encoder), act, episodes, video)
    fps = float(frames.get_attr("metadata", 0)[0].get("render_fps", 10))
    write_video(run.path / "video", video.pictures(), fps)
    return played


def play(venv: VecEnv, act: Actor, episodes: int, video: EpisodeVideo | None = None) -> list[dict[str, Any]]:
    """Play evaluation episodes 0 .. episodes - 1.

    Environment i plays numbers i, i + N, ..., however long they are: taking the first episodes to end instead would
    favour short ones. An episode that a failing simulator has cut is played once more; if it is cut again, its info has
    "cut".

    Args:
        venv: N environments whose infos are those of SeededEpisodes.
        act: Chooses the actions.
        episodes: How many.
        video: Collects what a VecEmbed shows; None = no video.

    Returns:
        The "episode" infos by number, with "number" set.
    """
    played: dict[int, dict[str, Any]] = {}
    observation = venv.reset()
    starts = np.ones(venv.num_envs, dtype=bool)
    while len(played) < episodes:
        if video is not None and isinstance(venv, VecEmbed):
            video.show(venv.frames, venv.contexts, venv.answers)
        actions = act(observation, starts)
        observation, rewards, starts, infos = venv.step(actions)
        if video is not None:
            video.step(actions, rewards)
        for row in map(int, np.flatnonzero(starts)):
            info = infos[row]
            if "again" in info["episode"]:
                continue
            if video is not None:
                video.end(row, info["terminal_frame"], info["context"], info["episode"]["success"])
            number = row + venv.num_envs * info["episode"]["number"]
            if number < episodes:
                played[number] = {**info["episode"], "number": number}
    return [played[number] for number in sorted(played)]


def learner_actor(learner: Learner, *, greedy: bool = False) -> Actor:
    """An actor that keeps the learner's memory; greedy: most probable actions, otherwise drawn as in training."""
    memory: Any = None

    def act(observation: Any, starts: np.ndarray) -> np.ndarray:
        nonlocal memory
        actions, memory, _ = learner.act(observation, memory, starts, greedy=greedy)
        return actions

    return act


def random_actor(space: spaces.Space[Any], count: int, seed: int = 0) -> Actor:
    """Uniformly random actions for `count` environments."""
    space.seed(seed)
    return lambda observation, starts: np.stack([space.sample() for _ in range(count)])


def committed(config: RunConfig) -> dict[str, Score]:
    """Results of image_only on the same task in the repository's docs/results, by the name of their row."""
    rows = {}
    for path in sorted(COMMITTED.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        place = tuple(result.get(key) for key in ("environment", "task", "encoder"))
        alike = result.get("algorithm", "ppo") == config.algorithm
        if alike and place == (config.environment, config.task, "image_only"):
            name = f"image_only (committed, {result['steps']:,} steps, {path.name})"
            rows[name] = Score.from_json(result["evaluation"])
    return rows


def table(title: str, rows: dict[str, Score], of: str = "policy") -> Table:
    """A table of scores.

    Args:
        title: Above it.
        rows: Name -> score; of the measures only the first is shown, as a terminal is narrow.
        of: What the rows are.
    """
    drawn = Table(title=title, caption="95 % intervals over evaluation episodes, which no run trains on")
    drawn.add_column(of)
    measures = list(dict.fromkeys(name for score in rows.values() for name in score.measures))[:1]
    for column in ("success rate", *measures, "return", "length", "episodes"):
        drawn.add_column(column, justify="right", no_wrap=not measures)
    for name, score in rows.items():
        episodes = f"{score.episodes} ({score.cut} cut)" if score.cut else str(score.episodes)
        measured = [str(score.measures.get(measure, "")) for measure in measures]
        drawn.add_row(name, str(score.success), *measured, str(score.returned), f"{score.length:.0f}", episodes)
    return drawn

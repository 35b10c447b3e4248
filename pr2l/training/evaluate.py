"""Evaluation of a trained agent on episodes that no run trains on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.markup import escape
from rich.table import Table
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import prompt
from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.core.lock import locked
from pr2l.core.statistics import Estimate, bootstrap, episode_mean, success_rate
from pr2l.core.types import Context, Frame
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import uncached
from pr2l.policies.base import Learner
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.rollout.vec_frames import VecFrames
from pr2l.training.runs import Run
from pr2l.training.video import EpisodeVideo, describe, write_video

# (observations of N environments, bool [N]: True if the environment begins an episode) -> N actions
Actor = Callable[[Any, np.ndarray], np.ndarray]
# environments with frames -> the environments that a policy plays in, such as a VecEmbed of them, and its actor
Player = Callable[[VecEnv], tuple[VecEnv, Actor]]

COMMITTED = Path(__file__).parents[2] / "docs" / "results"  # absent from an installed package
VIDEO_EPISODES = 3  # maximum number of episodes in the video


@dataclass(frozen=True)
class Score:
    """Statistics of evaluation episodes, with 95 % confidence intervals.

    The intervals are Wilson intervals for the success rate, and bootstraps over episodes for other means.

    Args:
        episodes: Number of episodes.
        success: Success rate, 0..1.
        returned: Mean return.
        length: Mean number of decisions per episode.
        cut: Episodes that the simulator aborted on both attempts; their partial return counts.
        measures: Means of the task's own measures at the last step of an episode, by name.
    """

    episodes: int
    success: Estimate
    returned: Estimate
    length: float
    cut: int = 0
    measures: dict[str, Estimate] = field(default_factory=dict)

    @classmethod
    def of(cls, episodes: Sequence[dict[str, Any]]) -> Score:
        """Compute the statistics of at least one episode.

        Args:
            episodes: "episode" infos of SeededEpisodes.
        """
        return cls(
            episodes=len(episodes),
            success=success_rate([[float(episode["success"]) for episode in episodes]]),
            returned=bootstrap([episode["r"] for episode in episodes]),
            length=float(np.mean([episode["l"] for episode in episodes])),
            cut=sum("cut" in episode for episode in episodes),
            measures={name: episode_mean([values]) for name in _names(episodes) if (values := _finite(episodes, name))},
        )

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values, for results.json."""
        estimates = {"success": self.success._asdict(), "return": self.returned._asdict()}
        measures = {name: estimate._asdict() for name, estimate in self.measures.items()}
        return {"episodes": self.episodes, **estimates, "length": self.length, "cut": self.cut, "measures": measures}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Score:
        """Create the statistics from the JSON values of `as_json`.

        Args:
            values: JSON values; those of earlier versions lack "cut" and "measures", which become 0 and {}.
        """
        success, returned = Estimate(**values["success"]), Estimate(**values["return"])
        measures = {name: Estimate(**estimate) for name, estimate in values.get("measures", {}).items()}
        return cls(values["episodes"], success, returned, values["length"], values.get("cut", 0), measures)


def by_context(episodes: Sequence[dict[str, Any]]) -> dict[str, Score]:
    """Compute the score of each context.

    Args:
        episodes: "episode" infos of SeededEpisodes.

    Returns:
        Scores by the values of the context, joined with ", ".
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for episode in episodes:
        groups[_context_text(episode)].append(episode)
    return {name: Score.of(groups[name]) for name in sorted(groups)}


def evaluate(path: Path, episodes: int | None = None) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run: print a table, and write a video and results.json.

    Args:
        path: Run folder.
        episodes: Number of episodes; None = `evaluation_episodes` of the run's config.

    Returns:
        Contents of results.json.

    Raises:
        UserError: The folder holds no run or no checkpoint.
    """
    run = Run.load(path)
    with locked(path):
        encoder, learner, step = trained(run)
        _check_newer_results(run, step)
        return report(run, encoder, learner, step, episodes)


def _check_newer_results(run: Run, step: int) -> None:
    """Check that the results on disk are not of a later step, whose checkpoint is damaged."""
    try:
        earlier = run.results()["steps"]
    except UserError:  # missing or damaged: they are written again
        return
    if earlier > step:
        raise UserError(
            f"{run.path}/results.json is of step {earlier:,}, and the newest undamaged checkpoint is of step {step:,}. "
            f"`pr2l train --resume {run.path}` trains those steps again; to evaluate step {step:,}, move results.json "
            "away first"
        )


def trained(run: Run) -> tuple[Encoder, Learner, int]:
    """Load the encoder and the learner from the newest checkpoint of a run.

    Args:
        run: The run.

    Returns:
        The encoder, the learner and the step of the checkpoint.

    Raises:
        UserError: The run has no readable checkpoint.
    """
    checkpoint = run.latest()
    spaces = build.frame_spaces(run.config)
    encoder = build.encoder(run.config, spaces.frame_shape)
    if encoder.fit_frames:
        encoder.load_state_dict(checkpoint.below("encoder"))
    learner = build.learner(run.config, encoder, spaces)
    learner.load_policy(checkpoint.below("model"))
    return encoder, learner, checkpoint.step


def report(run: Run, encoder: Encoder, learner: Learner, step: int, episodes: int | None = None) -> dict[str, Any]:
    """Evaluate a learner and the random policy on the same episodes, and write and print the results.

    This seeds torch's random generator.

    Args:
        run: Run whose folder receives the results.
        encoder: Encoder of the frames; this clears its cache.
        learner: Learner with the weights of the run.
        step: Steps of training so far.
        episodes: Number of episodes; None = `evaluation_episodes` of the run's config.

    Returns:
        Contents of results.json.
    """
    encoder.clear_cache()  # so that `pr2l evaluate` gives the same numbers as the evaluation after training
    player, question = learner_player(run.config, encoder, learner), question_of(run.config, encoder)
    return report_player(run, player, question, step, episodes, labels=encoder.needs_labels)


def learner_player(config: RunConfig, encoder: Encoder, learner: Learner) -> Player:
    """Return the player of a learner; each use seeds torch's random generator.

    Args:
        config: Config of the run.
        encoder: Encoder of the frames.
        learner: The learner.
    """

    def player(frames: VecEnv) -> tuple[VecEnv, Actor]:
        torch.manual_seed(config.seed)
        act = learner_actor(learner, greedy=config.evaluation_greedy)
        return build.encoded(config, frames, encoder), act

    return player


def report_player(
    run: Run,
    player: Player,
    question: Callable[[Context], str],
    step: int,
    episodes: int | None = None,
    *,
    labels: bool = False,
) -> dict[str, Any]:
    """Evaluate a player and the random policy on the same episodes, and write and print the results.

    Args:
        run: Run whose folder receives the results.
        player: The player. It plays the run's evaluation, and then each of the config's `evaluations`.
        question: Function that gives the line of the video for a context.
        step: Steps of training so far.
        episodes: Number of episodes of each evaluation; None = `evaluation_episodes` of the run's config.
        labels: Whether the player reads the simulator's labels.

    Returns:
        Contents of results.json.
    """
    config, console = run.config, Console()
    count = episodes or config.evaluation_episodes
    video = EpisodeVideo(min(VIDEO_EPISODES, config.num_envs, count), question)
    played = play_both(config, player, count, video, labels=labels)
    write_video(run.path / "video", video.pictures(), played.fps)
    others = {name: play_both(config.evaluated_in(name), player, count, labels=labels) for name in config.evaluations}
    contexts = by_context(played.agent)
    keys = ("environment", "task", "algorithm", "encoder", "vlm", "prompt", "network", "seed")
    results = {
        **{key: getattr(config, key) for key in keys},
        "steps": step,
        **played.as_json(),
        "by_context": {name: score.as_json() for name, score in contexts.items()},
        **({"evaluations": {name: other.as_json() for name, other in others.items()}} if others else {}),
    }
    write_json(run.path / "results.json", results)
    title, agent = f"{config.environment}/{config.task} after {step:,} steps", f"this run ({config.encoder})"
    rows = {"random": Score.of(played.random), **committed(config), agent: Score.of(played.agent)}
    console.print(table(title, rows), markup=False)
    for name, other in others.items():
        rows = {"random": Score.of(other.random), agent: Score.of(other.agent)}
        console.print(table(f"{title}, evaluation {name!r}", rows), markup=False)
    if len(contexts) > 1:
        console.print(table(f"{agent} by context", contexts, of="context"), markup=False)
    for sentence in undefined_measures(played.agent):
        console.print(sentence, style="yellow", markup=False)
    console.print(f"{run.path}: results.json, video, metrics.csv, curves.png", style="dim", markup=False)
    return results


@dataclass(frozen=True)
class Played:
    """Episodes of an evaluation.

    Args:
        agent: "episode" infos of SeededEpisodes of the player.
        random: Those of random actions, in the same episodes.
        fps: Frames per second of a video.
    """

    agent: list[dict[str, Any]]
    random: list[dict[str, Any]]
    fps: float

    def as_json(self) -> dict[str, Any]:
        """Return the scores of the player and of random actions, and the player's episodes, for results.json."""
        scores = {"evaluation": Score.of(self.agent).as_json(), "random": Score.of(self.random).as_json()}
        return {**scores, "played": columns(self.agent)}


def play_both(
    config: RunConfig, player: Player, episodes: int, video: EpisodeVideo | None = None, *, labels: bool = False
) -> Played:
    """Play the same evaluation episodes with a player and with random actions.

    Args:
        config: Config of the environments.
        player: The player.
        episodes: Number of episodes.
        video: Video to which to add the player's frames; None = no video.
        labels: Whether the player reads the simulator's labels.
    """
    at_once = min(config.num_envs, episodes)
    with closing(build.environments(config, "evaluation", labels=labels, count=at_once)) as frames:
        agent_episodes = play(*player(frames), episodes, video)
        frames.env_method("rewind")  # reuses the simulators, because starting new ones may take minutes
        random_episodes = play(frames, random_actor(frames.action_space, at_once), episodes)
        fps = float(frames.get_attr("metadata", 0)[0].get("render_fps", 10))
    return Played(agent_episodes, random_episodes, fps)


def columns(episodes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return one list over the episodes for each quantity, for comparisons between runs.

    Args:
        episodes: "episode" infos of SeededEpisodes.

    Returns:
        "success" (0.0 or 1.0), "return", "context", and the task's own measures by name (None = undefined).
    """
    return {
        "success": [float(episode["success"]) for episode in episodes],
        "return": [episode["r"] for episode in episodes],
        "context": [_context_text(episode) for episode in episodes],
        **{name: [_measure(episode, name) for episode in episodes] for name in _names(episodes)},
    }


def _context_text(episode: dict[str, Any]) -> str:
    return ", ".join(episode["context"].values())


def _names(episodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of all measures that occur in the episodes."""
    return list(dict.fromkeys(name for episode in episodes for name in episode.get("measures", {})))


def _measure(episode: dict[str, Any], name: str) -> float | None:
    """Return a measure of an episode; None if it is missing, NaN or infinite, because JSON has no such numbers."""
    value = float(episode.get("measures", {}).get(name, math.nan))
    return value if math.isfinite(value) else None


def _finite(episodes: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [value for episode in episodes if (value := _measure(episode, name)) is not None]


def undefined_measures(episodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence about each measure that is undefined in some episodes.

    Args:
        episodes: "episode" infos with "number".
    """
    sentences = []
    for name in _names(episodes):
        numbers = [str(episode["number"]) for episode in episodes if _measure(episode, name) is None]
        if numbers:
            sentences.append(
                f"{name} is not a finite number in evaluation episodes {', '.join(numbers)}: null in results.json, "
                "and left out of the mean"
            )
    return sentences


def question_of(config: RunConfig, encoder: Encoder) -> Callable[[Context], str]:
    """Return the function that gives the line of a video for a context.

    Args:
        config: Config of the run.
        encoder: Encoder of the run. If it reads the prompt, and the prompt is a text, the line is the filled prompt;
            otherwise it is the context.
    """
    reads_prompt = hasattr(uncached(encoder), "prompts")
    text = prompt.load(config.prompt_name) if reads_prompt and config.prompt_name else None
    return describe if text is None or text.messages else text.render


def play(venv: VecEnv, act: Actor, episodes: int, video: EpisodeVideo | None = None) -> list[dict[str, Any]]:
    """Play evaluation episodes 0 .. episodes - 1.

    Environment i plays the episodes i, i + N, ..., regardless of their length; to take the first episodes that end
    would favour short ones. If a simulator failure cuts an episode, the environment plays it once more; if the episode
    is cut again, its info has "cut".

    Args:
        venv: N environments with the infos of SeededEpisodes.
        act: Function that chooses the actions.
        episodes: Number of episodes.
        video: Video to which to add the frames, if `venv` is a VecEmbed or a VecFrames; None = no video.

    Returns:
        "episode" infos in the order of their numbers, each with "number".
    """
    info_of: dict[int, dict[str, Any]] = {}
    observation = venv.reset()
    starts = np.ones(venv.num_envs, dtype=bool)
    while len(info_of) < episodes:
        actions = act(observation, starts)
        shown = venv.environment_actions(actions) if isinstance(venv, VecEmbed) else actions
        if video is not None and isinstance(venv, VecEmbed | VecFrames):
            video.show(venv.frames, venv.contexts, venv.answers, partial(_draw_action, venv, shown))
        observation, rewards, starts, infos = venv.step(actions)
        if video is not None:
            video.step(shown, rewards, infos)
        for row in map(int, np.flatnonzero(starts)):
            info = infos[row]
            if "again" in info["episode"]:
                continue
            if video is not None:
                video.end(row, info["terminal_frame"], info["context"], info["episode"]["success"])
            number = row + venv.num_envs * info["episode"]["number"]
            if number < episodes:
                info_of[number] = {**info["episode"], "number": number}
    return [info_of[number] for number in sorted(info_of)]


def _draw_action(venv: VecEnv, actions: np.ndarray, row: int, frame: Frame) -> Frame:
    """Return the frame of an environment with its action, if the environment can draw it."""
    drawn: list[Frame] = venv.env_method("draw_action", frame, actions[row], indices=row)
    return drawn[0]


def learner_actor(learner: Learner, *, greedy: bool = False) -> Actor:
    """Return an actor that plays with a learner and keeps its memory.

    Args:
        learner: The learner.
        greedy: Choose the most probable actions; otherwise sample actions as in training.
    """
    memory: Any = None

    def act(observation: Any, starts: np.ndarray) -> np.ndarray:
        nonlocal memory
        actions, memory, _ = learner.act(observation, memory, starts, greedy=greedy)
        return actions

    return act


def random_actor(space: spaces.Space[Any], count: int, seed: int = 0) -> Actor:
    """Return an actor that chooses uniformly random actions.

    Args:
        space: Action space of one environment; this seeds its random generator.
        count: Number of environments.
        seed: Seed of the actions.
    """
    space.seed(seed)
    return lambda observation, starts: np.stack([space.sample() for _ in range(count)])


def committed(config: RunConfig) -> dict[str, Score]:
    """Read the results of image_only on the task of a config from the repository's docs/results.

    Args:
        config: Config of a run; its environment, task and algorithm select the results.

    Returns:
        Scores by the name of their row in the table; {} in an installed package.
    """
    rows = {}
    for path in sorted(COMMITTED.glob("*.json")):
        result = read_json(path)
        identity = tuple(result.get(key) for key in ("environment", "task", "encoder"))
        same_algorithm = result.get("algorithm", "ppo") == config.algorithm
        if same_algorithm and identity == (config.environment, config.task, "image_only"):
            name = f"image_only (committed, {result['steps']:,} steps, {path.name})"
            rows[name] = Score.from_json(result["evaluation"])
    return rows


def table(title: str, rows: dict[str, Score], of: str = "policy") -> Table:
    """Draw a table of scores.

    Args:
        title: Title of the table.
        rows: Scores by name; the table has only the first of the measures, because a terminal is narrow.
        of: Heading of the column of names.
    """
    score_table = Table(title=escape(title), caption="95 % intervals over evaluation episodes, which no run trains on")
    score_table.add_column(of)
    measures = list(dict.fromkeys(name for score in rows.values() for name in score.measures))[:1]
    for column in ("success rate", *measures, "return", "length", "episodes"):
        score_table.add_column(column, justify="right", no_wrap=not measures)
    for name, score in rows.items():
        episodes = f"{score.episodes} ({score.cut} cut)" if score.cut else str(score.episodes)
        measure_cells = [str(score.measures.get(measure, "")) for measure in measures]
        score_table.add_row(
            name, str(score.success), *measure_cells, str(score.returned), f"{score.length:.0f}", episodes
        )
    return score_table

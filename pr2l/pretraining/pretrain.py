"""`pr2l pretrain`: train a small VLM on labels of a simulator, or fine-tune an existing VLM.

    play -> labelled frames -> training -> evaluation in other rooms, with other seeds -> weights

A config that names a `vlm` fine-tunes it (finetune.py) and evaluates it before and after: on labels, or with
`action_features` on whether actions change the screen (changes.py). A config with options of `reading` trains a small
VLM on screens (screens.py); any other config trains a small VLM from scratch (from_scratch.py). docs/tiny.md describes
the training of `tiny`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from pr2l.core.config import read_config, read_values
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json, write_text
from pr2l.core.lock import locked
from pr2l.data.changes import Changes, EpisodeSource, generated_changes, recorded_changes
from pr2l.data.labelled_frames import LabelledFrames, Source, load_or_play
from pr2l.data.screens import ScreenSet, ScreenSource, load_or_generate
from pr2l.policies.common.threads import torch_threads
from pr2l.pretraining import finetune, from_scratch, screens
from pr2l.pretraining.architecture import Architecture, ScreenArchitecture
from pr2l.pretraining.changes import ChangesConfig, draw_changes, evaluate_changes
from pr2l.pretraining.evaluation import MAX_ANSWER_TOKENS, Accuracies, evaluate_answers
from pr2l.pretraining.finetune import AdaptConfig, Draw, FinetuneConfig
from pr2l.pretraining.screen_evaluation import evaluate_screens
from pr2l.pretraining.screens import ReadingOptions
from pr2l.pretraining.stages import CHECKPOINTS, OnStep, Stage
from pr2l.vlms.base import VLM
from pr2l.vlms.loading import load_vlm

MAX_ANSWER_SUBWORDS = 32  # tokens per answer, for tokenizers that split words
LOG_EVERY = 10  # steps between two lines of metrics.jsonl
EVALUATION, BEFORE, SETTINGS = "evaluation.json", "evaluation_before.json", "settings.json"


class PretrainConfig(BaseModel):
    """Config of a training from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    RENAMED: ClassVar = {"lessons": "training"}

    why: str  # purpose of the training, in a sentence
    train: tuple[Source, ...] = Field(min_length=1)  # frames for training
    test: tuple[Source, ...]  # frames for the evaluation, from other rooms and seeds
    architecture: Architecture = Field(default_factory=Architecture)  # sizes of the model
    start: str | None = None  # name of a VLM of the same architecture with the initial weights; None = random weights
    training: from_scratch.TrainingOptions  # options of the training
    threads: PositiveInt = 2  # torch threads on a CPU


class ScreensConfig(BaseModel):
    """Config of a training on screens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str  # purpose of the training, in a sentence
    train: tuple[ScreenSource, ...] = Field(min_length=1)  # screens for training
    test: tuple[ScreenSource, ...]  # screens for the evaluation, from other words, themes and apps
    architecture: ScreenArchitecture = Field(default_factory=ScreenArchitecture)  # sizes of the model
    reading: ReadingOptions  # options of the training
    threads: PositiveInt = 2  # torch threads on a CPU


def pretrain(config: str | Path, overrides: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Play, train and evaluate, or resume this in the same folder.

    Args:
        config: Name in configs/, such as "pretrain/tiny" or "pretrain/finetune", or path of a YAML file.
        overrides: Changes of the config as "key=value", with values in YAML.
        folder: Folder for frames, checkpoints, metrics and evaluations; None = runs/ and the last part of the config's
            name.

    Returns:
        The folder with the weights, in the format of any other checkpoint.

    Raises:
        UserError: The config is wrong, a VLM does not exist, another process uses the folder, or the folder holds a
            training with other settings or a checkpoint of an earlier version.
    """
    folder = folder or Path("runs") / Path(config).stem
    values = read_values(config, overrides)
    if "reading" in values:
        screens_config = read_config(ScreensConfig, config, overrides)
        with locked(folder):
            _check_settings(screens_config, folder)
            return _train_on_screens(screens_config, folder)
    if "action_features" in values:
        changes_config = read_config(ChangesConfig, config, overrides)
        with locked(folder):
            _check_settings(changes_config, folder)
            return _finetune_on_changes(changes_config, folder)
    if "vlm" in values:
        finetune_config = read_config(FinetuneConfig, config, overrides)
        with locked(folder):
            _check_settings(finetune_config, folder)
            return _finetune(finetune_config, folder)
    scratch_config = read_config(PretrainConfig, config, overrides)
    with locked(folder):
        _check_settings(scratch_config, folder)
        return _train_from_scratch(scratch_config, folder)


def _train_from_scratch(config: PretrainConfig, folder: Path) -> Path:
    console = Console()
    with torch_threads(config.threads), _progress(console) as bars:
        training = _frames("play for training", config.train, folder, bars)
        testing = _frames("play for the evaluation", config.test, folder, bars)
        weights = folder / "model"
        _train_and_save(config, training, folder, weights, bars)
        results = _evaluate(load_vlm(str(weights)), config.test, testing, bars)
    write_text(folder / EVALUATION, json.dumps(results, indent=1))
    for title, accuracies in results.items():
        console.print(_table(title, {"accuracy": accuracies}))
    return weights


def _finetune(config: FinetuneConfig, folder: Path) -> Path:
    console = Console()
    with torch_threads(config.threads), _progress(console) as bars:
        training = _frames("play for training", config.train, folder, bars)
        testing = _frames("play for the evaluations", config.test, folder, bars)

        def evaluate(vlm: VLM) -> dict[str, Accuracies]:
            return _evaluate(vlm, config.test, testing, bars, MAX_ANSWER_SUBWORDS)

        before, after = _adapt(config, folder, partial(finetune.draw_examples, training), evaluate, bars)
    _print_both(before, after, console)
    return folder / "model"


def _finetune_on_changes(config: ChangesConfig, folder: Path) -> Path:
    console = Console()
    with torch_threads(config.threads), _progress(console) as bars:
        training = [_changes("screens for training", source, folder, bars) for source in config.train]
        testing = [_changes("screens for the evaluations", source, folder, bars) for source in config.test]

        def evaluate(vlm: VLM) -> dict[str, Accuracies]:
            progress = [partial(_advance, bars, bars.add_task("evaluate", total=len(rows))) for rows in testing]
            pairs = zip(testing, progress, strict=True)
            results = [evaluate_changes(vlm, changes, config, advance) for changes, advance in pairs]
            return {_changes_title(source): result for source, result in zip(config.test, results, strict=True)}

        before, after = _adapt(config, folder, partial(draw_changes, training, config), evaluate, bars)
    _print_both(before, after, console)
    return folder / "model"


def _adapt(
    config: AdaptConfig, folder: Path, draw: Draw, evaluate: Callable[[VLM], dict[str, Accuracies]], bars: Progress
) -> tuple[dict[str, Accuracies], dict[str, Accuracies]]:
    """Fine-tune a VLM and save it in `folder`/model; return the evaluations before and after by title."""
    before = folder / BEFORE
    if not before.exists():
        write_json(before, evaluate(load_vlm(config.vlm, config.vlm_options)))
    trained = finetune.load_for_training(config)
    with _log_steps([config.stage], folder, bars) as on_step:
        finetune.train(trained, draw, config, folder, on_step)
    finetune.export(trained, config, folder)
    after = evaluate(load_vlm(str(folder / "model"), config.vlm_options))
    write_text(folder / EVALUATION, json.dumps(after, indent=1))
    next_step = "Delete it; the same command evaluates the original VLM again."
    return read_json(before, next_step), after


def _print_both(before: dict[str, Accuracies], after: dict[str, Accuracies], console: Console) -> None:
    for title, accuracies in before.items():
        console.print(_table(title, {"before": accuracies, "after": after[title]}))


def _changes(title: str, source: EpisodeSource | ScreenSource, folder: Path, bars: Progress) -> Changes:
    if isinstance(source, EpisodeSource):
        return recorded_changes(source)
    return generated_changes(_screens(title, [source], folder, bars)[0])


def _changes_title(source: EpisodeSource | ScreenSource) -> str:
    return f"{source.data} ({source.part})" if isinstance(source, EpisodeSource) else _screens_title(source)


def _train_on_screens(config: ScreensConfig, folder: Path) -> Path:
    console = Console()
    with torch_threads(config.threads), _progress(console) as bars:
        training = _screens("generate screens for training", config.train, folder, bars)
        testing = _screens("generate screens for the evaluation", config.test, folder, bars)
        weights = folder / "model"
        screen = screens.new_model(config.architecture, weights, config.reading.seed)
        with _log_steps(screens.stages(config.reading), folder, bars) as on_step:
            screens.train(screen, training, config.reading, folder, on_step)
        screen.model.eval()
        known = screens.known_words(training)
        reading = [screens.evaluate_reading(screen, screen_set, known) for screen_set in testing]
        screen.model.half().save_pretrained(weights)
        vlm = load_vlm(str(weights))
        results = {}
        for source, screen_set, words in zip(config.test, testing, reading, strict=True):
            bar = bars.add_task("evaluate", total=None)
            answers = evaluate_screens(vlm, screen_set, known, progress=partial(_advance, bars, bar))
            results[_screens_title(source)] = answers | {"reading": words}
    write_text(folder / EVALUATION, json.dumps(results, indent=1))
    for title, accuracies in results.items():
        console.print(_table(title, {"accuracy": accuracies}))
    return weights


def _screens(title: str, sources: Sequence[ScreenSource], folder: Path, bars: Progress) -> list[ScreenSet]:
    sets = []
    for source in sources:
        bar = bars.add_task(title, total=source.frames)
        sets.append(load_or_generate(source, folder / "frames", partial(_advance, bars, bar)))
        bars.update(bar, completed=source.frames)
    return sets


def _screens_title(source: ScreenSource) -> str:
    new = [name for name in ("words", "themes", "apps") if getattr(source, name) == "evaluation"]
    return f"screens with {'new ' + ', '.join(new) if new else 'nothing new'} ({source.frames} screens)"


def _check_settings(config: BaseModel, folder: Path) -> None:
    """Store the settings in the folder; UserError if it holds a training with other settings."""
    settings = json.loads(config.model_dump_json(exclude={"why", "threads"}))
    file = folder / SETTINGS
    next_step = "Delete it if you are sure that the settings are the same, or train in another folder."
    stored_settings = read_json(file, next_step) if file.exists() else {}
    changed_keys = [key for key, value in settings.items() if key in stored_settings and stored_settings[key] != value]
    if changed_keys or (not stored_settings and (folder / CHECKPOINTS).exists()):
        details = f" (other {', '.join(changed_keys)})" if changed_keys else ""
        raise UserError(
            f"{folder} contains a training with other settings{details}. Continue it with its own settings, or train"
            " in another folder with --output FOLDER."
        )
    write_json(file, settings)


def _frames(title: str, sources: Sequence[Source], folder: Path, bars: Progress) -> list[LabelledFrames]:
    sets = []
    for source in sources:
        bar = bars.add_task(escape(f"{title}: {', '.join(source.tasks)}"), total=source.frames)
        sets.append(load_or_play(source, folder / "frames", partial(_advance, bars, bar)))
        bars.update(bar, completed=source.frames)
    return sets


def _advance(bars: Progress, bar: TaskID, count: int) -> None:
    bars.update(bar, completed=count)


def _train_and_save(
    config: PretrainConfig, sets: Sequence[LabelledFrames], folder: Path, weights: Path, bars: Progress
) -> None:
    """Train, and save the model in `weights` as float16, which halves the size and does not change the answers."""
    names = sorted({name for frame_set in sets for name in frame_set.names})
    rooms = sorted({scene["room"] for frame_set in sets for scene in frame_set.scenes if "room" in scene})
    options = config.training
    scratch = from_scratch.new_model(config.architecture, names, weights, options.seed, rooms, config.start)
    with _log_steps(from_scratch.stages(options), folder, bars) as on_step:
        from_scratch.train(scratch, sets, options, folder, on_step)
    scratch.model.eval().half().save_pretrained(weights)


@contextmanager
def _log_steps(stages: Sequence[Stage], folder: Path, bars: Progress) -> Iterator[OnStep]:
    """Yield a function that moves a progress bar per stage and writes metrics.jsonl every LOG_EVERY steps."""
    bar_of = {stage.name: bars.add_task(stage.name, total=stage.steps) for stage in stages}
    with (folder / "metrics.jsonl").open("a") as log:

        def on_step(stage: Stage, step: int, metrics: Mapping[str, float]) -> None:
            numbers = " ".join(f"{key} {value:.3f}" for key, value in metrics.items())
            bars.update(bar_of[stage.name], completed=step, description=f"{stage.name}: {numbers}")
            if step % LOG_EVERY == 0:
                log.write(json.dumps({"stage": stage.name, "step": step, **metrics}) + "\n")
                log.flush()

        yield on_step


def _evaluate(
    vlm: VLM,
    sources: Sequence[Source],
    sets: Sequence[LabelledFrames],
    bars: Progress,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> dict[str, Accuracies]:
    results = {}
    for source, frames in zip(sources, sets, strict=True):
        progress = partial(_advance, bars, bars.add_task("evaluate", total=None))
        results[_title(source)] = evaluate_answers(vlm, frames, max_answer_tokens=max_answer_tokens, progress=progress)
    return results


def _title(source: Source) -> str:
    options = [f"{key}={value}" for key, value in source.options.items()]
    return f"{source.environment}: {', '.join([*source.tasks, *options])} ({source.frames} frames, {source.split})"


def _table(title: str, results: dict[str, Accuracies]) -> Table:
    """Draw a table with a row per kind of question and a column per evaluation of the same questions."""
    table = Table("question", *results, "asked", title=escape(title))
    for kind, score in next(iter(results.values()))["questions"].items():
        shares = (f"{accuracies['questions'][kind]['accuracy']:.1%}" for accuracies in results.values())
        table.add_row(kind, *shares, str(score["asked"]))
    return table


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)

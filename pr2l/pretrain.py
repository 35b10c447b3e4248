"""`pr2l pretrain`: makes the embedded VLM from simulator labels; docs/tiny.md tells the study behind it.

    play -> labelled frames -> lessons -> exam on rooms and seeds never trained on -> weights and model card
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from pr2l import exam, scratch, student
from pr2l.config import read_config
from pr2l.labelled import LabelledFrames, Source, load_or_play
from pr2l.vlms._base import VLM
from pr2l.vlms._loading import load_vlm


class PretrainConfig(BaseModel):
    """Everything that defines one pre-training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    train: tuple[Source, ...]  # what is played for training
    test: tuple[Source, ...]  # what the exam is on: other rooms, other seeds
    architecture: scratch.Architecture = Field(default_factory=scratch.Architecture)
    lessons: student.Lessons
    threads: PositiveInt = 2  # of torch, on a CPU


def pretrain(config: str | Path, overrides: Sequence[str] = (), folder: Path = Path("runs/tiny")) -> Path:
    """Play, teach, examine; returns the folder with the weights, which load_vlm reads.

    config: a name in configs/, such as "pretrain/tiny", or a YAML file. `folder` keeps the frames, the checkpoint
    and the reports; called again on it, the work goes on where it stopped.
    """
    settings = read_config(PretrainConfig, config, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    console = Console()
    with _bars(console) as bars:
        training = _frames("play for training", settings.train, folder, bars)
        testing = _frames("play for the exam", settings.test, folder, bars)
        weights = folder / "model"
        _teach(settings, training, folder, weights, bars)
        vlm = load_vlm(str(weights))
        titles = [_title(source) for source in settings.test]
        reports = {title: _examine(vlm, part, bars) for title, part in zip(titles, testing, strict=True)}
    (folder / "exam.json").write_text(json.dumps(reports, indent=1))
    for title, report in reports.items():
        console.print(_table(title, report))
    return weights


def _frames(title: str, sources: Sequence[Source], folder: Path, bars: Progress) -> list[LabelledFrames]:
    sets = []
    for source in sources:
        bar = bars.add_task(f"{title}: {', '.join(source.tasks)}", total=source.frames)
        sets.append(load_or_play(source, folder / "frames", partial(_advance, bars, bar)))
        bars.update(bar, completed=source.frames)
    return sets


def _advance(bars: Progress, bar: TaskID, count: int) -> None:
    bars.update(bar, completed=count)


def _teach(
    settings: PretrainConfig, sets: Sequence[LabelledFrames], folder: Path, weights: Path, bars: Progress
) -> None:
    """Leaves the taught model in `weights`, its parameters as float16: half the size, the same answers."""
    names = sorted({name for part in sets for name in part.names})
    pupil = student.new_student(settings.architecture, names, weights, settings.lessons.seed)
    both = {stage.name: bars.add_task(stage.name, total=stage.steps) for stage in student.stages(settings.lessons)}
    log = (folder / "metrics.jsonl").open("a")

    def report(stage: student.Stage, step: int, metrics: dict[str, float]) -> None:
        shown = " ".join(f"{key} {value:.3f}" for key, value in metrics.items())
        bars.update(both[stage.name], completed=step, description=f"{stage.name}: {shown}")
        if step % 10 == 0:
            log.write(json.dumps({"stage": stage.name, "step": step, **metrics}) + "\n")
            log.flush()

    with log:
        student.train(pupil, sets, settings.lessons, folder, report)
    pupil.model.eval().half().save_pretrained(weights)


def _examine(vlm: VLM, frames: LabelledFrames, bars: Progress) -> exam.Report:
    bar = bars.add_task("exam", total=None)
    return exam.examine(vlm, frames, progress=partial(_advance, bars, bar))


def _title(source: Source) -> str:
    return f"{source.environment}: {', '.join(source.tasks)} ({source.frames} frames, {source.split})"


def _table(title: str, report: exam.Report) -> Table:
    table = Table("question", "accuracy", "asked", title=title)
    for kind, score in report["questions"].items():
        table.add_row(kind, f"{score['accuracy']:.1%}", str(score["asked"]))
    return table


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)

"""`pr2l pretrain`: makes the embedded VLM from simulator labels, or adapts an existing VLM to a simulator.

    play -> labelled frames -> lessons -> exam on rooms and seeds never trained on -> weights and model card

A config that names a `vlm` fine-tunes it (finetune.py) and evaluates it before and after; any other trains a small
one from scratch (from_scratch.py; docs/tiny.md has the study).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from pr2l.core.config import read_config, read_values
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.data.labelled_frames import LabelledFrames, Source, load_or_play
from pr2l.policies.common.threads import torch_threads
from pr2l.pretraining import architecture as scratch
from pr2l.pretraining import evaluation as exam
from pr2l.pretraining import finetune
from pr2l.pretraining import from_scratch as student
from pr2l.pretraining.finetune import FinetuneConfig
from pr2l.pretraining.shared import CHECKPOINT, Course, Report
from pr2l.vlms.base import VLM
from pr2l.vlms.loading import load_vlm

SUBWORDS = 32  # tokens that an answer may take where a word is several of them


class PretrainConfig(BaseModel):
    """Everything that defines one pre-training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    train: tuple[Source, ...]  # what is played for training
    test: tuple[Source, ...]  # what the exam is on: other rooms, other seeds
    architecture: scratch.Architecture = Field(default_factory=scratch.Architecture)
    start: str | None = None  # a VLM of that architecture to begin with; None = random weights
    lessons: student.Lessons
    threads: PositiveInt = 2  # of torch, on a CPU


def pretrain(config: str | Path, overrides: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Play, teach, examine; returns the folder with the weights, which load_vlm reads.

    config: a name in configs/, such as "pretrain/tiny" or "pretrain/finetune", or a YAML file. `folder` keeps the
    frames, the checkpoint and the reports (None = runs/<the config's last name>); called again on it, the work goes on
    where it stopped. Raises UserError for a VLM that is not there, or a folder of a fine-tuning with other settings.
    """
    folder = folder or Path("runs") / Path(config).stem
    program = _finetune if "vlm" in read_values(config, overrides) else _from_scratch
    with torch_threads(0):  # what calls this goes on with as many as before
        return program(config, overrides, folder)


def _from_scratch(config: str | Path, overrides: Sequence[str], folder: Path) -> Path:
    settings = read_config(PretrainConfig, config, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    console = Console()
    with _bars(console) as bars:
        training = _frames("play for training", settings.train, folder, bars)
        testing = _frames("play for the exam", settings.test, folder, bars)
        weights = folder / "model"
        _teach(settings, training, folder, weights, bars)
        reports = _examine(load_vlm(str(weights)), settings.test, testing, bars)
    (folder / "exam.json").write_text(json.dumps(reports, indent=1))
    for title, report in reports.items():
        console.print(_table(title, {"accuracy": report}))
    return weights


def _finetune(config: str | Path, overrides: Sequence[str], folder: Path) -> Path:
    settings = read_config(FinetuneConfig, config, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    _check_resumed(settings, folder)
    torch.set_num_threads(settings.threads)
    console = Console()
    with _bars(console) as bars:
        training = _frames("play for training", settings.train, folder, bars)
        testing = _frames("play for the exams", settings.test, folder, bars)
        weights = folder / "model"
        if not (before := folder / "exam_before.json").exists():
            reports = _examine_named(settings.vlm, settings, testing, bars)
            before.write_text(json.dumps(reports, indent=1))
        trainee = finetune.new_trainee(settings)
        with _reporting([settings.course], folder, bars) as report:
            finetune.train(trainee, training, settings, folder, report)
        finetune.leave(trainee, settings, folder)
        after = _examine_named(str(weights), settings, testing, bars)
    (folder / "exam.json").write_text(json.dumps(after, indent=1))
    for title, first in json.loads(before.read_text()).items():
        console.print(_table(title, {"before": first, "after": after[title]}))
    return weights


def _check_resumed(settings: FinetuneConfig, folder: Path) -> None:
    """Notes the settings in the folder; UserError if work was begun there under others."""
    made_from = json.loads(settings.model_dump_json(exclude={"why", "threads"}))
    note = folder / "settings.json"
    begun = json.loads(note.read_text()) if note.exists() else {}
    changed = [key for key, value in made_from.items() if key in begun and begun[key] != value]
    if changed or (not begun and (folder / CHECKPOINT).exists()):
        raise UserError(
            f"{folder} holds another training{' (other ' + ', '.join(changed) + ')' if changed else ''}; go on with"
            " that one under its own settings, or give this one a folder of its own: --output FOLDER."
        )
    note.write_text(json.dumps(made_from, indent=1))


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
    rooms = sorted({scene["room"] for part in sets for scene in part.scenes if "room" in scene})
    pupil = student.new_student(
        settings.architecture, names, weights, settings.lessons.seed, rooms=rooms, start=settings.start
    )
    with _reporting(student.stages(settings.lessons), folder, bars) as report:
        student.train(pupil, sets, settings.lessons, folder, report)
    pupil.model.eval().half().save_pretrained(weights)


@contextmanager
def _reporting(courses: Sequence[Course], folder: Path, bars: Progress) -> Iterator[Report]:
    """A bar for each course, and every tenth step's metrics as a line of metrics.jsonl."""
    each = {course.name: bars.add_task(course.name, total=course.steps) for course in courses}
    with (folder / "metrics.jsonl").open("a") as log:

        def report(course: Course, step: int, metrics: dict[str, float]) -> None:
            shown = " ".join(f"{key} {value:.3f}" for key, value in metrics.items())
            bars.update(each[course.name], completed=step, description=f"{course.name}: {shown}")
            if step % 10 == 0:
                log.write(json.dumps({"stage": course.name, "step": step, **metrics}) + "\n")
                log.flush()

        yield report


def _examine(
    vlm: VLM,
    sources: Sequence[Source],
    sets: Sequence[LabelledFrames],
    bars: Progress,
    longest: int = exam.LONGEST_ANSWER,
) -> dict[str, exam.Report]:
    reports = {}
    for source, frames in zip(sources, sets, strict=True):
        bar = bars.add_task("exam", total=None)
        reports[_title(source)] = exam.examine(vlm, frames, longest=longest, progress=partial(_advance, bars, bar))
    return reports


def _examine_named(
    name: str, settings: FinetuneConfig, sets: Sequence[LabelledFrames], bars: Progress
) -> dict[str, exam.Report]:
    return _examine(load_vlm(name, settings.vlm_options), settings.test, sets, bars, SUBWORDS)


def _title(source: Source) -> str:
    options = [f"{key}={value}" for key, value in source.options.items()]
    return f"{source.environment}: {', '.join([*source.tasks, *options])} ({source.frames} frames, {source.split})"


def _table(title: str, reports: dict[str, exam.Report]) -> Table:
    """One row per question kind, one column per report; all reports are of the same questions."""
    table = Table("question", *reports, "asked", title=title)
    for kind, score in next(iter(reports.values()))["questions"].items():
        shares = (f"{report['questions'][kind]['accuracy']:.1%}" for report in reports.values())
        table.add_row(kind, *shares, str(score["asked"]))
    return table


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)

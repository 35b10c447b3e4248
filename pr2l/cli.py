"""The `pr2l` command: every program of this folder from the shell.

Exit codes: 0 done; 1 a check failed, or a defect of pr2l itself (with a traceback); 2 a mistake in what was
asked (with what to do about it); 130 Ctrl-C, after the run has saved.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from pr2l import __version__
from pr2l.core import registry
from pr2l.core.config import RunConfig, apply_override, load_config
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.yaml_files import read_mapping

app = typer.Typer(
    help="Promptable representations: a frozen, prompted vision-language model as the eyes of an RL agent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

sim = typer.Typer(help="Simulators that need a Python interpreter of their own.", no_args_is_help=True)
app.add_typer(sim, name="sim")
prompts = typer.Typer(help="Score and search prompts before training a policy.", no_args_is_help=True)
app.add_typer(prompts, name="prompts")
bench = typer.Typer(help="Benchmark suites: runs, statistics and the leaderboard.", no_args_is_help=True)
app.add_typer(bench, name="bench")

CONFIG = typer.Argument(help="A name of `pr2l list configs`, or a YAML file.")
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. seed=1 vlm_options.new_tokens=0")
]


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except UserError as error:
        _fail(error)
    except ValueError as error:
        if not _raised_in_plugin(error):
            raise
        _fail(error)


@app.command()
def train(
    config: Annotated[str | None, CONFIG] = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder to go on with.")] = None,
) -> None:
    """Train an agent; with --resume RUN alone, go on with that run under its own config."""
    from pr2l.training.train import train as run

    run(_config_of(config, overrides or [], resume), resume=resume)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    episodes: Annotated[int | None, typer.Option(min=1, help="As in the run's config if not given.")] = None,
) -> None:
    """Success rate and return of a trained run on evaluation seeds, with intervals, a table and a video."""
    from pr2l.training.evaluate import evaluate as run_evaluation

    run_evaluation(run, episodes)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, all of one task.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results. [default: runs/compare-TASK]")] = None,
) -> None:
    """Compare runs of one task: learning curves, and a table with intervals over seeds and episodes."""
    from pr2l.benchmark.compare import compare as run_comparison

    run_comparison(runs, out)


@app.command()
def collect(
    environment: Annotated[str, typer.Argument(help="A name of `pr2l list environments`.")],
    task: Annotated[str, typer.Argument(help="One of its tasks.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of the environment.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "--out", help="The folder to make. [default: data/ENVIRONMENT-TASK]")
    ] = None,
    policy: Annotated[str, typer.Option(help="random, oracle, or the folder of a run.")] = "random",
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    split: Annotated[Literal["train", "evaluation"], typer.Option(help="Which maps and seeds.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode; the next has seed + 1.")] = 0,
    noise: Annotated[float, typer.Option(min=0, max=1, help="Share of random actions; the policy's are kept too.")] = 0,
    labels: Annotated[bool, typer.Option("--labels", help="Keep what frames show, for `pr2l prompts`.")] = False,
    info: Annotated[list[str] | None, typer.Option(help="An entry of the environment's info to keep; repeat.")] = None,
) -> None:
    """Record episodes of a task as a Minari data set: observations, actions, rewards, ends and contexts."""
    from pr2l.training.collect import collect as run

    values: dict[str, Any] = {}
    for option in options or []:
        apply_override(values, option)
    more: dict[str, Any] = {"options": values, "split": split, "seed": seed, "noise": noise, "labels": labels}
    more["infos"] = info or []
    run(environment, task, output, policy=policy, episodes=episodes, **more)


@app.command()
def embed(
    dataset: Annotated[Path, typer.Argument(help="A folder that `pr2l collect` made.")],
    config: Annotated[str, typer.Option(help="Whose encoder: a name of `pr2l list configs`, or a YAML file.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The store's folder. [default: below DATASET/embeddings]")] = None,
) -> None:
    """Embed every frame of a data set, once: the embeddings go to disk; called again after a stop, go on."""
    from pr2l.data.embed import embed as run

    run(dataset, load_config(config, overrides or []), output)


@app.command()
def pretrain(
    config: Annotated[str, CONFIG] = "pretrain/tiny",
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="All it makes; work goes on there. [default: runs/NAME]")] = None,
) -> None:
    """Make the embedded VLM from simulator labels, or fine-tune the one that CONFIG names; called again, go on."""
    from pr2l.pretraining.pretrain import pretrain as run

    run(config, overrides or [], output)


@app.command()
def check(config: Annotated[str, CONFIG], overrides: Overrides = None) -> None:
    """Validate all that can be validated before a long run: names, prompts, spaces, memory, disk."""
    from pr2l.training.check import check as run_checks

    if not run_checks(load_config(config, overrides or [])):
        raise typer.Exit(1)


class _Speed(TyperCommand):
    """Looks the shapes up when help is asked for: importing them takes seconds."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from pr2l.profiling.speed import SECTIONS

        shapes: Any = next(param for param in self.params if param.name == "shapes")
        shapes.help = ", ".join(SECTIONS) + "."
        super().format_help(ctx, formatter)


@app.command(cls=_Speed)
def speed(
    shapes: Annotated[list[str] | None, typer.Argument()] = None,
    frames: Annotated[int, typer.Option(help="Frames in a batch.")] = 16,
    rounds: Annotated[int, typer.Option(help="How often each way is timed.")] = 3,
    out: Annotated[Path, typer.Option(help="Where speed.json and speed.png go.")] = Path("runs/speed"),
) -> None:
    """Frames a second of this machine, against how others do it; a table with a verdict for each promise."""
    from pr2l.profiling.speed import EVERYDAY, Effort
    from pr2l.profiling.speed import speed as run

    run(shapes or EVERYDAY, Effort(frames, rounds), out)


SIMULATOR = typer.Argument(metavar="NAME", help="A name of `pr2l sim list`.")


@sim.command(name="list")
def sim_list() -> None:
    """Every simulator that there is a recipe for, and whether it is installed."""
    from pr2l.rollout.simulators import show

    show()


@sim.command(name="install")
def sim_install(
    name: Annotated[str, SIMULATOR],
    python: Annotated[Path | None, typer.Option(help="To build on. [default: found on the PATH]")] = None,
) -> None:
    """Build the interpreter of a simulator below $PR2L_SIMS; does nothing where it is built already."""
    from pr2l.rollout.simulators import install

    install(name, python)


@sim.command(name="check")
def sim_check(
    name: Annotated[str, SIMULATOR],
    python: Annotated[Path | None, typer.Option(help="Your own interpreter. [default: the installed one]")] = None,
    frame: Annotated[Path | None, typer.Option(help="Where a frame goes. [default: runs/NAME.png]")] = None,
) -> None:
    """What works of a simulator, link by link; where all does, a frame of it."""
    from pr2l.rollout.simulators import check as run

    if not run(name, python, frame):
        raise typer.Exit(1)


SUITE = typer.Argument(metavar="SUITE", help="A name in configs/benchmarks/, or a YAML file.")
ROWS = Path("docs/results/bench")  # the committed ones


@bench.command(name="run")
def bench_run(
    suite: Annotated[str, SUITE],
    plan: Annotated[bool, typer.Option("--plan", help="Print the estimated cost, and run nothing.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. [default: one per core; one on a GPU]")] = None,
    out: Annotated[Path, typer.Option(help="Folder of rows and run folders.")] = Path("runs/bench"),
) -> None:
    """Make the missing runs of a suite, several in parallel; resumes after a stop."""
    from pr2l.benchmark import runner as program

    (program.plan if plan else program.run)(suite, out, jobs)


@bench.command(name="report")
def bench_report(
    suite: Annotated[str, SUITE],
    results: Annotated[Path, typer.Option(help="Folder of its rows.")] = Path("runs/bench"),
    out: Annotated[Path | None, typer.Option(help="[default: RESULTS/SUITE/report]")] = None,
) -> None:
    """Write a suite's report: statistics with intervals, curves and costs, as Markdown, CSV, JSON and figures."""
    from pr2l.benchmark.report import report

    report(suite, results, out)


@bench.command(name="submit")
def bench_submit(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    suite: Annotated[str | None, typer.Option(help="[default: the first suite that has the run's config]")] = None,
    method: Annotated[str | None, typer.Option(help="A name for a method that the suite does not have.")] = None,
    video: Annotated[bool, typer.Option("--video", help="Also copy each run's video, for the task's page.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the committed rows.")] = ROWS,
) -> None:
    """Check that runs are runs of a suite, and write their rows as files for a pull request."""
    from pr2l.benchmark.rows import submit

    for path in submit(runs, out, suite, method, video=video):
        print(path)


@bench.command(name="site")
def bench_site(
    results: Annotated[Path, typer.Option(help="Folder of the committed rows.")] = ROWS,
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("runs/site"),
    repository: Annotated[str | None, typer.Option(help="URL for links. [default: the git remote `origin`]")] = None,
) -> None:
    """Build the leaderboard, static pages, from the committed rows."""
    from pr2l.benchmark.leaderboard import site

    site(results, out, repository)


TASK = typer.Argument(metavar="TASK", help="ENVIRONMENT/TASK, a name of `pr2l list tasks`.")
Scored = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="e.g. frames=100 seed=1 data=FOLDER vlm_options.new_tokens=3"),
]


@prompts.command(name="score")
def prompts_score(
    task: Annotated[str, TASK],
    options: Scored = None,
    prompts: Annotated[str, typer.Option(help="Variants, or YAML files, with commas. [default: all]")] = "",
    out: Annotated[Path | None, typer.Option(help="[default: runs/prompts/TASK]")] = None,
) -> None:
    """What the answers get right, and what linear probes find in the states: a ranked table, a heat map, JSON."""
    from pr2l.prompting.score import score

    scoring = _scoring(task, options, prompts=_words(prompts))
    score(scoring, out or Path("runs/prompts") / task.replace("/", "-"))


@prompts.command(name="search")
def prompts_search(
    task: Annotated[str, TASK],
    options: Scored = None,
    space: Annotated[str | None, typer.Option(help="What to try, a YAML file. [default: search/ENVIRONMENT]")] = None,
    budget: Annotated[int, typer.Option(min=1, help="Frames to read, over all candidates.")] = 4800,
    out: Annotated[Path | None, typer.Option(help="[default: runs/search/TASK]")] = None,
) -> None:
    """Find a good prompt among many by successive halving; called again after a stop, go on."""
    from pr2l.prompting.search import search

    space = space or f"search/{task.partition('/')[0]}"
    search(space, _scoring(task, options), out or Path("runs/search") / task.replace("/", "-"), budget)


@prompts.command(name="correlate")
def prompts_correlate(
    suite: Annotated[str, SUITE],
    results: Annotated[Path, typer.Option(help="Folder of its rows.")] = Path("runs/bench"),
    frames: Annotated[int | None, typer.Option(min=1, help="To score on. [default: as `prompts score`]")] = None,
    methods: Annotated[str, typer.Option(help="Of the suite, with commas. [default: all]")] = "",
    out: Annotated[Path | None, typer.Option(help="[default: runs/prompts/SUITE]")] = None,
) -> None:
    """Does the score foretell what training reaches? Rank correlations over a suite of prompt variants."""
    from pr2l.prompting.correlate import correlate

    correlate(suite, results, out or Path("runs/prompts") / Path(suite).stem, frames, _words(methods))


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help=", ".join([*registry.KINDS, "tasks"]))],
) -> None:
    """Everything of a kind that a config may name."""
    rows = _tasks() if kind == "tasks" else [(name, _summary(kind, name)) for name in _names(kind)]
    table = Table(kind, "", box=None, pad_edge=False)
    for name, summary in rows:
        table.add_row(name, escape(summary))
    Console().print(table)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _words(with_commas: str) -> tuple[str, ...]:
    return tuple(filter(None, with_commas.split(",")))


def _scoring(task: str, options: list[str] | None, **values: Any) -> Any:
    from pr2l.prompting.score import scoring_of

    values["task"] = task
    for option in options or []:
        apply_override(values, option)
    return scoring_of(values)


def _config_of(config: str | None, overrides: list[str], resume: Path | None) -> RunConfig:
    """The named config, or else the resumed run's own (then the first word may be an override)."""
    if config is not None and not (resume and "=" in config):
        return load_config(config, overrides)
    if resume is None:
        raise UserError("train needs a config, e.g. `pr2l train smoke`; `pr2l list configs` shows them")
    from pr2l.training.runs import Run

    own = Run.load(resume).path / "config.yaml"
    return load_config(own, [*([config] if config else []), *overrides])


def _names(kind: str) -> list[str]:
    if kind not in registry.KINDS:
        raise UnknownName("kinds", kind, [*registry.KINDS, "tasks"])
    return registry.names(kind)


def _tasks() -> list[tuple[str, str]]:
    """Name and success rule of every task of every environment that can be imported here."""
    rows = []
    for environment in registry.names("environments"):
        try:
            tasks = registry.load("environments", environment).TASKS
        except ImportError as error:
            rows.append((environment, f"not available: {error}"))
            continue
        rows += [(f"{environment}/{name}", str(task.success)) for name, task in tasks.items()]
    return rows


def _summary(kind: str, name: str) -> str:
    """The first line that a plug-in says of itself, read from its file: nothing is imported."""
    source = registry.source(kind, name)
    if kind in registry.DATA_PACKAGES:
        return str(read_mapping(source).get("text" if kind == "prompts" else "why", ""))
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _raised_in_plugin(error: BaseException) -> bool:
    """Whether environments/ or policies/, which have no UserError, raised it to teach something."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return str(module).startswith(("pr2l.environments.", "pr2l.policies."))


def _fail(error: Exception) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    sys.exit(2)


if __name__ == "__main__":
    main()

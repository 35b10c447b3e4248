"""The commands of `pr2l`.

The import of torch takes seconds, so each command checks names and folders before it imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from typer.core import TyperCommand

from pr2l import __version__
from pr2l.cli.tables import OPTION_COMMANDS, OPTIONS_OF, name_tables, option_table, singular
from pr2l.core import config as config_module
from pr2l.core import options as plugin_options
from pr2l.core import registry
from pr2l.core.config import RunConfig, apply_override, load_config, run_config_file
from pr2l.core.console import Console
from pr2l.core.errors import UnknownName, UserError

app = typer.Typer(
    help="Reinforcement learning on the hidden states of a frozen, prompted vision-language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

sim = typer.Typer(help="Install and check simulators that need their own Python environment.", no_args_is_help=True)
app.add_typer(sim, name="sim")
prompts = typer.Typer(help="Score and search prompts without training a policy.", no_args_is_help=True)
app.add_typer(prompts, name="prompts")
vlm_app = typer.Typer(help="Check a VLM checkpoint on this machine, and submit the result.", no_args_is_help=True)
app.add_typer(vlm_app, name="vlm")
bench = typer.Typer(help="Run benchmark suites, report on them, and build the leaderboard.", no_args_is_help=True)
app.add_typer(bench, name="bench")
evaluator_app = typer.Typer(
    help="Score success evaluators on recorded episodes, and label with them.", no_args_is_help=True
)
app.add_typer(evaluator_app, name="evaluator")

CONFIG = typer.Argument(help="A config from `pr2l list configs`, or the path of a YAML file.")
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Config values to override, e.g. seed=1 vlm_options.new_tokens=3"),
]


@app.command()
def train(
    config: Annotated[str | None, CONFIG] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder to resume; leave out CONFIG to use the run's own config.")
    ] = None,
) -> None:
    """Train an agent from a config and write a run folder in runs/."""
    settings = _config_of(config, overrides or [], resume)
    from pr2l.training.train import train as run

    run(settings, resume=resume)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Number of episodes.", show_default="the run's config")
    ] = None,
) -> None:
    """Evaluate the newest checkpoint of a run on held-out episodes: success rate, return, intervals and a video."""
    load_config(run_config_file(run))
    from pr2l.training.evaluate import evaluate as run_evaluation

    run_evaluation(run, episodes)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one task.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the figure, the table and the numbers.", show_default="runs/compare-TASK"),
    ] = None,
) -> None:
    """Compare runs of one task: learning curves and a table with confidence intervals over seeds and episodes."""
    for run in runs:
        run_config_file(run)
    from pr2l.benchmark.compare import compare as run_comparison

    run_comparison(runs, out)


@app.command()
def collect(
    environment: Annotated[str, typer.Argument(help="An environment from `pr2l list environments`.")],
    task: Annotated[str, typer.Argument(help="A task of the environment, from `pr2l list tasks`.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Environment options, see `pr2l options environment NAME`."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", help="Folder of the data set.", show_default="data/ENVIRONMENT-TASK"),
    ] = None,
    policy: Annotated[str, typer.Option(help="Policy that acts: random, oracle, or a run folder.")] = "random",
    demonstrations: Annotated[
        Path | None, typer.Option("--from", help="File with human demonstrations to replay; see docs/imitation.md.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Number of episodes.", show_default="100; with --from, all")
    ] = None,
    split: Annotated[Literal["train", "evaluation"], typer.Option(help="Split of maps and seeds.")] = "train",
    seed: Annotated[
        int, typer.Option(min=0, max=config_module.MAX_SEED, help="Seed of the first episode; each next one adds 1.")
    ] = 0,
    noise: Annotated[
        float, typer.Option(min=0, max=1, help="Probability of a random action; the policy's action is stored too.")
    ] = 0,
    labels: Annotated[
        bool, typer.Option("--labels", help="Store the simulator's labels of each frame, for `pr2l prompts`.")
    ] = False,
    info: Annotated[
        list[str] | None, typer.Option(help="Store this entry of the environment's info, too. Can be repeated.")
    ] = None,
) -> None:
    """Record episodes of a task as a Minari data set (observations, actions, rewards, ...); run again to continue."""
    values: dict[str, Any] = {}
    for option in options or []:
        apply_override(values, option)
    _check_task(environment, task)
    if unknown := plugin_options.unknown_keys("environments", environment, values, f"options of {environment!r}"):
        raise UserError(unknown)
    from pr2l.training.collect import collect as run

    more: dict[str, Any] = {"options": values, "split": split, "seed": seed, "noise": noise, "labels": labels}
    more |= {"infos": info or [], "demonstrations": demonstrations}
    run(environment, task, output, policy=policy, episodes=episodes, **more)


@app.command()
def embed(
    dataset: Annotated[Path, typer.Argument(help="A data set folder from `pr2l collect`.")],
    config: Annotated[str, typer.Option(help="Config with the encoder: from `pr2l list configs`, or a YAML file.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the embeddings.", show_default="DATASET/embeddings/...")
    ] = None,
) -> None:
    """Compute and store the embeddings of all frames of a data set; run again to resume."""
    settings = load_config(config, overrides or [])
    from pr2l.data.embed import embed as run

    run(dataset, settings, output)


@app.command()
def pretrain(
    config: Annotated[str, CONFIG] = "pretrain/tiny",
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Output folder.", show_default="runs/NAME")] = None,
) -> None:
    """Train a small VLM on simulator labels from scratch, or fine-tune a checkpoint; run again to resume."""
    config_module.find(config)
    from pr2l.pretraining.pretrain import pretrain as run

    run(config, overrides or [], output)


@app.command()
def check(config: Annotated[str, CONFIG], overrides: Overrides = None) -> None:
    """Check a config before a long run: names, options, prompts, memory, disk space, first steps and duration.

    Exits with code 1 if a check fails.
    """
    settings = load_config(config, overrides or [])
    from pr2l.training.check import check as run_checks

    if not run_checks(settings):
        raise typer.Exit(1)


@app.command()
def ask(
    images_and_question: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE... QUESTION", help="PNG, JPEG, WebP or BMP files, then the question, in quotes."),
    ],
    vlm: Annotated[
        str, typer.Option(help="A name from `pr2l list vlms`, a folder with a checkpoint, or a Hugging Face Hub id.")
    ] = "tiny",
    tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer in tokens.")] = 32,
) -> None:
    """Ask a VLM a question about an image, or about several images in their order."""
    *images, question = images_and_question
    if not images:
        raise UserError(f'ask needs a question after the image, in quotes: pr2l ask {question} "where is it ?"')
    from pr2l.core.images import read_image
    from pr2l.core.messages import from_text

    frames = [read_image(Path(image)) for image in images]
    from pr2l.vlms.loading import load_vlm, unknown_words

    model = load_vlm(vlm)
    if words := unknown_words(model, question):
        Console(stderr=True).print(f"[yellow]warning:[/] {escape(vlm)} does not know: {escape(', '.join(words))}")
    prompts: Any = [question if len(frames) == 1 else from_text(question, images=len(frames))]
    [answer] = model.answer([frames], prompts, tokens)
    print(answer)


@app.command()
def options(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(OPTIONS_OF)}; or run: the keys of a config.")] = "run",
    name: Annotated[
        str | None, typer.Argument(help="A name from `pr2l list`, e.g. prompted; not needed for run and vlm.")
    ] = None,
) -> None:
    """List the options of a run, VLM, encoder, environment, algorithm or network: defaults, types and meanings."""
    Console().print(option_table(kind, name))
    prefix, command = OPTION_COMMANDS.get(singular(kind), (f"{singular(kind)}_options.", "pr2l train CONFIG"))
    Console().print(f"Set an option with {prefix}KEY=VALUE, e.g. in `{command} {prefix}KEY=VALUE`.")


class _Speed(TyperCommand):
    """Command that imports the names of the models only to print its help text, because their import takes seconds."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from pr2l.profiling.speed import SECTIONS

        shapes: Any = next(param for param in self.params if param.name == "shapes")
        shapes.help = f"Models to measure: {', '.join(SECTIONS)}. MODEL:PART measures one part, e.g. tiny:ppo."
        super().format_help(ctx, formatter)


@app.command(cls=_Speed)
def speed(
    shapes: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...")] = None,
    frames: Annotated[int, typer.Option(help="Frames per batch.", min=1)] = 16,
    rounds: Annotated[int, typer.Option(help="Smallest number of repetitions; intervals need 6.", min=1)] = 9,
    minutes: Annotated[
        float | None, typer.Option(help="Time limit; what does not fit is listed. Default: 8 with --device.", min=0.1)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Measure small and large VLMs on a device (auto, cuda, cpu) instead of comparing with other methods."
        ),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="With --device: small shapes, to try it in minutes.")] = False,
    out: Annotated[Path, typer.Option(help="Output folder for speed.md, speed.json and speed.png.")] = Path(
        "runs/speed"
    ),
) -> None:
    """Measure frames per second on this machine and compare with the unmodified transformers models."""
    from pr2l.profiling.speed import SWEEP_SECONDS
    from pr2l.profiling.speed import speed as run
    from pr2l.profiling.timing import Effort

    effort = Effort(frames, rounds, **({} if device is None else {"seconds": SWEEP_SECONDS}))
    results = run(shapes or (), effort, out, minutes=minutes, device=device, small=small)
    if results.failed or results.interrupted:
        raise typer.Exit(130 if results.interrupted else 1)


@app.command(name="speed-screens")
def speed_screens(
    sizes: Annotated[str, typer.Option(help="Sizes of the pages in pixels, separated by commas.")] = "160x210,320x560",
    pages: Annotated[str, typer.Option(help="Numbers of pages that step at once, separated by commas.")] = "1,2,4",
    browsers: Annotated[int, typer.Option(help="Number of Chromium processes.", min=1, max=16)] = 1,
    step_ms: Annotated[int, typer.Option(help="Milliseconds of the page's time in one step.", min=1)] = 100,
    seconds: Annotated[float, typer.Option(help="Duration of the measurement of a size.", min=0)] = 10.0,
) -> None:
    """Measure steps per second of web pages on this machine, by their size and number."""
    from pr2l.profiling import screens
    from pr2l.profiling.report import as_table
    from pr2l.profiling.timing import Effort

    chosen = screens.parse_sizes(sizes), screens.parse_counts(pages)
    measures = screens.speed_screens(*chosen, browsers, step_ms, Effort(seconds=seconds))
    Console().print(as_table(measures))


@app.command(name="speed-rollouts")
def speed_rollouts(
    config: Annotated[str, CONFIG],
    overrides: Overrides = None,
    late: Annotated[
        float, typer.Option(help="Seconds by which steps of the first environment are late.", min=0)
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Duration of the measurement.", min=0)] = 10.0,
) -> None:
    """Measure steps per second of a config's environments, stepped together and asynchronously, without a VLM."""
    settings = load_config(config, overrides or [])
    from pr2l.profiling import rollouts
    from pr2l.profiling.report import as_table
    from pr2l.profiling.timing import Effort

    Console().print(as_table(rollouts.speed_rollouts(settings, late, Effort(seconds=seconds))))


@vlm_app.command(name="check")
def vlm_check(
    model: Annotated[
        str,
        typer.Argument(help="A name from `pr2l list vlms`, a folder with a checkpoint, or a Hugging Face Hub id."),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="VLM options, e.g. dtype=bfloat16; see `pr2l options vlm`."),
    ] = None,
    batches: Annotated[
        str, typer.Option(help="Batch sizes whose speed is measured, separated by commas; none = no speed.")
    ] = "1,4,16",
    seconds: Annotated[float, typer.Option(min=0, help="Duration of the measurement of speed.")] = 10.0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file of the result.", show_default="runs/vlms/MODEL-DTYPE-DEVICE.json")
    ] = None,
) -> None:
    """Check a checkpoint on this machine: exactness, what its tokens depend on, speed, memory and tokens.

    Compares batches with the unmodified model of transformers, which is loaded afterwards.

    Exits with code 1 if states or answers differ.
    """
    values = _vlm_options(options or [])
    sizes = _batch_sizes(batches)
    from pr2l.profiling.vlm_check import check as run

    if not run(model, values, batches=sizes, seconds=seconds, out=out).is_exact:
        raise typer.Exit(1)


@vlm_app.command(name="submit")
def vlm_submit(
    rows: Annotated[list[Path], typer.Argument(help="JSON files of `pr2l vlm check`.")],
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("docs/results/vlms"),
) -> None:
    """Validate results of `pr2l vlm check`, and write them and their table, as files for a pull request."""
    from pr2l.benchmark.vlms import submit

    for path in submit(rows, out):
        print(path)


DATASET = typer.Argument(help="A data set folder from `pr2l collect`.")
EVALUATOR = typer.Argument(help="An evaluator from `pr2l list evaluators`.")
Evaluated = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Evaluator options, see `pr2l options evaluator NAME`."),
]
Instruction = Annotated[
    str, typer.Option(help="The task for the evaluator; the contexts of the episodes fill its slots.")
]
ActionTexts = Annotated[
    str | None, typer.Option(help="Entry of the recorded infos with the actions as text.", show_default="the actions")
]
Cache = Annotated[
    Path | None, typer.Option(help="File of the cached answers.", show_default="runs/evaluators/answers.jsonl")
]
Replay = Annotated[bool, typer.Option("--replay", help="Use the cached answers only; an API then needs no key.")]


@evaluator_app.command(name="score")
def evaluator_score(
    dataset: Annotated[Path, DATASET],
    evaluator: Annotated[str, EVALUATOR],
    options: Evaluated = None,
    instruction: Instruction = "{goal}",
    actions: ActionTexts = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Number of episodes.", show_default="all")] = None,
    every_step: Annotated[
        bool, typer.Option("--every-step", help="Judge every step; an episode succeeds at its first success.")
    ] = False,
    cache: Cache = None,
    replay: Replay = False,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file of the result.", show_default="runs/evaluators/DATASET-EVALUATOR.json"),
    ] = None,
) -> None:
    """Compare an evaluator with the success that the environment has recorded: errors, calibration and cost.

    Run again to continue: answers of models are cached.
    """
    values = _evaluator_options(evaluator, options or [])
    from pr2l.agents.scoring import score
    from pr2l.core.answer_cache import CACHE

    more: dict[str, Any] = {"instruction": instruction, "actions": actions, "episodes": episodes, "out": out}
    score(dataset, evaluator, values, every_step=every_step, cache=cache or CACHE, replay=replay, **more)


@evaluator_app.command(name="label")
def evaluator_label(
    dataset: Annotated[Path, DATASET],
    evaluator: Annotated[str, EVALUATOR],
    output: Annotated[Path, typer.Option("--output", "--out", help="Folder of the new data set.")],
    options: Evaluated = None,
    instruction: Instruction = "{goal}",
    actions: ActionTexts = None,
    cache: Cache = None,
    replay: Replay = False,
) -> None:
    """Copy a data set with the evaluator's verdicts as rewards and success, to learn from them.

    Run again to continue: answers of models are cached.
    """
    values = _evaluator_options(evaluator, options or [])
    from pr2l.agents.labelling import label
    from pr2l.core.answer_cache import CACHE

    more: dict[str, Any] = {"instruction": instruction, "actions": actions, "cache": cache or CACHE, "replay": replay}
    label(dataset, evaluator, output, values, **more)


SIMULATOR = typer.Argument(metavar="NAME", help="A simulator from `pr2l sim list`.")


@sim.command(name="list")
def sim_list() -> None:
    """List the simulators that pr2l can install, and whether they are installed."""
    from pr2l.rollout.simulators import show

    show()


@sim.command(name="install")
def sim_install(
    name: Annotated[str, SIMULATOR],
    python: Annotated[
        Path | None, typer.Option(help="Python interpreter to use.", show_default="from the PATH")
    ] = None,
) -> None:
    """Install a simulator into its own Python environment below $PR2L_SIMS, if it is not installed yet."""
    from pr2l.rollout.simulators import install

    install(name, python)


@sim.command(name="check")
def sim_check(
    name: Annotated[str, SIMULATOR],
    python: Annotated[
        Path | None, typer.Option(help="Python interpreter to check.", show_default="the installed one")
    ] = None,
    frame: Annotated[Path | None, typer.Option(help="File for an example frame.", show_default="runs/NAME.png")] = None,
) -> None:
    """Check all parts of a simulator's installation, and save an example frame if they work."""
    from pr2l.rollout.simulators import check as run

    if not run(name, python, frame):
        raise typer.Exit(1)


SUITE = typer.Argument(metavar="SUITE", help="A suite from `pr2l list configs`, or the path of a YAML file.")
ROWS = Path("docs/results/bench")  # the committed rows


@bench.command(name="run")
def bench_run(
    suite: Annotated[str, SUITE],
    plan: Annotated[bool, typer.Option("--plan", help="Print the expected time and memory, and run nothing.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes.", show_default="one per core; with a GPU, one")
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder for result rows and run folders.")] = Path("runs/bench"),
    methods: Annotated[
        str, typer.Option(help="Only these methods, separated by commas, such as '*_dom,script'.", show_default="all")
    ] = "",
) -> None:
    """Run all unfinished runs of a suite, several in parallel; run again to resume."""
    _check_suite(suite)
    from pr2l.benchmark import runner as program

    (program.plan if plan else program.run)(suite, out, jobs, _words(methods))


@bench.command(name="report")
def bench_report(
    suite: Annotated[str, SUITE],
    results: Annotated[Path, typer.Option(help="Folder with the result rows.")] = Path("runs/bench"),
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="RESULTS/SUITE/report")] = None,
) -> None:
    """Write the report of a suite: aggregate scores with intervals, performance profiles, curves and costs."""
    _check_suite(suite)
    from pr2l.benchmark.report import report

    report(suite, results, out)


@bench.command(name="submit")
def bench_submit(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    suite: Annotated[
        str | None, typer.Option(help="The suite.", show_default="the first one that has such a run")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Name of the method, if the suite does not list it.")] = None,
    video: Annotated[bool, typer.Option("--video", help="Also copy each run's video, for the task's page.")] = False,
    out: Annotated[Path, typer.Option(help="Output folder.")] = ROWS,
) -> None:
    """Validate finished runs of a suite and write their result rows, as files for a pull request."""
    from pr2l.benchmark.rows import submit

    for path in submit(runs, out, suite, method, video=video):
        print(path)


@bench.command(name="site")
def bench_site(
    results: Annotated[Path, typer.Option(help="Folder of the committed result rows.")] = ROWS,
    out: Annotated[Path, typer.Option(help="Output folder of the website.")] = Path("runs/site"),
    repository: Annotated[
        str | None, typer.Option(help="URL of the repository, for links.", show_default="the git remote `origin`")
    ] = None,
) -> None:
    """Build the leaderboard, a static website, from committed result rows."""
    from pr2l.benchmark.leaderboard import site

    site(results, out, repository)


TASK = typer.Argument(metavar="TASK", help="ENVIRONMENT/TASK, from `pr2l list tasks`.")
Scored = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options, e.g. frames=100 seed=1 data=FOLDER vlm=FOLDER"),
]


@prompts.command(name="score")
def prompts_score(
    task: Annotated[str, TASK],
    options: Scored = None,
    prompts: Annotated[
        str, typer.Option(help="Prompt names or YAML files, separated by commas.", show_default="all")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="runs/prompts/TASK")] = None,
) -> None:
    """Rank prompts by the accuracy of the VLM's answers and of linear probes on its hidden states."""
    scoring = _scoring(task, options, prompts=_words(prompts))
    from pr2l.prompting.score import score

    score(scoring, out or Path("runs/prompts") / task.replace("/", "-"))


@prompts.command(name="search")
def prompts_search(
    task: Annotated[str, TASK],
    options: Scored = None,
    space: Annotated[
        str | None, typer.Option(help="Search space: a config or a YAML file.", show_default="search/ENVIRONMENT")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Total number of frames, over all candidates.")] = 4800,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="runs/search/TASK")] = None,
) -> None:
    """Search for a good prompt by successive halving; run again to resume."""
    if space is not None:
        config_module.find(space)
    scoring = _scoring(task, options)
    from pr2l.prompting.search import search

    space = space or f"search/{task.partition('/')[0]}"
    search(space, scoring, out or Path("runs/search") / task.replace("/", "-"), budget)


@prompts.command(name="correlate")
def prompts_correlate(
    suite: Annotated[str, SUITE],
    results: Annotated[Path, typer.Option(help="Folder with the result rows.")] = Path("runs/bench"),
    frames: Annotated[
        int | None, typer.Option(min=1, help="Number of frames.", show_default="as in `pr2l prompts score`")
    ] = None,
    methods: Annotated[str, typer.Option(help="Methods of the suite, separated by commas.", show_default="all")] = "",
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="runs/prompts/SUITE")] = None,
) -> None:
    """Compute rank correlations between prompt scores and success rates after training, over a suite of prompts."""
    _check_suite(suite)
    from pr2l.prompting.correlate import correlate

    correlate(suite, results, out or Path("runs/prompts") / Path(suite).stem, frames, _words(methods))


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join([*registry.KINDS, 'tasks'])}.")],
) -> None:
    """List the names that configs and commands accept."""
    for title, table in name_tables(kind):
        Console().print(f"[bold]{escape(title)}")
        Console().print(table)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _words(with_commas: str) -> tuple[str, ...]:
    return tuple(filter(None, with_commas.split(",")))


def _vlm_options(options: list[str]) -> dict[str, Any]:
    """Parse options of a VLM, with or without the prefix that they have in a config of a run."""
    values: dict[str, Any] = {}
    for option in options:
        apply_override(values, option.removeprefix("vlm_options."))
    if unknown := plugin_options.unknown_keys("vlms", "", values, "options of the VLM"):
        raise UserError(unknown)
    return values


def _evaluator_options(evaluator: str, options: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        apply_override(values, option)
    if unknown := plugin_options.unknown_keys("evaluators", evaluator, values, f"options of {evaluator!r}"):
        raise UserError(unknown)
    return values


def _batch_sizes(text: str) -> list[int]:
    words = [] if text == "none" else text.split(",")
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise UserError(f"--batches {text}: write batch sizes such as 1,4,16, or none")
    return sorted(set(map(int, words)))


def _scoring(task: str, options: list[str] | None, **values: Any) -> Any:
    values["task"] = task
    for option in options or []:
        apply_override(values, option)
    if "data" not in values:  # a folder may contain frames of any task
        _check_task(*task.partition("/")[::2])
    from pr2l.prompting.score import scoring_of

    return scoring_of(values)


def _config_of(config: str | None, overrides: list[str], resume: Path | None) -> RunConfig:
    """Load the named config, or the config of the resumed run; then the first argument may be an override."""
    if config is not None and not (resume and "=" in config):
        return load_config(config, overrides)
    if resume is None:
        raise UserError("train needs a config, e.g. `pr2l train smoke`; `pr2l list configs` shows them")
    return load_config(run_config_file(resume), [*([config] if config else []), *overrides])


def _check_task(environment: str, task: str) -> None:
    tasks = registry.load("environments", environment).TASKS
    if task not in tasks:
        raise UnknownName(f"tasks of {environment}", task, tasks, hint="`pr2l list tasks` shows all of them.")


def _check_suite(suite: str) -> None:
    if suite.endswith((".yaml", ".yml")):
        config_module.find(suite)
        return
    suites = [name.removeprefix("benchmarks/") for name in registry.names("configs") if name.startswith("benchmarks/")]
    if suite not in suites:
        raise UnknownName("suites", suite, suites, hint="`pr2l list configs` shows them.")

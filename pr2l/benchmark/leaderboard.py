"""`pr2l bench site`: the leaderboard, static pages made of committed rows and of nothing else.

    <out>/index.html                     every suite: the table over its tasks, profile and efficiency
          <suite>-<task>.html            a task: its table, curves, films, and every run with its command and commit
          rows/<suite>/<row>.json        the rows themselves, and their films

The same rows give the same bytes. Everything that a row says is escaped; pages ask nothing of any other server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from pr2l.benchmark.report import HEAD, TASK_HEAD, Values, interval, of_task, overall, summarise
from pr2l.benchmark.rows import RECENT, Row, read_rows, video_of
from pr2l.benchmark.suites import load_suite
from pr2l.core.errors import UserError
from pr2l.core.statistics import bootstrap, success_rate

FILES = Path(__file__).parent / "site"
ASSETS = ("style.css", "script.js")
MARK = ".pr2l-leaderboard"  # of a folder whose files are of this program
COLOURS = 8  # in style.css; each also has a dash of its own, and another one when it comes again
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 480, 300, 46, 44, 12  # of a chart in its own units; margins
RUN_HEAD = ("method", "seed", "success rate", "return", "frames/s", "commit", "how it was made")


@dataclass(frozen=True)
class Line:
    """Of a chart: SVG points of the line, and around the band of its interval.

    colour: a number below COLOURS; again: whether another line of the chart may have it.
    """

    name: str
    colour: int
    again: bool
    line: str
    band: str


@dataclass(frozen=True)
class Chart:
    """Lines over 0..end on the x axis and 0..1 on the y axis. ticks: places, and what stands there."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def site(results: Path, out: Path) -> Path:
    """Writes the site of all rows below `results` and returns its first page.

    Replaces what an earlier call has written to `out`. Raises UserError where there are no rows, or one is not a run of
    its suite, or lacks its commit or its command.
    """
    folders = sorted({path.parent for path in results.glob("*/*.json")})
    if not folders:
        raise UserError(f"there are no rows below {results}; `pr2l bench submit RUN` writes them")
    if out.resolve() in (results.resolve(), *results.resolve().parents):
        raise UserError(f"{out} holds the rows themselves; give --out another folder")
    suites = [load_suite(folder.name) for folder in folders]
    rows = {suite.name: read_rows(results, suite) for suite in suites}
    summaries = [summarise(suite, rows[suite.name]) for suite in suites]
    films = {(row.suite, row.name): film for row, film in _films(results, rows)}
    pages = _pages(summaries, rows, {place: film.name for place, film in films.items()})
    _clear(out)
    for name in ASSETS:
        shutil.copyfile(FILES / name, out / name)
    for name, found in rows.items():
        for row in found:
            _copy(_file(results, row), out / "rows" / name)
    for (suite, _), film in films.items():
        _copy(film, out / "rows" / suite)
    for name, text in pages.items():
        (out / name).write_text(text, encoding="utf-8")
    Console().print(f"{out / 'index.html'}: {sum(map(len, rows.values()))} runs of {', '.join(rows)}")
    return out / "index.html"


def _file(results: Path, row: Row) -> Path:
    return results / row.suite / f"{row.name}.json"


def _films(results: Path, rows: Mapping[str, list[Row]]) -> Iterator[tuple[Row, Path]]:
    for row in (row for found in rows.values() for row in found):
        if film := video_of(_file(results, row)):
            yield row, film


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


def _clear(out: Path) -> None:
    """Removes an earlier site; UserError for a folder that holds anything else."""
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something that is no leaderboard; give --out another folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()  # first, so that a call that was stopped can be made again
    for old in out.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.name != MARK:
            old.unlink()


def _pages(
    summaries: list[Values], rows: Mapping[str, list[Row]], films: Mapping[tuple[str, str], str]
) -> dict[str, str]:
    """Every page by its file's name. films: names of their files, by suite and row."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    suites = [
        {**summary, "table": overall(summary), "charts": _charts_over_tasks(summary), "links": _links(summary)}
        for summary in summaries
    ]
    first = templates.get_template("index.html").render(suites=suites, head=HEAD, commits=_commits(rows))
    pages = {"index.html": first}
    for summary in summaries:
        for task, name in _links(summary).items():
            runs = [_run(row, films) for row in rows[summary["suite"]] if row.task == task]
            about: dict[str, Any] = {"summary": summary, "task": task, "runs": runs, "table": of_task(summary, task)}
            about |= {"chart": _chart_of_task(summary, task), "head": TASK_HEAD, "run_head": RUN_HEAD, "recent": RECENT}
            pages[name] = templates.get_template("task.html").render(about)
    return pages


def _links(summary: Values) -> dict[str, str]:
    """The page of each task that has rows."""
    tasks = [task for task, methods in summary["tasks"].items() if methods]
    return {task: f"{summary['suite']}-{task.replace('/', '-')}.html" for task in tasks}


def _commits(rows: Mapping[str, list[Row]]) -> int:
    return len({row.commit for found in rows.values() for row in found})


def _run(row: Row, films: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    success, returned = interval(success_rate([row.played("success")])), interval(bootstrap(row.played("return")))
    film = films.get((row.suite, row.name))
    return {"row": row, "success": success, "return": returned, "film": film, "frames": f"{row.frames_per_second:,.0f}"}


def _charts_over_tasks(summary: Values) -> list[Chart]:
    methods = summary["methods"]
    shares = ("share of the steps", "success rate in training (IQM)")
    above = ("success rate s", "share of runs above s")
    return [
        _chart("Sample efficiency", *shares, {name: found["curve"] for name, found in methods.items()}, methods),
        _chart("Performance profile", *above, {name: found["profile"] for name, found in methods.items()}, methods),
    ]


def _chart_of_task(summary: Values, task: str) -> Chart:
    curves = {name: found["curve"] for name, found in summary["tasks"][task].items()}
    labels = ("environment steps", "success rate in training (IQM)")
    return _chart(task, *labels, curves, summary["methods"])


def _chart(
    title: str, x_label: str, y_label: str, bands: Mapping[str, Values | None], methods: Mapping[str, Any]
) -> Chart:
    """methods: all of the suite, so that each keeps its colour on every page."""
    shown = {name: band for name, band in bands.items() if band}
    end = max((max(band["at"]) for band in shown.values()), default=1.0)
    numbers = {name: number for number, name in enumerate(methods)}
    lines = tuple(
        Line(
            name,
            numbers[name] % COLOURS,
            numbers[name] >= COLOURS,
            _points(band["at"], band["value"], end),
            f"{_points(band['at'], band['high'], end)} {_points(band['at'][::-1], band['low'][::-1], end)}",
        )
        for name, band in shown.items()
    )
    quarters = [step / 4 for step in range(5)]
    x_ticks = tuple((_x(share), f"{share * end:,.0f}" if end > 1 else f"{share:g}") for share in quarters)
    y_ticks = tuple((_y(share), f"{share:g}") for share in quarters)
    return Chart(title, x_label, y_label, lines, x_ticks, y_ticks)


def _points(at: list[float], values: list[float], end: float) -> str:
    return " ".join(f"{_x(x / end):.1f},{_y(y):.1f}" for x, y in zip(at, values, strict=True))


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 2 * EDGE)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - EDGE)

"""`pr2l bench site`: the leaderboard, as static pages built only from committed rows.

    <out>/index.html                     for each suite the table over its tasks, its methods and charts; how to submit
          <suite>-<task>.html            a task: its table, curves, videos, and every run with its command and commit
          rows/<suite>/<row>.json        the rows; their videos, posters (.jpg) and captions (.vtt)

The same rows give the same bytes. All text from rows is escaped. Pages load nothing from other servers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from pr2l.benchmark.public import check_public
from pr2l.benchmark.report import (
    HEAD,
    PAIR_HEAD,
    PAPER_HEAD,
    RANDOM,
    Values,
    few_seeds,
    interval,
    of_paper,
    of_task,
    overall,
    summarise,
    task_head,
)
from pr2l.benchmark.rows import RECENT, Row, read_rows, video_of
from pr2l.benchmark.suites import load_suite
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.statistics import bootstrap, success_rate
from pr2l.training.evaluate import VIDEO_EPISODES

FILES = Path(__file__).parent / "site"
ASSETS = ("style.css", "script.js")
MARK = ".pr2l-leaderboard"  # marks a folder whose files this program may delete
COLOURS = 8  # colours in style.css, each with a dash pattern; further lines get an inline colour and dash pattern
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 480, 300, 46, 44, 12  # size and margins of a chart in SVG units
RUN_HEAD = ("method", "seed", "success rate", "return", "frames/s", "date", "commit", "how it was made")


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: Name in the legend.
        style: Class in style.css; "" if the line has an inline style.
        css: Inline style; "" if the line has a class.
        line: SVG points of the line.
        band: SVG points around the confidence interval; "" = no interval.
    """

    name: str
    style: str
    css: str
    line: str
    band: str


@dataclass(frozen=True)
class Chart:
    """A line chart with a y axis from 0 to 1.

    Attributes:
        title: Title of the chart.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        lines: Lines in drawing order.
        x_ticks: (position in SVG units, label) of each tick of the x axis.
        y_ticks: The same for the y axis.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Clip:
    """Video of a row.

    Attributes:
        file: The video's file.
        ratio: Height divided by width.
        poster: JPEG of the middle frame; None if the video is not an mp4 or cannot be read.
        episodes: Context, outcome and return of each episode in the video.
    """

    file: Path
    ratio: float
    poster: bytes | None
    episodes: tuple[str, ...]


def site(results: Path, out: Path, repository: str | None = None) -> Path:
    """Build the site from all rows below a folder.

    Args:
        results: Folder with a sub-folder of rows for each suite.
        out: Folder of the site. It must be new, empty or an earlier site, which is replaced.
        repository: Web address for links to commits; None = the git remote `origin`, if it is a web address.

    Returns:
        Path of index.html.

    Raises:
        UserError: If there are no rows, a row is invalid (for example without commit or command) or holds a path of one
            machine, or `out` has other files or contains the rows.
    """
    folders = sorted({path.parent for path in results.glob("*/*.json")})
    if not folders:
        raise UserError(f"there are no result rows in {results}; write them with `pr2l bench submit RUN`")
    if out.resolve() in (results.resolve(), *results.resolve().parents):
        raise UserError(f"{out} contains the result rows; choose another folder with --out")
    suites = [load_suite(folder.name) for folder in folders]
    rows = {suite.name: read_rows(results, suite) for suite in suites}
    for row in (row for of_suite in rows.values() for row in of_suite):
        check_public(row.model_dump(mode="json"), str(_file(results, row)))
    summaries = [summarise(suite, rows[suite.name]) for suite in suites]
    clips = {
        (row.suite, row.name): _clip(row, video)
        for row in (row for of_suite in rows.values() for row in of_suite)
        if (video := video_of(_file(results, row)))
    }
    pages = _pages(summaries, rows, clips, (repository or _origin()).rstrip("/"))
    _clear(out)
    for name in ASSETS:
        shutil.copyfile(FILES / name, out / name)
    for name, of_suite in rows.items():
        (out / "rows" / name).mkdir(parents=True, exist_ok=True)
        for row in of_suite:
            _copy(_file(results, row), out / "rows" / name)
    for (suite, name), clip in clips.items():
        _copy(clip.file, out / "rows" / suite)
        if clip.poster:
            (out / "rows" / suite / f"{name}.jpg").write_bytes(clip.poster)
            (out / "rows" / suite / f"{name}.vtt").write_text(_captions(clip), encoding="utf-8")
    for name, text in pages.items():
        (out / name).write_text(text, encoding="utf-8")
    Console().print(f"{out / 'index.html'}: {sum(map(len, rows.values()))} runs of {', '.join(rows)}", markup=False)
    return out / "index.html"


def _file(results: Path, row: Row) -> Path:
    return results / row.suite / f"{row.name}.json"


def _origin() -> str:
    """Return the web address of the git remote `origin`; "" if there is none."""
    command = ["git", "-C", str(FILES), "config", "--get", "remote.origin.url"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:  # no git
        return ""
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", process.stdout.strip()).removesuffix(".git")
    return url if re.fullmatch(r"https?://[^\s@]+", url) else ""


def _clip(row: Row, video: Path) -> Clip:
    frame = _middle_frame(video) if video.suffix == ".mp4" else None
    poster, ratio = None, 1.0
    if frame is not None:
        poster = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        ratio = frame.shape[0] / frame.shape[1]
    columns = row.results["played"]
    count = min(VIDEO_EPISODES, row.config["num_envs"], len(columns["success"]))
    contexts = columns.get("context") or [""] * count
    episodes = tuple(
        f"{context or 'episode'}: {'success' if success else 'failure'}, return {returned:.2f}"
        for context, success, returned in zip(contexts[:count], columns["success"], columns["return"], strict=False)
    )
    return Clip(video, ratio, poster, episodes)


def _middle_frame(video: Path) -> np.ndarray | None:
    """Return the middle frame, BGR uint8 [H, W, 3]; the first frames of two runs may be the same."""
    reader = cv2.VideoCapture(str(video))
    reader.set(cv2.CAP_PROP_POS_FRAMES, reader.get(cv2.CAP_PROP_FRAME_COUNT) // 2)
    return reader.read()[1]


def _captions(clip: Clip) -> str:
    """Return WebVTT captions that list the episodes at the top of the picture during the whole video."""
    lines = "\n".join(f"{number}. {text}" for number, text in enumerate(clip.episodes, start=1))
    safe = lines.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"WEBVTT\n\n00:00:00.000 --> 00:59:59.000 line:0\n{safe}\n"


def _copy(file: Path, folder: Path) -> None:
    shutil.copyfile(file, folder / file.name)


def _clear(out: Path) -> None:
    """Remove an earlier site; UserError for a folder with other files."""
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty, and not a leaderboard; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()  # first, so that a call that was stopped can be repeated
    for old in out.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.name != MARK:
            old.unlink()


def _pages(
    summaries: list[Values], rows: Mapping[str, list[Row]], clips: Mapping[tuple[str, str], Clip], repository: str
) -> dict[str, str]:
    """Return the HTML of every page by file name."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"repository": repository, "recent": RECENT}
    suites = [
        {
            **summary,
            "table": overall(summary),
            "charts": _charts_over_tasks(summary),
            "links": _links(summary),
            "few_seeds": few_seeds(summary),
            "orders": _orders(summary),
        }
        for summary in summaries
    ]
    commits = len({row.commit for of_suite in rows.values() for row in of_suite})
    pages = {"index.html": templates.get_template("index.html").render(suites=suites, head=HEAD, commits=commits)}
    for summary in summaries:
        for task, name in _links(summary).items():
            runs = [_run(row, clips) for row in rows[summary["suite"]] if row.task == task]
            values: dict[str, Any] = {"summary": summary, "task": task, "runs": runs, "table": of_task(summary, task)}
            values |= {"chart": _chart_of_task(summary, task), "head": task_head(summary, task), "run_head": RUN_HEAD}
            pages[name] = templates.get_template("task.html").render(values, few_seeds=few_seeds(summary))
    return pages


def _orders(summary: Values) -> list[dict[str, Any]]:
    """Return the tables of each comparison with the suite's paper; none if the suite names no paper."""
    orders = summary["paper"]["orders"] if summary["paper"] else {}
    return [
        {
            "representation": name,
            "answer": comparison["answer"],
            "tables": tuple(zip((PAPER_HEAD, PAIR_HEAD), of_paper(comparison), strict=True)),
        }
        for name, comparison in orders.items()
    ]


def _links(summary: Values) -> dict[str, str]:
    """Return the file name of the page of each task that has rows."""
    tasks = [task for task, methods in summary["tasks"].items() if methods]
    return {task: f"{summary['suite']}-{task.replace('/', '-')}.html" for task in tasks}


def _run(row: Row, clips: Mapping[tuple[str, str], Clip]) -> dict[str, Any]:
    success, returned = interval(success_rate([row.played("success")])), interval(bootstrap(row.played("return")))
    clip = clips.get((row.suite, row.name))
    frames = f"{row.frames_per_second:,.0f}"
    return {"row": row, "success": success, "return": returned, "clip": clip, "frames": frames}


def _charts_over_tasks(summary: Values) -> list[Chart]:
    methods = summary["methods"]
    shares = ("share of the steps", "training success rate (IQM)")
    above = ("success rate s", "share of runs above s")
    return [
        _chart("Sample efficiency", *shares, {name: values["curve"] for name, values in methods.items()}, methods),
        _chart("Performance profile", *above, {name: values["profile"] for name, values in methods.items()}, methods),
    ]


def _chart_of_task(summary: Values, task: str) -> Chart:
    curves = {name: values["curve"] for name, values in summary["tasks"][task].items()}
    chance = summary["random"]["tasks"][task]["success"][0]
    labels = ("environment steps", "training success rate (IQM)")
    return _chart(task, *labels, curves, summary["methods"], chance)


def _chart(
    title: str,
    x_label: str,
    y_label: str,
    bands: Mapping[str, Values | None],
    methods: Mapping[str, Any],
    chance: float | None = None,
) -> Chart:
    """Return a chart.

    Args:
        title: Title of the chart.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        bands: Curve of each method; None = the method has none.
        methods: All methods of the suite, so that a method has the same colour on every page.
        chance: Value of a horizontal line for random actions; None = no line.
    """
    visible = {name: band for name, band in bands.items() if band}
    end = max((max(band["at"]) for band in visible.values()), default=1.0)
    numbers = {name: number for number, name in enumerate(methods)}
    lines = [
        Line(
            name,
            *_style(numbers[name]),
            _points(band["at"], band["value"], end),
            f"{_points(band['at'], band['high'], end)} {_points(band['at'][::-1], band['low'][::-1], end)}",
        )
        for name, band in visible.items()
    ]
    if lines and chance is not None:
        lines.append(Line(RANDOM, "chance", "", _points([0, end], [chance, chance], end), ""))
    quarters = [step / 4 for step in range(5)]
    x_ticks = tuple((_x(share), f"{share * end:,.0f}" if end > 1 else f"{share:g}") for share in quarters)
    y_ticks = tuple((_y(share), f"{share:g}") for share in quarters)
    return Chart(title, x_label, y_label, tuple(lines), x_ticks, y_ticks)


def _style(number: int) -> tuple[str, str]:
    """Return the class in style.css and the inline style of a line; one of them is "".

    The first COLOURS lines use a class. No two lines have the same style.
    """
    if number < COLOURS:
        return f"c{number}", ""
    hue, extra = round(number * 137.508) % 360, number - COLOURS  # the golden angle keeps hues apart
    colour = f"light-dark(hsl({hue} 75% 32%), hsl({hue} 75% 70%))"
    return "", f"--colour: {colour}; stroke-dasharray: {extra % 5 + 3} 2 {extra // 5 + 1} 2"


def _points(steps: list[float], values: list[float], end: float) -> str:
    return " ".join(f"{_x(x / end):.1f},{_y(y):.1f}" for x, y in zip(steps, values, strict=True))


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 2 * EDGE)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - EDGE)

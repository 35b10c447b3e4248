"""Pages of the leaderboard: their content, their accessibility, and their scripts in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from typer.main import get_command

from pr2l.benchmark import leaderboard
from pr2l.benchmark.leaderboard import site
from pr2l.cli import app
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.training.video import write_video

pytestmark = pytest.mark.pictures  # a browser plays the video

VOID = {"meta", "link", "br", "img", "input", "line", "polygon", "polyline", "track"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DOCS = Path(__file__).parents[2] / "docs"
SCRIPT_TAG = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Parsed page: `tags` are (tag, {attribute: value}), `text` is the text; asserts that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def submitted_rows(row_files, tmp_path_factory):
    """The rows of `toys` with a video, a GIF, uncommitted changes, two commits, and HTML in a value."""
    folder = shutil.copytree(row_files, tmp_path_factory.mktemp("submitted") / "rows")
    path = folder / "toys" / "toy-colours-pixels-seed0.json"
    write_json(path, read_json(path) | {"machine": SCRIPT_TAG, "uncommitted": True})
    for method, commit in (("pixels", "9c"), ("small", "12ab")):
        other = folder / "toys" / f"toy-colours-{method}-seed1.json"
        write_json(other, read_json(other) | {"commit": commit.ljust(40, "0")})
    write_video(path.with_suffix(""), [np.full((32, 48, 3), shade, np.uint8) for shade in (0, 255)], fps=2)
    (folder / "toys" / "toy-colours-small-seed0.gif").write_bytes(b"GIF89a")
    return folder


@pytest.fixture(scope="module")
def built_site(submitted_rows):
    """The site of `submitted_rows`, built in a clone without a remote. Tests do not change it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(leaderboard, "_origin", lambda: "")
        return site(submitted_rows, submitted_rows.with_name("site")).parent


@pytest.fixture
def site_copy(built_site, tmp_path, monkeypatch):
    """A copy of `built_site`, for tests that change it."""
    monkeypatch.setattr(leaderboard, "_origin", lambda: "")
    return shutil.copytree(built_site, tmp_path / "site")


def pages(folder):
    return {path.name: Page(path.read_text()) for path in sorted(folder.glob("*.html"))}


def test_site_has_every_row_with_its_command_and_commit(built_site, submitted_rows):
    assert set(pages(built_site)) == {"index.html", "toys-toy-colours.html", "toys-toy-again.html"}
    for row in map(read_json, (submitted_rows / "toys").glob("*.json")):
        page = pages(built_site)[f"toys-{row['task'].replace('/', '-')}.html"]
        assert f"git checkout {row['commit']}\nOMP_NUM_THREADS=1 {row['command']}" in page.text
        name = f"{row['task'].replace('/', '-')}-{row['method']}-seed{row['seed']}.json"
        assert read_json(built_site / "rows" / "toys" / name) == row
    assert "0.75 [0.40, 0.90]" in pages(built_site)["index.html"].text
    assert "and uncommitted changes" in pages(built_site)["toys-toy-colours.html"].text


def test_values_of_rows_are_escaped(built_site):
    text = (built_site / "toys-toy-colours.html").read_text()
    assert SCRIPT_TAG not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_links_lead_to_existing_files(built_site):
    for page in pages(built_site).values():
        links = [tag for name, tag in page.tags if name in ("a", "link", "script", "video")]
        targets = [tag.get("href") or tag.get("src") for tag in links]
        ids = {tag["id"] for _, tag in page.tags if "id" in tag}
        for target in targets:
            name, _, anchor = target.partition("#")
            assert (built_site / name).is_file() if name else anchor in ids, target
    assert "http" not in (built_site / "style.css").read_text() + (built_site / "script.js").read_text()


def test_pages_are_accessible_to_screen_readers(built_site):
    for page in pages(built_site).values():
        assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1 and len(page.all("main")) == 1
        assert "width=device-width" in str(page.all("meta"))
        assert page.all("a")[0] == {"class": "skip", "href": "#content"}
        assert len(page.all("caption")) == len(page.all("table")) >= 1
        assert all(heading.get("scope") in ("col", "row") for heading in page.all("th"))
        regions = [tag for tag in page.all("div") if tag.get("class") == "scroll"]
        assert len(regions) == len(page.all("table"))
        assert all(tag["tabindex"] == "0" and tag["role"] == "region" and tag["aria-label"] for tag in regions)
        ids = [tag["id"] for _, tag in page.tags if "id" in tag]
        assert len(ids) == len(set(ids))
        charts = [tag for tag in page.all("svg") if tag.get("aria-hidden") != "true"]
        assert charts and all(tag["role"] == "img" and tag["aria-labelledby"] in ids for tag in charts)


def test_style_follows_the_preferences_of_the_reader(built_site):
    style = (built_site / "style.css").read_text()
    assert "color-scheme: light dark" in style and "prefers-reduced-motion" in style and ":focus-visible" in style


def test_video_has_a_poster_and_captions(built_site, submitted_rows):
    page = pages(built_site)["toys-toy-colours.html"]
    [video] = page.all("video")
    assert video["src"] == "rows/toys/toy-colours-pixels-seed0.mp4"
    assert video["aria-label"] == "Video of pixels, seed 0" and "controls" in video and "autoplay" not in video
    submitted = submitted_rows / "toys" / "toy-colours-pixels-seed0.mp4"
    assert (built_site / video["src"]).read_bytes() == submitted.read_bytes()
    assert cv2.imread(str(built_site / video["poster"])).shape == (32, 48, 3) and "--ratio: 0.6667" in video["style"]
    [track] = page.all("track")
    cues = (built_site / track["src"]).read_text()
    assert cues.startswith("WEBVTT\n") and "line:0\n1. episode: success, return 2.00\n" in cues
    assert {"href": "rows/toys/toy-colours-small-seed0.gif"} in page.all("a")  # a GIF cannot be paused
    assert "Videos" not in pages(built_site)["toys-toy-again.html"].text


def test_pages_have_methods_dates_and_the_command_to_submit(built_site):
    index, task = pages(built_site)["index.html"], pages(built_site)["toys-toy-colours.html"]
    assert "a quarter of the picture" in index.text and "pr2l bench submit runs/bench/toys" in index.text
    assert "run 2026-11-01" in index.text and "2026-11-01" in task.text
    assert "Only 2 seeds" in index.text and "Only 2 seeds" in task.text


def test_tables_and_charts_have_random_actions(built_site):
    for page in pages(built_site).values():
        assert {"class": "random"} in page.all("tr")
    text = (built_site / "toys-toy-colours.html").read_text()
    [points] = re.findall(r'<polyline class="line chance" data-line="random" points="([^"]+)"', text)
    assert points == "46.0,225.5 456.0,225.5"  # at 1/8 of the axis, which is 244 high


def test_commits_link_to_the_repository(built_site, submitted_rows, tmp_path):
    assert "https://" not in (built_site / "toys-toy-colours.html").read_text()
    linked = site(submitted_rows, tmp_path / "linked", "https://example.org/pr2l/").parent
    page = Page((linked / "toys-toy-colours.html").read_text())
    assert "https://example.org/pr2l/commit/" + "9c".ljust(40, "0") in [tag.get("href") for tag in page.all("a")]


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@github.com/a/b", "https://github.com/a/b"),
        ("https://user:secret@github.com/a/b", ""),
        ("/srv/git/b.git", ""),
        ("", ""),
    ],
)
def test_web_address_of_the_git_remote(remote, address, monkeypatch):
    process = subprocess.CompletedProcess([], 0, stdout=f"{remote}\n")
    monkeypatch.setattr(leaderboard.subprocess, "run", lambda *_, **__: process)
    assert leaderboard._origin() == address


def test_coordinates_of_a_chart(built_site):
    """Curves rise from 0.25 at half of the steps to 0.75 at the end; the axes are 410 wide and 244 high."""
    text = (built_site / "toys-toy-colours.html").read_text()
    [line] = re.findall(r'<polyline class="line c0" data-line="pixels" points="([^"]+)"', text)
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert points[0] == (46 + 205, 256 - 61) and points[-1] == (46 + 410, 256 - 183)
    [band] = re.findall(r'<polygon class="band c0" data-line="pixels" points="([^"]+)"', text)
    assert band.split() == line.split() + line.split()[::-1]  # low and high are equal, as all runs have the same curve


def test_same_rows_give_the_same_site_and_stale_pages_are_removed(site_copy, submitted_rows):
    before = {path: path.read_bytes() for path in site_copy.rglob("*") if path.is_file()}
    (site_copy / "stale.html").write_text("old")
    site(submitted_rows, site_copy)
    assert {path: path.read_bytes() for path in site_copy.rglob("*") if path.is_file()} == before


def test_row_without_commit_or_command_raises_and_keeps_the_site(site_copy, rows):
    for key in ("commit", "command"):
        path = rows / "toys" / "toy-again-small-seed0.json"
        text = path.read_text()
        write_json(path, read_json(path) | {key: ""})
        with pytest.raises(UserError, match=f"{path.name}: {key} = ''.*\n.*so that others can reproduce it"):
            site(rows, site_copy)
        path.write_text(text)
    assert (site_copy / "index.html").exists()


def test_missing_rows_and_unsafe_folders_raise(rows, tmp_path):
    with pytest.raises(UserError, match="write them with `pr2l bench submit RUN`"):
        site(tmp_path / "nothing", tmp_path / "site")
    (tmp_path / "homepage").mkdir()
    for name in ("thesis.txt", "index.html", "style.css", "script.js"):  # another page may have such files too
        (tmp_path / "homepage" / name).touch()
    with pytest.raises(UserError, match="is not empty, and not a leaderboard"):
        site(rows, tmp_path / "homepage")
    assert len(list((tmp_path / "homepage").iterdir())) == 4
    with pytest.raises(UserError, match="contains the result rows"):
        site(rows, rows.parent)


def test_interrupted_site_is_built_again(site_copy, rows, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(leaderboard, "_copy", interrupt)
        site(rows, site_copy)
    assert site(rows, site_copy).exists()


def test_lines_of_40_methods_differ_in_style_or_colour():
    band = {"at": [0, 1], "value": [0, 1], "low": [0, 1], "high": [0, 1]}
    names = [f"m{number}" for number in range(40)]
    lines = leaderboard._chart("", "", "", dict.fromkeys(names, band), names).lines
    assert len({(line.style, line.css.partition(";")[0]) for line in lines}) == 40


# Opens each page in frames as wide as a phone and a desktop; its text becomes the values that the test checks.
FRAMES = """<!doctype html><body><script>
const values = {}, pages = PAGES;
const frame = (page, width) => new Promise((resolve) => {
  const iframe = document.createElement("iframe");
  iframe.style.cssText = `width:${width}px;height:800px`;
  iframe.onload = () => resolve(iframe.contentDocument);
  iframe.src = page;
  document.body.append(iframe);
});
const texts = (page_document, column) =>
  [...page_document.querySelector("tbody").rows].map((row) => row.cells[column].textContent);
(async () => {
  for (const page of pages) for (const width of [390, 1280]) {
    const page_document = await frame(page, width);
    page_document.querySelectorAll("details").forEach((details) => { details.open = true; });
    const root = page_document.documentElement;
    values[`${page} ${width}`] = root.scrollWidth - root.clientWidth;
  }
  const page_document = await frame("index.html", 1280);
  const heading = page_document.querySelectorAll("thead th")[1], button = heading.querySelector("button");
  const sort = () => { button.click(); return [heading.getAttribute("aria-sort"), ...texts(page_document, 0)]; };
  values.orders = [sort(), sort()];
  const better = page_document.querySelectorAll("thead th")[4];
  values.last = [0, 1].map(() => { better.querySelector("button").click(); return texts(page_document, 0); });
  heading.querySelector("button").click();
  button.click();
  const player = (await frame("toys-toy-colours.html", 390)).querySelector("video");
  player.load();
  // Virtual time jumps to the next timer and does not wait for the decoder, so wait in many short steps.
  while (player.readyState < 1 && !player.error) await new Promise((resolve) => setTimeout(resolve, 10));
  values.video = [player.duration, player.videoWidth];
  values.strip = Math.round(player.clientHeight - player.clientWidth * 32 / 48);
  values.status = page_document.getElementById("status").textContent;
  const runs = await frame("toys-toy-colours.html", 1280), table = runs.querySelectorAll("table")[1];
  table.querySelectorAll("thead button")[6].click();  // commits
  values.commits = [...table.tBodies[0].rows].map((row) => row.cells[6].textContent.trim());
  const legend = runs.querySelector(".legend button"), visible = () =>
    [...runs.querySelectorAll("[data-line=pixels]")].map((shape) => shape.style.display !== "none");
  values.toggled = [0, 1].map(() => { legend.click(); return [legend.getAttribute("aria-pressed"), ...visible()]; });
  const narrow = (await frame("index.html", 390)).querySelector(".table");
  values.cue = [narrow.classList.contains("more"), getComputedStyle(narrow.querySelector(".cue")).display];
  const box = narrow.querySelector(".scroll");
  box.scrollLeft = 10000;
  box.dispatchEvent(new Event("scroll"));  // with virtual time the browser draws no frames, so it sends no event
  values.cue.push(narrow.classList.contains("more"));
  page_document.querySelector("thead button").click();
  values.names = [...texts(page_document, 0), heading.getAttribute("aria-sort")];
  const theme = page_document.getElementById("theme"), root = page_document.documentElement;
  const background = () => page_document.defaultView.getComputedStyle(page_document.body).backgroundColor;
  const state = () => [root.dataset.theme, theme.textContent, background()];
  values.themes = [0, 1].map(() => { theme.click(); return state(); });
  document.body.textContent = "FOUND" + JSON.stringify(values) + "END";
})();
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_scripts_and_layout_in_a_browser(site_copy, tmp_path):
    names = [path.name for path in site_copy.glob("*.html")]
    (site_copy / "frames.html").write_text(FRAMES.replace("PAGES", json.dumps(names)))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    flags += ("--virtual-time-budget=600000",)
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *flags, *quiet, profile, "--dump-dom", (site_copy / "frames.html").as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=250)
    [text] = re.findall("FOUND(.*?)END", process.stdout) or pytest.fail(process.stdout + process.stderr)
    values = json.loads(text)
    assert [values[f"{name} {width}"] for name in names for width in (390, 1280)] == [0, 0] * len(names)
    assert values["orders"] == [["descending", "pixels", "small", "random"], ["ascending", "random", "small", "pixels"]]
    assert values["last"] == [["pixels", "random", "small"], ["random", "pixels", "small"]]  # the baseline has none
    assert values["video"] == [1, 48]  # seconds and pixels: the browser can play it
    assert values["strip"] == 72  # pixels below the picture for the controls, so that they do not cover its text
    assert values["toggled"] == [["false", False, False], ["true", True, True]]  # line and band
    assert values["cue"] == [True, "block", False]  # until the table is scrolled to its end
    commits = [cell.split()[0] for cell in values["commits"]]
    assert commits == sorted(commits) and {"12ab000000", "9c00000000"} < set(commits)  # sorted as text, not as numbers
    assert values["status"] == "Sorted by IQM, ascending"
    assert values["names"] == ["pixels", "random", "small", None]
    labels = {theme: label for theme, label, _ in values["themes"]}
    assert labels == {"dark": "Switch to light theme", "light": "Switch to dark theme"}
    assert values["themes"][0][2] != values["themes"][1][2]


def test_commands_submit_report_and_site(toys, make_run, tmp_path):
    runs = [str(make_run("colours", "pixels", seed, 2)) for seed in (0, 1)]
    for arguments in (
        ["submit", *runs, "--out", "rows"],
        ["report", "toys", "--results", "rows", "--out", "report"],
        ["site", "--results", "rows", "--out", "pages"],
    ):
        result = CliRunner().invoke(get_command(app), ["bench", *arguments])
        assert result.exit_code == 0, result
    assert "toy-colours-pixels-seed0" in (tmp_path / "pages" / "toys-toy-colours.html").read_text()
    assert (tmp_path / "report" / "report.md").exists()


def test_site_of_the_committed_rows(tmp_path):
    committed = DOCS / "results" / "bench"
    folder = site(committed, tmp_path / "site").parent
    rows = {path.relative_to(committed) for path in committed.rglob("*") if path.suffix in (".json", ".mp4")}
    built = {path.relative_to(folder / "rows") for path in (folder / "rows").rglob("*") if path.is_file()}
    assert rows and rows == {path for path in built if path.suffix in (".json", ".mp4")}
    videos = {path.stem for path in rows if path.suffix == ".mp4"}
    assert videos == {path.stem for path in built if path.suffix == ".jpg"}  # each has a poster

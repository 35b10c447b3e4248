"""The pages: what they say of each row, that they can be read by everybody, and how they behave in a browser."""

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

pytestmark = pytest.mark.pictures  # browsers play the videos

VOID = {"meta", "link", "br", "img", "input", "line", "polygon", "polyline", "track"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DOCS = Path(__file__).parents[2] / "docs"
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """All tags with their attributes, as (tag, {attribute: value}); checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
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
        self.words += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def made(rows, tmp_path):
    path = rows / "toys" / "toy-colours-pixels-seed0.json"
    write_json(path, read_json(path) | {"machine": EVIL, "uncommitted": True})
    for method, commit in (("pixels", "9c"), ("small", "12ab")):
        other = rows / "toys" / f"toy-colours-{method}-seed1.json"
        write_json(other, read_json(other) | {"commit": commit.ljust(40, "0")})
    write_video(path.with_suffix(""), [np.full((32, 48, 3), shade, np.uint8) for shade in (0, 255)], fps=2)
    (rows / "toys" / "toy-colours-small-seed0.gif").write_bytes(b"GIF89a")
    return site(rows, tmp_path / "site").parent


def pages(made):
    return {path.name: Page(path.read_text()) for path in sorted(made.glob("*.html"))}


def test_every_row_is_there_with_its_command_and_commit(made, rows):
    assert set(pages(made)) == {"index.html", "toys-toy-colours.html", "toys-toy-again.html"}
    found = [read_json(path) for path in (rows / "toys").glob("*.json")]
    for row in found:
        page = pages(made)[f"toys-{row['task'].replace('/', '-')}.html"]
        assert f"git checkout {row['commit']}\nOMP_NUM_THREADS=1 {row['command']}" in page.words
        name = f"{row['task'].replace('/', '-')}-{row['method']}-seed{row['seed']}.json"
        assert read_json(made / "rows" / "toys" / name) == row
    assert "0.75 [0.40, 0.90]" in pages(made)["index.html"].words
    assert "and uncommitted changes" in pages(made)["toys-toy-colours.html"].words


def test_what_a_row_says_is_escaped(made):
    text = (made / "toys-toy-colours.html").read_text()
    assert EVIL not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_links_lead_to_files_and_nowhere_else(made):
    for page in pages(made).values():
        linking = [tag for name, tag in page.tags if name in ("a", "link", "script", "video")]
        targets = [tag.get("href") or tag.get("src") for tag in linking]
        ids = {tag["id"] for _, tag in page.tags if "id" in tag}
        for target in targets:
            name, _, place = target.partition("#")
            assert (made / name).is_file() if name else place in ids, target
    assert "http" not in (made / "style.css").read_text() + (made / "script.js").read_text()


def test_a_reader_who_does_not_see_finds_the_way(made):
    for page in pages(made).values():
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
        shown = [tag for tag in page.all("svg") if tag.get("aria-hidden") != "true"]
        assert shown and all(tag["role"] == "img" and tag["aria-labelledby"] in ids for tag in shown)


def test_the_style_suits_the_reader(made):
    style = (made / "style.css").read_text()
    assert "color-scheme: light dark" in style and "prefers-reduced-motion" in style and ":focus-visible" in style


def test_videos_are_on_the_page_of_their_task_with_poster_and_captions(made, rows):
    page = pages(made)["toys-toy-colours.html"]
    [video] = page.all("video")
    assert video["src"] == "rows/toys/toy-colours-pixels-seed0.mp4"
    assert video["aria-label"] == "Video of pixels, seed 0" and "controls" in video and "autoplay" not in video
    assert (made / video["src"]).read_bytes() == (rows / "toys" / "toy-colours-pixels-seed0.mp4").read_bytes()
    assert cv2.imread(str(made / video["poster"])).shape == (32, 48, 3) and "--ratio: 0.6667" in video["style"]
    [track] = page.all("track")
    cues = (made / track["src"]).read_text()
    assert cues.startswith("WEBVTT\n") and "line:0\n1. episode: success, return 2.00\n" in cues
    assert {"href": "rows/toys/toy-colours-small-seed0.gif"} in page.all("a"), "a GIF cannot be paused, so it is a link"
    assert "Videos" not in pages(made)["toys-toy-again.html"].words


def test_pages_say_what_methods_are_when_runs_were_made_and_how_to_submit(made):
    index, task = pages(made)["index.html"], pages(made)["toys-toy-colours.html"]
    assert "a quarter of the picture" in index.words and "pr2l bench submit runs/bench/toys" in index.words
    assert "run 2026-11-01" in index.words and "2026-11-01" in task.words
    assert "Only 2 seeds" in index.words and "Only 2 seeds" in task.words


def test_random_actions_are_in_the_tables_and_in_the_charts_of_tasks(made):
    for page in pages(made).values():
        assert {"class": "random"} in page.all("tr")
    text = (made / "toys-toy-colours.html").read_text()
    [points] = re.findall(r'<polyline class="line chance" data-line="random" points="([^"]+)"', text)
    assert points == "46.0,225.5 456.0,225.5", "at an eighth of the axis, which is 244 high"


def test_commits_link_to_the_repository(made, rows, tmp_path):
    assert "https://" not in (made / "toys-toy-colours.html").read_text(), "no remote is known here"
    linked = site(rows, tmp_path / "linked", "https://example.org/pr2l/").parent
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
def test_the_repository_is_the_web_address_of_the_remote(remote, address, monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout=f"{remote}\n")
    monkeypatch.setattr(leaderboard.subprocess, "run", lambda *_, **__: done)
    assert leaderboard._origin() == address


def test_a_chart_is_where_its_numbers_are(made):
    """Curves rise from 0.25 at half of the steps to 0.75 at the end; the axes are 410 wide and 244 high."""
    text = (made / "toys-toy-colours.html").read_text()
    [first] = re.findall(r'<polyline class="line c0" data-line="pixels" points="([^"]+)"', text)
    points = [tuple(map(float, point.split(","))) for point in first.split()]
    assert points[0] == (46 + 205, 256 - 61) and points[-1] == (46 + 410, 256 - 183)
    [band] = re.findall(r'<polygon class="band c0" data-line="pixels" points="([^"]+)"', text)
    assert band.split() == first.split() + first.split()[::-1]  # there and back, as all runs have the same curve


def test_the_same_rows_give_the_same_pages_and_old_ones_go(made, rows):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    (made / "stale.html").write_text("old")
    site(rows, made)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_row_without_commit_or_command_stops_the_site(made, rows):
    for key in ("commit", "command"):
        path = rows / "toys" / "toy-again-small-seed0.json"
        kept = path.read_text()
        write_json(path, read_json(path) | {key: ""})
        with pytest.raises(UserError, match=f"{path.name}: {key} = ''.*\n.*so that others can reproduce it"):
            site(rows, made)
        path.write_text(kept)
    assert (made / "index.html").exists()  # the site that was there stays


def test_no_rows_no_site_and_no_other_folder_is_cleared(toys, rows, tmp_path):
    with pytest.raises(UserError, match="`pr2l bench submit RUN` writes them"):
        site(tmp_path / "nothing", tmp_path / "site")
    (tmp_path / "mine").mkdir()
    for name in ("thesis.txt", "index.html", "style.css", "script.js"):  # a page of one's own has such names too
        (tmp_path / "mine" / name).touch()
    with pytest.raises(UserError, match="is not empty and is no leaderboard"):
        site(rows, tmp_path / "mine")
    assert len(list((tmp_path / "mine").iterdir())) == 4
    with pytest.raises(UserError, match="contains the rows themselves"):
        site(rows, rows.parent)


def test_a_site_that_was_stopped_is_made_again(made, rows, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(leaderboard, "_copy", stop)
        site(rows, made)
    assert site(rows, made).exists()


def test_more_methods_than_colours_are_told_apart():
    band = {"at": [0, 1], "value": [0, 1], "low": [0, 1], "high": [0, 1]}
    names = [f"m{number}" for number in range(40)]
    lines = leaderboard._chart("", "", "", dict.fromkeys(names, band), names).lines
    assert len({(line.style, line.css.partition(";")[0]) for line in lines}) == 40, "no colour comes twice"


# Each page in frames as wide as a phone and a desk; what the script finds there becomes the text of this page.
FRAMES = """<!doctype html><body><script>
const found = {}, pages = PAGES;
const frame = (page, width) => new Promise((done) => {
  const one = document.createElement("iframe");
  one.style.cssText = `width:${width}px;height:800px`;
  one.onload = () => done(one.contentDocument);
  one.src = page;
  document.body.append(one);
});
const texts = (inside, column) => [...inside.querySelector("tbody").rows].map((row) => row.cells[column].textContent);
(async () => {
  for (const page of pages) for (const width of [390, 1280]) {
    const inside = await frame(page, width);
    inside.querySelectorAll("details").forEach((one) => { one.open = true; });
    const root = inside.documentElement;
    found[`${page} ${width}`] = root.scrollWidth - root.clientWidth;
  }
  const inside = await frame("index.html", 1280);
  const heading = inside.querySelectorAll("thead th")[1], button = heading.querySelector("button");
  found.orders = [0, 1].map(() => { button.click(); return [heading.getAttribute("aria-sort"), ...texts(inside, 0)]; });
  const better = inside.querySelectorAll("thead th")[4];
  found.last = [0, 1].map(() => { better.querySelector("button").click(); return texts(inside, 0); });
  heading.querySelector("button").click();
  button.click();
  const player = (await frame("toys-toy-colours.html", 390)).querySelector("video");
  player.load();
  if (player.readyState < 1 && !player.error) await new Promise((done) => {
    player.onloadedmetadata = player.onerror = done;
  });
  found.video = [player.duration, player.videoWidth];
  found.said = inside.getElementById("status").textContent;
  const runs = await frame("toys-toy-colours.html", 1280), table = runs.querySelectorAll("table")[1];
  table.querySelectorAll("thead button")[6].click();  // commits
  found.commits = [...table.tBodies[0].rows].map((row) => row.cells[6].textContent.trim());
  const key = runs.querySelector(".legend button"), shown = () =>
    [...runs.querySelectorAll("[data-line=pixels]")].map((part) => part.style.display !== "none");
  found.toggled = [0, 1].map(() => { key.click(); return [key.getAttribute("aria-pressed"), ...shown()]; });
  const narrow = (await frame("index.html", 390)).querySelector(".table");
  found.cue = [narrow.classList.contains("more"), getComputedStyle(narrow.querySelector(".cue")).display];
  const box = narrow.querySelector(".scroll");
  box.scrollLeft = 10000;
  box.dispatchEvent(new Event("scroll"));  // virtual time draws no frames, which would send it
  found.cue.push(narrow.classList.contains("more"));
  inside.querySelector("thead button").click();
  found.names = [...texts(inside, 0), heading.getAttribute("aria-sort")];
  const theme = inside.getElementById("theme"), root = inside.documentElement;
  const ground = () => inside.defaultView.getComputedStyle(inside.body).backgroundColor;
  const state = () => [root.dataset.theme, theme.textContent, ground()];
  found.themes = [0, 1].map(() => { theme.click(); return state(); });
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
})();
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser_tables_sort_themes_change_and_no_page_scrolls_sideways(made, tmp_path):
    names = [path.name for path in made.glob("*.html")]
    (made / "frames.html").write_text(FRAMES.replace("PAGES", json.dumps(names)))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    flags += ("--virtual-time-budget=9000",)
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    place = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *flags, *quiet, place, "--dump-dom", (made / "frames.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    [text] = re.findall("FOUND(.*?)END", done.stdout) or pytest.fail(done.stdout + done.stderr)
    found = json.loads(text)
    assert [found[f"{name} {width}"] for name in names for width in (390, 1280)] == [0, 0] * len(names)
    assert found["orders"] == [["descending", "pixels", "small", "random"], ["ascending", "random", "small", "pixels"]]
    assert found["last"] == [["pixels", "random", "small"], ["random", "pixels", "small"]]  # the baseline has no number
    assert found["video"] == [1, 48]  # seconds and pixels: the browser can play it
    assert found["toggled"] == [["false", False, False], ["true", True, True]], "line and band"
    assert found["cue"] == [True, "block", False], "until the table is scrolled to its end"
    commits = [text.split()[0] for text in found["commits"]]
    assert commits == sorted(commits) and {"12ab000000", "9c00000000"} < set(commits), "by letter, not by 12 and 9"
    assert found["said"] == "Sorted by IQM, ascending"
    assert found["names"] == ["pixels", "random", "small", None]
    said = {theme: text for theme, text, _ in found["themes"]}
    assert said == {"dark": "Switch to light theme", "light": "Switch to dark theme"}, "what the button will do"
    assert found["themes"][0][2] != found["themes"][1][2]


def test_the_commands_from_a_run_to_the_pages(toys, finished, tmp_path):
    runs = [str(finished("colours", "pixels", seed, 2)) for seed in (0, 1)]
    for words in (
        ["submit", *runs, "--out", "rows"],
        ["report", "toys", "--results", "rows", "--out", "report"],
        ["site", "--results", "rows", "--out", "pages"],
    ):
        done = CliRunner().invoke(get_command(app), ["bench", *words])
        assert done.exit_code == 0, done
    assert "toy-colours-pixels-seed0" in (tmp_path / "pages" / "toys-toy-colours.html").read_text()
    assert (tmp_path / "report" / "report.md").exists()


def test_the_committed_rows_make_a_leaderboard(tmp_path):
    committed = DOCS / "results" / "bench"
    made = site(committed, tmp_path / "site").parent
    rows = {path.relative_to(committed) for path in committed.rglob("*") if path.suffix in (".json", ".mp4")}
    built = {path.relative_to(made / "rows") for path in (made / "rows").rglob("*") if path.is_file()}
    assert rows and rows == {path for path in built if path.suffix in (".json", ".mp4")}
    videos = {path.stem for path in rows if path.suffix == ".mp4"}
    assert videos == {path.stem for path in built if path.suffix == ".jpg"}, "each with its poster"

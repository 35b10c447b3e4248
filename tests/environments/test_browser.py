"""The browser driver: virtual time, gestures, pages that misbehave, and what is left after the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pr2l.environments.base import UserError
from pr2l.environments.browser import (
    BrowserOptions,
    Page,
    PageFailure,
    PageSpec,
    Pool,
    ScriptError,
    executable,
    gestures,
    loop,
    shared_pool,
)
from pr2l.environments.browser.process import WATCHER
from tests.environments.browser_pages import HEIGHT, MOVING, TAP, WIDTH, Touch, needs_chromium, spec

TIMEOUT = 2.0  # of a hostile page


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = shared_pool(BrowserOptions(timeout=30.0))
    yield pool
    pool.close()


def run_program(program: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that prints a line once its browser runs; its profile folders are in `folder`."""
    code = f"from tests.environments.browser_pages import *\nfrom pr2l.environments.browser import *\n{program}"
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes whose command line names a profile in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_until_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (processes_of(folder) or list(folder.glob("pr2l-browser-*"))):
        time.sleep(0.1)
    assert processes_of(folder) == []
    assert list(folder.glob("pr2l-browser-*")) == []


# --- virtual time -----------------------------------------------------------------------------------------------------


@needs_chromium
def test_frames_do_not_depend_on_real_time(pool: Pool, tmp_path: Path) -> None:
    page_spec = spec(tmp_path, MOVING)
    steps = (None, TAP, Touch("swipe", 0.5, 0.8, 0.5, 0.2), None)
    episodes = []
    for delay in (0.0, 0.13):
        page = pool.take(page_spec)
        frames = [page.frame]
        for gesture in steps:
            time.sleep(delay)
            page.begin(gesture)
            time.sleep(delay / 2)
            frames.append(page.finish())
        episodes.append(frames)
        page.close()
    assert episodes[0][0].shape == (HEIGHT, WIDTH, 3)
    for first, second in zip(*episodes, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(episodes[0][0], episodes[0][1])  # the page does move


@needs_chromium
def test_time_stands_still_between_steps(pool: Pool, tmp_path: Path) -> None:
    page = pool.take(spec(tmp_path, "<script>let ticks = 0; setInterval(() => ticks++, 10)</script>", settle_ms=200))
    before = page.evaluate("[ticks, Date.now(), performance.now()]")
    time.sleep(0.2)
    assert page.evaluate("[ticks, Date.now(), performance.now()]") == before
    page.advance(150)
    assert page.evaluate("[ticks, Date.now(), performance.now()]") == [before[0] + 15, before[1] + 150, before[2] + 150]
    page.close()


@needs_chromium
def test_animation_frames_come_at_exact_times(pool: Pool, tmp_path: Path) -> None:
    script = "const times = [], f = time => { times.push(time); requestAnimationFrame(f) }; requestAnimationFrame(f)"
    page = pool.take(spec(tmp_path, f"<script>{script}</script>", settle_ms=100, frame_ms=25))
    page.advance(100)
    assert page.evaluate("times")[-5:] == [125, 150, 175, 200, 200]  # two at the end, see Tab
    page.close()


@needs_chromium
def test_frame_follows_a_change_before_its_last_moment(pool: Pool, tmp_path: Path) -> None:
    script = "setTimeout(() => document.body.style.background = 'rgb(0, 255, 0)', 310)"
    page = pool.take(spec(tmp_path, f"<script>{script}</script>", settle_ms=300, frame_ms=20))
    assert page.frame[100, 80].tolist() == [255, 255, 255]
    assert page.advance(100)[100, 80].tolist() == [0, 255, 0]  # changed long before the last frame of the step
    page.close()


# --- gestures ---------------------------------------------------------------------------------------------------------


@needs_chromium
def test_tap_is_trusted_and_exact(pool: Pool, tmp_path: Path) -> None:
    script = "let taps = []; addEventListener('click', e => taps.push([e.clientX, e.clientY, e.isTrusted]))"
    page = pool.take(spec(tmp_path, f"<div style='height: 210px'></div><script>{script}</script>", state="taps"))
    for x, y in ((0.25, 0.5), (1.0, 1.0), (0.0, 0.0)):
        page.begin(Touch("tap", x, y))
        page.finish()
    assert page.state == [[40, 105, True], [159, 209, True], [0, 0, True]]
    page.close()


@needs_chromium
def test_swipe_scrolls_as_far_as_the_finger(pool: Pool, tmp_path: Path) -> None:
    inner = "<div id=list style='height: 100px; overflow: auto'><div style='height: 1000px'></div></div>"
    page = pool.take(spec(tmp_path, inner + "<div style='height: 2000px'></div>", state="[list.scrollTop, scrollY]"))
    for gesture, expected in (
        (Touch("swipe", 0.5, 0.4, 0.5, 0.1), [63, 0]),
        (Touch("swipe", 0.5, 0.1, 0.5, 0.2), [42, 0]),
        (Touch("swipe", 0.5, 0.9, 0.5, 0.4), [42, 105]),
        (Touch("swipe", 0.1, 0.9, 0.9, 0.9), [42, 105]),
    ):
        page.begin(gesture)
        page.finish()
        assert page.state == expected
    page.close()


@needs_chromium
def test_tap_after_a_swipe_is_a_click(pool: Pool, tmp_path: Path) -> None:
    script = "let clicks = 0; addEventListener('click', () => clicks++)"
    page = pool.take(spec(tmp_path, f"<div style='height: 900px'></div><script>{script}</script>", state="clicks"))
    for gesture, clicks in (
        (Touch("swipe", 0.5, 0.8, 0.5, 0.3), 0),
        (TAP, 1),
        (Touch("long_press", 0.5, 0.5), 1),
        (TAP, 2),
    ):
        page.begin(gesture)
        page.finish()
        assert page.state == clicks
    page.close()


@needs_chromium
def test_scale_changes_the_frame_but_not_the_page(pool: Pool, tmp_path: Path) -> None:
    body = (
        "<div style='position: absolute; left: 80px; top: 100px; width: 80px; height: 110px; background: #00f'></div>"
    )
    page = pool.take(spec(tmp_path, body, scale=0.7, state="[innerWidth, innerHeight]"))
    assert page.frame.shape == (147, 112, 3) and page.state == [WIDTH, HEIGHT]
    assert page.frame[72:, 58:].reshape(-1, 3).tolist() == [[0, 0, 255]] * (75 * 54)
    assert (page.frame[:68] == 255).all() and (page.frame[:, :54] == 255).all()
    page.close()


@needs_chromium
def test_options_of_a_list_are_in_the_page(pool: Pool, tmp_path: Path) -> None:
    body = "<select id=one><option>a</option><option>b</option></select><script>let changes = 0</script>"
    page = pool.take(spec(tmp_path, body.replace("id=one", "id=one onchange='changes++'")))
    page.begin(Touch("tap", 0.05, 0.05))
    page.finish()
    box = "(b => [b.left + b.width / 2, b.top + b.height / 2])(document.querySelector('[data-choice=\"1\"]')"
    x, y = page.evaluate(f"{box}.getBoundingClientRect())")
    page.begin(Touch("tap", x / WIDTH, y / HEIGHT))
    page.finish()
    assert page.evaluate("[one.value, changes, document.querySelector('[data-choice]')]") == ["b", 1, None]
    page.close()


@needs_chromium
def test_long_press_holds_for_virtual_time(pool: Pool, tmp_path: Path) -> None:
    script = "let log = []; for (const e of ['touchstart', 'touchend', 'contextmenu']) addEventListener(e, () => "
    page = pool.take(spec(tmp_path, f"<script>{script} log.push([e, Date.now()]))</script>"))
    page.begin(Touch("long_press", 0.5, 0.5))
    page.finish()
    (start, pressed), (end, released) = page.evaluate("log")
    assert (start, end) == ("touchstart", "touchend")
    assert released - pressed == gestures.LONG_PRESS
    page.close()


@needs_chromium
def test_text_arrives_with_key_events(pool: Pool, tmp_path: Path) -> None:
    body = """<form onsubmit="document.title = field.value; return false"><input id=field></form><script>
    let keys = ''; field.addEventListener('keydown', event => keys += event.key)</script>"""
    page = pool.take(spec(tmp_path, body))
    text = "Ab 9.&'é漢"
    for gesture in (Touch("tap", 0.2, 0.03), Touch("type", text=text), Touch("enter")):
        page.begin(gesture)
        page.finish()
    assert page.evaluate("[field.value, document.title, keys]") == [text, text, "Ab 9.&'Enter"]
    page.close()


@needs_chromium
def test_press_sends_a_named_key(pool: Pool, tmp_path: Path) -> None:
    page = pool.take(spec(tmp_path, "<script>addEventListener('keydown', e => last = [e.key, e.keyCode])</script>"))
    page.press("Escape", 27)
    assert page.evaluate("last") == ["Escape", 27]
    page.close()


def test_a_touch_needs_a_place() -> None:
    with pytest.raises(ValueError, match="needs a place"):
        gestures.events(Touch("tap"), WIDTH, HEIGHT)
    assert gestures.events(Touch("home"), WIDTH, HEIGHT) == []


# --- the pool ---------------------------------------------------------------------------------------------------------


@needs_chromium
def test_every_page_is_fresh(pool: Pool, tmp_path: Path) -> None:
    page_spec = spec(tmp_path, "", state="localStorage.length")
    before = pool.counts["ahead"]
    for _ in range(3):
        page = pool.take(page_spec)
        assert page.evaluate("[localStorage.length, document.cookie, typeof leak]") == [0, "", "undefined"]
        page.evaluate("localStorage.x = 1; leak = 1")
        assert page.advance(10) is not None and page.state == 1
        page.close()
    assert pool.counts["ahead"] == before + 2  # all but the first


@needs_chromium
def test_a_script_error_does_not_end_the_page(pool: Pool, tmp_path: Path) -> None:
    page = pool.take(spec(tmp_path, ""))
    with pytest.raises(ScriptError, match="ReferenceError: nobody is not defined"):
        page.evaluate("nobody")
    assert page.evaluate("1 + 1") == 2
    page.close()
    with pytest.raises(PageFailure):
        page.advance(10)


@needs_chromium
def test_begin_and_finish_come_in_pairs(pool: Pool, tmp_path: Path) -> None:
    page = pool.take(spec(tmp_path, ""))
    with pytest.raises(RuntimeError, match="begin first"):
        page.finish()
    page.begin(None)
    with pytest.raises(RuntimeError, match="finish first"):
        page.begin(None)
    page.finish()
    page.close()


@needs_chromium
def test_pages_that_are_not_closed_are_an_error(tmp_path: Path) -> None:
    pool = shared_pool(BrowserOptions(pages=1, spare=0, timeout=30.0))
    page_spec = spec(tmp_path, "")
    page = pool.take(page_spec)
    with pytest.raises(UserError, match="all 1 pages are in use"):
        pool.take(page_spec)
    page.close()
    pool.take(page_spec)
    pool.close()


@needs_chromium
def test_the_last_user_closes_a_shared_pool(tmp_path: Path) -> None:
    options = BrowserOptions(spare=0, timeout=30.0)
    first, second = shared_pool(options), shared_pool(options)
    assert first is second
    first.close()
    second.take(spec(tmp_path, "")).close()
    second.close()
    third = shared_pool(options)
    assert third is not first
    third.close()


@needs_chromium
@pytest.mark.parametrize("scale", [pytest.param(scale, marks=pytest.mark.slow) for scale in (0.5, 1.0, 2.0)] + [0.7])
def test_scale_changes_the_size_of_frames_and_not_the_place_of_touches(
    pool: Pool, tmp_path: Path, scale: float
) -> None:
    script = "let place = []; addEventListener('click', event => place = [event.clientX, event.clientY])"
    state = "[innerWidth, innerHeight, devicePixelRatio, ...place]"
    page = pool.take(spec(tmp_path, f"<script>{script}</script>", scale=scale, state=state))
    page.begin(Touch("tap", x=0.5, y=0.2))
    assert page.finish().shape == (HEIGHT * scale, WIDTH * scale, 3)
    assert page.state == pytest.approx([WIDTH, HEIGHT, scale, WIDTH / 2, HEIGHT / 5])
    page.close()


def test_scale_below_that_of_chromium_is_an_error() -> None:
    with pytest.raises(UserError, match="scale=0.35 is too small"):
        PageSpec("file:///page.html", 100, 100, scale=0.35)


@pytest.mark.slow
@needs_chromium
def test_a_page_that_hangs_does_not_delay_the_pages_of_another_browser(tmp_path: Path) -> None:
    pool = shared_pool(BrowserOptions(browsers=2, timeout=TIMEOUT, spare=0))
    hanging = pool.take(spec(tmp_path, "<script>onclick = () => { while (true) {} }</script>"))
    other = pool.take(spec(tmp_path, MOVING))
    assert pool.counts["browsers"] == 2
    hanging.begin(TAP)
    start = time.monotonic()
    other.begin(TAP)
    other.finish()
    assert time.monotonic() - start < TIMEOUT / 2
    with pytest.raises(PageFailure, match="timeout"):
        hanging.finish()
    pool.close()


def test_a_missing_executable_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(executable.VARIABLE, str(tmp_path / "chromium"))
    with pytest.raises(UserError, match="is not an executable file.*apt-get install chromium-headless-shell"):
        shared_pool(BrowserOptions(browsers=3))
    monkeypatch.delenv(executable.VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(executable, "PLACES", ())
    with pytest.raises(UserError, match="was not found"):
        executable.find()


def test_an_executable_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho libnss3.so: cannot open shared object file >&2; exit 127\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv(executable.VARIABLE, str(program))
    pool = shared_pool(BrowserOptions(browsers=2))
    with pytest.raises(UserError, match="did not start.*\nlibnss3.so: cannot open"):
        pool.take(spec(tmp_path, ""))
    pool.close()


# --- hostile pages ----------------------------------------------------------------------------------------------------

SURVIVED = {
    "alert": ("alert(1); confirm(2); prompt(3)", {"dialogs": 3}),
    "window": ("window.open('about:blank'); window.open('https://example.com')", {"windows": 2}),
    "download": ("location = 'data:application/octet-stream,abc'", {}),
    "error": ("null.x", {}),
}
FATAL = {
    "loop": ("while (true) {}", "timeout"),
    "alert loop": ("while (true) alert(1)", "timeout"),
    "timer loop": ("const again = () => Promise.resolve().then(again); again()", "timeout"),
    "navigation": ("location = 'http://127.0.0.1:9/x'", "navigation"),
}


def hostile(script: str) -> str:
    return f"<div style='height: 210px' onclick=\"{script}\"></div>"


@needs_chromium
@pytest.mark.parametrize("name", SURVIVED)
def test_page_survives(name: str, pool: Pool, tmp_path: Path) -> None:
    script, counts = SURVIVED[name]
    before = dict(pool.counts)
    page = pool.take(spec(tmp_path, hostile(script)))
    page.begin(TAP)
    page.finish()
    page.begin(TAP)
    page.finish()
    assert {key: pool.counts[key] - before.get(key, 0) for key in counts} == {k: 2 * n for k, n in counts.items()}
    page.close()


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("name", FATAL)
def test_page_fails_and_others_go_on(name: str, tmp_path: Path) -> None:
    script, reason = FATAL[name]
    pool = shared_pool(BrowserOptions(timeout=TIMEOUT, spare=0))
    other = pool.take(spec(tmp_path, MOVING))
    page_spec = spec(tmp_path, hostile(script))
    page = pool.take(page_spec)
    page.begin(TAP)
    with pytest.raises(PageFailure) as caught:
        page.finish()
        page.advance(1000)
    assert caught.value.reason == reason
    with pytest.raises(PageFailure, match=reason):
        page.evaluate("1")
    page.close()
    other.begin(TAP)
    assert other.finish().shape == (HEIGHT, WIDTH, 3)
    fresh = pool.take(page_spec)
    assert fresh.evaluate("1 + 1") == 2
    assert pool.counts[reason] == 1 and pool.counts["browsers"] == 1
    pool.close()


@needs_chromium
def test_a_crashed_page_fails(tmp_path: Path) -> None:
    pool = shared_pool(BrowserOptions(timeout=30.0, spare=0))
    page, other = pool.take(spec(tmp_path, MOVING)), pool.take(spec(tmp_path, MOVING))
    crash = page._tab._ask("Page.crash", {}, page=True)
    with pytest.raises(PageFailure, match="crash"):
        loop.run(page._tab._guarded(crash))
    with pytest.raises(PageFailure, match="crash"):
        page.advance(10)
    page.close()
    assert other.advance(10).shape == (HEIGHT, WIDTH, 3)
    pool.take(spec(tmp_path, "")).close()
    assert pool.counts["crash"] == 1 and pool.counts["browsers"] == 1
    pool.close()


@needs_chromium
def test_a_start_that_fails_is_repeated_in_other_pages(tmp_path: Path) -> None:
    pool = shared_pool(BrowserOptions(timeout=30.0, spare=0))
    page_spec, pages = spec(tmp_path, MOVING), []

    def crash(page: Page) -> None:
        loop.run(page._tab._guarded(page._tab._ask("Page.crash", {}, page=True)))

    def crash_twice(page: Page) -> int:
        pages.append(page)
        if len(pages) < 3:
            crash(page)
        return len(pages)

    page, result = pool.start(page_spec, crash_twice)
    assert result == 3 and page is pages[2] and page.advance(10).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(PageFailure, match="crash"):
        pool.start(page_spec, crash)
    with pytest.raises(ScriptError):
        pool.start(page_spec, lambda page: page.evaluate("unknown"))
    page.close()
    assert loop.run(lent(pool)) == 0 and pool.counts["crash"] == 5 and pool.counts["taken"] == 7
    pool.close()


async def lent(pool: Pool) -> int:
    """Return the number of pages in use, after the event loop has closed those that were given back."""
    return pool._lent


@needs_chromium
def test_a_page_that_does_not_exist(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(PageFailure, match="ERR_FILE_NOT_FOUND"):
        pool.take(PageSpec((tmp_path / "absent.html").as_uri(), WIDTH, HEIGHT))


@needs_chromium
@pytest.mark.parametrize("delay", [0, *(pytest.param(ms / 1000, marks=pytest.mark.slow) for ms in range(10, 200, 10))])
def test_a_killed_browser_is_replaced(delay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any time while a spare page opens, it delays nobody until a time-out."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pool = shared_pool(BrowserOptions(timeout=29.0))
    page_spec = spec(tmp_path, MOVING)
    page, start = pool.take(page_spec), time.monotonic()
    time.sleep(delay)
    watcher = next(process for process in processes_of(tmp_path) if str(WATCHER) in process.cmdline())
    watcher.children()[0].kill()
    with pytest.raises(PageFailure, match="browser"):
        page.begin(TAP)
        page.finish()
    page.close()
    fresh = pool.take(page_spec)
    assert fresh.frame.shape == (HEIGHT, WIDTH, 3) and time.monotonic() - start < 15
    assert pool.counts["browsers"] == 2 and pool.counts["browser"] >= 1
    pool.close()
    wait_until_nothing_is_left(tmp_path)


@needs_chromium
def test_a_closed_pool_leaves_no_file_open(pool: Pool, tmp_path: Path) -> None:
    """Beside those of the event loop and of another pool."""
    pool.take(spec(tmp_path, MOVING)).close()
    before = psutil.Process().num_fds()
    own = shared_pool(BrowserOptions(timeout=28.0))
    own.take(spec(tmp_path, MOVING)).close()
    assert psutil.Process().num_fds() > before
    own.close()
    assert psutil.Process().num_fds() == before


# --- no network -------------------------------------------------------------------------------------------------------


@needs_chromium
def test_no_request_reaches_a_server(pool: Pool, tmp_path: Path) -> None:
    received: list[object] = []
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def listen() -> None:
        while True:
            try:
                received.append(server.accept()[1])
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    script = """window.errors = [];
    for (const host of ['127.0.0.1', 'localhost', '[::1]', 'example.com']) {
        const url = `//${host}:PORT/x`;
        fetch('http:' + url).then(() => errors.push('no error'), error => errors.push(error.name));
        new Image().src = 'http:' + url;
        const socket = new WebSocket('ws:' + url); socket.onerror = () => errors.push('socket');
        navigator.sendBeacon('http:' + url, 'x');
    }"""
    page = pool.take(spec(tmp_path, f"<script>{script.replace('PORT', str(port))}</script>"))
    for _ in range(10):
        time.sleep(0.05)  # for the network service, which runs in real time
        page.advance(100)
    assert sorted(page.evaluate("errors")) == ["TypeError"] * 4 + ["socket"] * 4
    page.close()
    with socket.create_connection(("127.0.0.1", port)):  # the server does work
        time.sleep(0.1)
    server.close()
    assert len(received) == 1


# --- what is left -----------------------------------------------------------------------------------------------------

TAKE = """
import pathlib, sys
pool = shared_pool()
page = pool.take(spec(pathlib.Path(sys.argv[1]), ''))
print('ready', flush=True)
"""


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("end", ["exit", "exception", "kill"])
def test_nothing_is_left(end: str, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    last = {"exit": "", "exception": "raise SystemError", "kill": "import time; time.sleep(60)"}[end]
    program = run_program(TAKE + last, tmp_path, str(pages))
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    if end == "kill":
        assert processes_of(tmp_path)
        program.send_signal(signal.SIGKILL)
    program.wait(60)
    program.stdout.close()
    wait_until_nothing_is_left(tmp_path)


FORK = """
import os, pathlib, sys, time
pages = pathlib.Path(sys.argv[1])
page = shared_pool().take(spec(pages, ''))
if os.fork() == 0:
    own = shared_pool()
    assert own.take(spec(pages, '')).evaluate('1 + 1') == 2
    own.close()
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@needs_chromium
@pytest.mark.slow
def test_a_forked_child_has_its_own_browsers_and_keeps_none_of_the_parent(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    program = run_program(FORK, tmp_path, str(pages))
    assert program.stdout is not None
    child = psutil.Process(int(program.stdout.readline()))
    program.kill()
    program.wait(60)
    assert child.is_running()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and list(tmp_path.glob("pr2l-browser-*")):
        time.sleep(0.1)
    assert list(tmp_path.glob("pr2l-browser-*")) == []
    child.kill()
    program.stdout.close()
    wait_until_nothing_is_left(tmp_path)

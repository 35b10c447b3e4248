"""The phone's page: what it shows, what touches change, and that a state and touches decide the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pr2l.environments.browser import BrowserOptions, Pool, shared_pool
from pr2l.environments.common.screen_actions import ScreenAction
from pr2l.environments.phone import words
from pr2l.environments.phone.diff import diff
from pr2l.environments.phone.state import validate
from tests.environments.browser_pages import needs_chromium
from tests.environments.phone_document import APPS, document
from tests.environments.phone_page import SPEC, Phone

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = shared_pool(BrowserOptions(spare=0, timeout=30.0))
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def shared_phone(pool: Pool) -> Iterator[Phone]:
    page = pool.take(SPEC)
    yield Phone(page, document())
    page.close()


@pytest.fixture
def phone(shared_phone: Phone) -> Phone:
    shared_phone.show(document())
    return shared_phone


def contents(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without what is on the screen."""
    return {key: value for key, value in state.items() if key != "screen"}


def changes(phone: Phone, lines: list[str]) -> list[str]:
    """Return what steps change, apart from the screen."""
    before = contents(phone.state)
    for line in lines:
        phone.do(line)
    validate(phone.state)
    return [str(change) for change in diff(before, contents(phone.state))]


# --- the state --------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was_set(phone: Phone) -> None:
    state = document()
    validate(state)
    shown = phone.state
    assert contents(shown) == contents(state)
    assert {key: shown["screen"][key] for key in state["screen"]} == state["screen"]
    phone.show(shown)
    assert phone.state == shown


def test_the_fonts_are_there_before_the_first_frame(pool: Pool) -> None:
    page = pool.take(SPEC)
    fonts = page.evaluate("[...document.fonts].map((face) => [face.family, face.status])")
    page.close()
    assert fonts == [["Roboto", "loaded"], ["Roboto", "loaded"], ["Material Icons", "loaded"]]


def test_an_open_page_with_a_draft_comes_back(phone: Phone) -> None:
    for line in ("launcher/Contacts", "Contacts/New contact", "Contacts/First name", "type Zo"):
        phone.do(line)
    before, state, frame = phone.names(), phone.state, phone.page.advance(100)
    phone.show(document())
    phone.show(state)
    assert phone.names() == before and phone.state == state
    # Chromium paints only what has changed, which can round the colours of a smooth edge in another way.
    assert np.abs(phone.page.advance(100).astype(int) - frame).max() <= 1


# --- the apps ---------------------------------------------------------------------------------------------------------

CONTENTS = {
    "Settings": ["Settings/Network & internet", "Settings/Display"],
    "Contacts": ["Contacts/Ada Lovelace", "Contacts/Emma Larsen", "Contacts/New contact"],
    "Messages": ["Messages/Ada Lovelace", "Messages/Ben Okafor", "Messages/5559999"],
    "Clock": ["Clock/06:30 Gym", "Clock/06:30 Gym switch", "Clock/08:00"],
    "Calendar": ["Calendar/15", "Calendar/Dentist", "Oct 2023"],
    "Notes": ["Notes/Groceries", "Notes/Budget"],
    "Shop": ["Shop/Red kettle", "Shop/Cart"],
    "Browser": ["Browser/Openpedia", "Browser/openpedia.web/wiki/Otter"],
    "Expenses": ["Expenses/Lunch", "Expenses/Bus ticket", "Total $15.90"],
    "Files": ["Files/Download", "Files/Music"],
    "Tasks": ["Tasks/Buy stamps", "Tasks/Buy stamps done", "Tasks/Call the bank"],
}


@pytest.mark.parametrize("app", APPS)
def test_an_app_opens_and_shows_its_rows(phone: Phone, app: str) -> None:
    phone.do(f"launcher/{app}")
    assert phone.state["screen"]["app"] == app and phone.state["screen"]["recent_apps"] == [app]
    assert set(CONTENTS[app]) <= set(phone.names())
    phone.do("back")
    assert phone.state["screen"]["app"] == "launcher"


def read_flows() -> dict[str, tuple[list[str], list[str]]]:
    """Return the steps and the changes of each flow in phone_flows.txt."""
    flows = {}
    for section in (Path(__file__).parent / "phone_flows.txt").read_text().split("\n# ")[1:]:
        name, *lines = section.strip().splitlines()
        steps = " ".join(line for line in lines if not line.startswith("= ")).split(" > ")
        flows[name] = (steps, [line.removeprefix("= ") for line in lines if line.startswith("= ")])
    return flows


FLOWS = read_flows()


@pytest.mark.parametrize("flow", FLOWS)
def test_touches_change_the_state_exactly(phone: Phone, flow: str) -> None:
    lines, expected = FLOWS[flow]
    assert sorted(changes(phone, lines)) == sorted(expected)


# --- buttons, keyboard, shade, swipes ---------------------------------------------------------------------------------


def test_back_closes_the_keyboard_the_dialog_the_page_and_the_app(phone: Phone) -> None:
    for line in ("launcher/Files", "Files/Music", "Files/waltz.mp3", "Files/Rename", "Files/Name"):
        phone.do(line)
    seen = []
    for _ in range(6):
        screen = phone.state["screen"]
        seen.append((screen["app"], screen["page"], screen["dialog"], screen["keyboard"]))
        phone.do("back")
    assert seen == [
        ("Files", "file/f3", "rename/f3", "letters"),
        ("Files", "file/f3", "rename/f3", None),
        ("Files", "file/f3", None, None),
        ("Files", "folder/Music", None, None),
        ("Files", "main", None, None),
        ("launcher", "home", None, None),
    ]
    assert phone.state["screen"]["recent_apps"] == ["Files"]


def test_home_leaves_an_app(phone: Phone) -> None:
    for line in ("launcher/Notes", "Notes/Budget", "home"):
        phone.do(line)
    assert phone.state["screen"]["app"] == "launcher" and "launcher/Notes" in phone.names()


def test_the_keyboard_types_letters_capitals_and_symbols(phone: Phone) -> None:
    for line in ("launcher/Notes", "Notes/Search"):
        phone.do(line)
    keys = ("a", "shift", "B", "c", "space", "?123", "7", "@", "abc", "x", "backspace", "d")
    for key in keys:
        phone.do(f"keyboard/{key}")
    assert phone.state["screen"]["draft"] == {"query": "aBc 7@d"}
    phone.do("keyboard/enter")
    assert phone.state["screen"]["keyboard"] is None


def test_typing_without_a_field_changes_nothing(phone: Phone) -> None:
    before = phone.state
    phone.do("type hello")
    assert phone.state == before


def test_the_shade_opens_switches_and_clears(phone: Phone) -> None:
    phone.do(ScreenAction("swipe", 0.5, 0.01, 0.5, 0.6))
    assert phone.state["screen"]["shade_open"]
    assert "shade/Dentist at 16:00" in phone.names()
    assert changes(phone, ["shade/Bluetooth", "shade/Dismiss Dentist at 16:00"]) == [
        "settings/bluetooth changed from false to true",
        'notifications/w1 removed: {"id": "w1", "app": "Calendar", "title": "Dentist at 16:00", "text": "Room 12"}',
    ]
    phone.do(ScreenAction("swipe", 0.5, 0.9, 0.5, 0.3))
    assert not phone.state["screen"]["shade_open"]


def test_a_swipe_scrolls_by_its_length(phone: Phone) -> None:
    phone.do("launcher/Shop")
    assert "Shop/Water bottle" not in phone.names()
    phone.do(ScreenAction("swipe", 0.5, 0.8, 0.5, 0.3))
    assert phone.state["screen"]["scroll"] == 320
    phone.do(ScreenAction("swipe", 0.5, 0.3, 0.5, 0.8))
    assert phone.state["screen"]["scroll"] == 0


def test_a_slider_follows_the_finger(phone: Phone) -> None:
    for line in ("launcher/Settings", "Settings/Display"):
        phone.do(line)
    x, y = phone.at("Settings/Brightness slider")
    phone.do(ScreenAction("swipe", x, y, 0.99, y))
    assert phone.state["settings"]["brightness"] == 100
    phone.do("Settings/Brightness slider")
    assert phone.state["settings"]["brightness"] == 50
    phone.do(ScreenAction("swipe", x, y, x + 0.1, 0.9))  # down rather than to the right
    assert phone.state["settings"]["brightness"] == 50


@pytest.mark.parametrize(
    "url", ["megamart.web/50%", "megamart.web/product/x", "openpedia.web/wiki", "nothing.web", "surveycorner.web/x/y"]
)
def test_a_wrong_url_shows_that_nothing_was_found(phone: Phone, url: str) -> None:
    for line in ("launcher/Browser", "Browser/Address", f"type {url}", "enter"):
        phone.do(line)
    assert f"The page {url} cannot be found." in phone.names()


def test_back_in_the_browser_shows_the_page_before(phone: Phone) -> None:
    for line in ("launcher/Browser", "Browser/Openpedia", "Browser/Animals", "Browser/Beaver"):
        phone.do(line)
    urls = []
    for _ in range(4):
        urls.append(phone.state["browser"]["url"])
        phone.do("back")
    assert urls == ["openpedia.web/wiki/Beaver", "openpedia.web/category/Animals", "openpedia.web", None]
    assert phone.state["screen"]["app"] == "launcher"


# Touches elements of each app at random, seldom keys, and sometimes the buttons; returns the errors. An icon is one
# glyph as wide as high; the font shows unknown names as letters.
RANDOM_TOUCHES = """
(seed, count) => {
  const errors = [];
  window.onerror = (message) => errors.push(message);
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const touch = ({ box: [x0, y0, x1, y1] }) => {
    const clientX = (x0 + x1) / 2, clientY = (y0 + y1) / 2, target = document.elementFromPoint(clientX, clientY);
    for (const type of ["pointerdown", "pointerup"]) {
      target.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX, clientY, isPrimary: true }));
    }
  };
  const font = document.createElement("canvas").getContext("2d");
  font.font = "24px Material Icons";
  const checkIcons = () => {
    for (const { dataset: { icon } } of document.querySelectorAll("[data-icon]")) {
      if (font.measureText(icon).width !== 24) errors.push(`no icon ${icon}`);
    }
  };
  const step = () => {
    const choice = random(), roles = choice < 0.1 ? ["text", "outside"] : ["text", "outside", "key"];
    const found = phone.elements().filter(({ role }) => !roles.includes(role));
    if (choice > 0.97) phone.enter();
    else if (choice > 0.9 || !found.length) phone.back();
    else touch(found[Math.floor(random() * found.length)]);
    checkIcons();
  };
  for (const app of Object.keys(phone.apps)) {
    phone.openApp(app);
    phone.draw();
    for (let at = 0; at < count; at++) step();
  }
  return errors;
}
"""


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_random_touches_raise_no_error_and_keep_the_state_valid(phone: Phone, seed: int) -> None:
    assert phone.page.evaluate(f"({RANDOM_TOUCHES})({seed * 1000}, 50)") == []
    validate(phone.state)


ODD = ["", "a/b?c=d&e", '"><b>bold</b>', "%2F%", "Zoë\n\U0001f600", "x" * 300]
TEXTS = {
    "contacts": ("first_name", "last_name", "phone", "email"),
    "messages": ("name_or_number", "text"),
    "alarms": ("label",),
    "events": ("title", "location", "description"),
    "notes": ("title", "body", "folder"),
    "expenses": ("name", "category", "note"),
    "files": ("name",),
    "tasks": ("title",),
    "notifications": ("title", "text"),
}


@pytest.mark.parametrize("odd", [ODD[1], *(pytest.param(text, marks=pytest.mark.slow) for text in ODD)])
def test_odd_texts_are_only_texts(phone: Phone, odd: str) -> None:
    state = document()
    for name, fields in TEXTS.items():
        for row in state[name]:
            row.update(dict.fromkeys(fields, odd))
    state["browser"].update(bookmarks=[odd], history=[odd])
    state["settings"]["device_name"] = odd
    phone.show(state)
    assert contents(phone.state) == contents(state)
    assert phone.page.evaluate(f"({RANDOM_TOUCHES})(7, 40)") == []
    validate(phone.state)


# --- elements ---------------------------------------------------------------------------------------------------------

SCREENS = [
    [],
    ["launcher/Contacts", "Contacts/New contact", "Contacts/First name"],
    ["launcher/Messages", "Messages/Ben Okafor"],
    ["launcher/Clock"],
    ["launcher/Clock", "Clock/New alarm", "Clock/Time"],
    ["launcher/Calendar"],
    ["launcher/Calendar", "Calendar/New event", "Calendar/Date"],
    ["launcher/Notes", "Notes/Budget"],
    ["launcher/Shop", "Shop/Cart"],
    ["launcher/Browser", "Browser/Megamart"],
    ["launcher/Browser", "Browser/Survey Corner", "Browser/Lunch order"],
    ["launcher/Tasks", "Tasks/Buy stamps"],
    ["launcher/Settings", "Settings/Display"],
]


def overlap(one: list[float], other: list[float]) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) + 0.1 and min(one[3], other[3]) > max(one[1], other[1]) + 0.1


@pytest.mark.parametrize(
    "font", ["normal", pytest.param("small", marks=pytest.mark.slow), pytest.param("large", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("lines", SCREENS, ids=lambda lines: lines[-1] if lines else "launcher")
def test_boxes_are_apart_and_reached_by_touches(phone: Phone, lines: list[str], font: str) -> None:
    state = document()
    state["look"]["font"] = font
    phone.show(state)
    for line in lines:
        phone.do(line)
    elements = phone.elements
    boxes = {element["name"]: element["box"] for element in elements}
    assert len(boxes) == len(elements)
    assert [pair for pair in combinations(boxes, 2) if overlap(boxes[pair[0]], boxes[pair[1]])] == []
    for name, role, (x0, y0, x1, y1) in ((element["name"], element["role"], element["box"]) for element in elements):
        assert 0 <= x0 < x1 <= 360 and 0 <= y0 < y1 <= 640
        hit = f"document.elementFromPoint({(x0 + x1) / 2}, {(y0 + y1) / 2})"
        if role != "text":
            assert name.startswith(phone.page.evaluate(f"{hit}.closest('[data-name]').dataset.name"))


def test_values_and_texts_of_elements(phone: Phone) -> None:
    for line in ("launcher/Settings", "Settings/Display"):
        phone.do(line)
    elements = {element["name"]: element for element in phone.elements}
    switch, slider = elements["Settings/Dark theme switch"], elements["Settings/Brightness slider"]
    assert (switch["role"], switch["value"], switch["text"]) == ("switch", False, "Dark theme")
    assert (slider["role"], slider["value"]) == ("slider", 60)
    assert elements["15:34"]["role"] == "text"


def test_rows_of_the_same_name_are_numbered(phone: Phone) -> None:
    state = document()
    state["contacts"][1].update(first_name="Ada", last_name="Lovelace")
    phone.show(state)
    phone.do("launcher/Contacts")
    assert [name for name in phone.names() if "Ada" in name] == ["Contacts/Ada Lovelace", "Contacts/Ada Lovelace (2)"]


def test_nothing_below_an_open_dialog_can_be_touched(phone: Phone) -> None:
    for line in ("launcher/Contacts", "Contacts/Ben Okafor", "Contacts/Delete"):
        phone.do(line)
    named = [element["name"] for element in phone.elements if element["role"] != "text"]
    assert named == ["Contacts/dialog/Cancel", "Contacts/dialog/Delete"]


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_the_same_state_and_touches_give_the_same_pixels(pool: Pool) -> None:
    lines = [
        "launcher/Contacts",
        "Contacts/New contact",
        "Contacts/First name",
        "type Zoe",
        "keyboard/s",
        "Contacts/Save",
        "back",
    ]
    episodes = []
    for _ in range(2):
        page = pool.take(SPEC)
        phone = Phone(page, document())
        episodes.append([page.advance(100), *(phone.do(line) for line in lines)])
        page.close()
    assert np.array_equal(*episodes)
    assert len({frame.tobytes() for frame in episodes[0]}) == len(lines) + 1  # every step changes the screen


@pytest.mark.parametrize(
    ("look", "lines"),
    [
        ({"dark": True}, ["launcher/Settings"]),
        ({"font": "small"}, ["launcher/Settings"]),
        ({"font": "large"}, ["launcher/Settings"]),
        ({"accent": "#006a6a"}, ["launcher/Settings"]),
        ({"wallpaper": 3}, []),
        ({"icon_order": APPS[::-1]}, []),
    ],
    ids=str,
)
def test_looks_differ(phone: Phone, look: dict[str, Any], lines: list[str]) -> None:
    frames = []
    for change in ({}, look):
        state = document()
        state["look"].update(change)
        phone.show(state)
        for line in lines:
            phone.do(line)
        frames.append(phone.page.advance(100))
    assert np.abs(frames[0].astype(int) - frames[1]).max() > 5


def test_the_page_knows_the_words_of_the_tasks(phone: Phone) -> None:
    """Accents have colours, and folders, categories, ringtones and cities can be chosen."""
    for accent in words.ACCENTS:
        state = document()
        state["look"]["accent"] = accent
        phone.show(state)
        assert phone.page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--f7-md-primary')")
    for line in ("launcher/Settings", "Settings/Sound & vibration", "Settings/Ringtone"):
        phone.do(line)
    assert {f"Settings/dialog/{name}" for name in words.RINGTONES} <= set(phone.names())

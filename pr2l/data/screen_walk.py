"""Random walks over the phone's screens: what each screen shows, and which actions change it.

A walk starts in a random app of a random state and acts at random: it touches elements and other points, types, scrolls
and opens the notification shade. No action of a policy and no reward plays a role.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from pr2l.core.types import Frame, Labels
from pr2l.data.screen_texts import Split, choices, draw_word, reword
from pr2l.environments.browser import Page, PageSpec
from pr2l.environments.common.screen_actions import ScreenAction, format, parse
from pr2l.environments.phone import generate, words
from pr2l.environments.phone.state import APPS, Document
from pr2l.environments.phone.static_data import WEB

WIDTH, HEIGHT = 360, 640  # CSS pixels
EVALUATION_APPS = ("Expenses", "Files", "Tasks")
EVALUATION_ACCENTS = words.ACCENTS[4:]
EVALUATION_WALLPAPERS = (4, 5)

LONGEST_WALK = 12  # screens
LONGEST_STAY = 2  # screens on the launcher or the notification shade, which nearly every walk meets
TRIES = 4  # actions on one screen, until one of them changes it
TOUCHES = ("tap", "tap", "tap", "tap", "tap", "long_press")
RARE_ROLES = ("key", "outside")  # touched less often: a keyboard has 30 keys
RARE = 0.1

# The words on the screen, their boxes, and the edges of their letters from left to right, in CSS pixels: words of which
# the screen shows every letter. An ellipsis covers letters without moving them, so the end of a cut text is left out.
WORDS = r"""(() => {
  const found = [], ELLIPSIS = 24;
  const shown = (node, box) => {
    for (let area = node.parentElement; area; area = area.parentElement) {
      const edge = area.getBoundingClientRect(), cut = area.scrollWidth > area.clientWidth + 1 && area.clientWidth;
      if (getComputedStyle(area).overflow === "visible" && !cut) continue;
      const right = cut ? edge.right - ELLIPSIS : edge.right + 1;
      if (box.left < edge.left - 1 || box.right > right || box.top < edge.top - 1 || box.bottom > edge.bottom + 1)
        return false;
    }
    const top = document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2);
    return top && (top.contains(node.parentElement) || node.parentElement.contains(top));
  };
  const walker = document.createTreeWalker(document.getElementById("phone"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    for (const match of node.data.matchAll(/\S+/g)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const boxes = range.getClientRects(), [box] = boxes;
      if (boxes.length !== 1 || box.width < 2 || !shown(node, box)) continue;
      const edges = [...match[0]].map((letter, index) => {
        range.setStart(node, match.index + index);
        return range.getBoundingClientRect().left;
      });
      found.push([match[0], [box.left, box.top, box.right, box.bottom], [...edges, box.right]]);
    }
  }
  return found;
})()"""
LOOK = f"[phone.elements(), {WORDS}, phone.getState().screen]"


@dataclass(frozen=True)
class Screen:
    """A screen, what is on it, and actions that were tried on it.

    Args:
        frame: uint8 [H, W, 3].
        labels: The elements, each {"name", "box" in pixels of the frame, "distance": 0.0, "role", "text", "value"};
            see environments/phone/web/README.md.
        words: The words, each (text, box in pixels of the frame).
        edges: For each word, the left edges of its letters and the right edge of the last one, in pixels of the frame.
        screen: What is open: {"app", "page", "dialog", "keyboard", "shade"}, the last three a name or None.
        actions: Actions in their text form and whether they changed the frame. Only the last one can have changed it;
            its result is the next screen of the walk.
    """

    frame: Frame
    labels: Labels
    words: list[tuple[str, list[float]]]
    edges: list[list[float]]
    screen: dict[str, str | None]
    actions: list[tuple[str, bool]]


def page_spec(scale: float) -> PageSpec:
    """Return the phone's page.

    Args:
        scale: Pixels of a frame per CSS pixel.
    """
    return PageSpec((WEB / "index.html").as_uri(), WIDTH, HEIGHT, scale=scale)


def random_screen_state(rng: Random, apps: Split, themes: Split, texts: Split) -> Document:
    """Return a random state with a random app in front.

    Args:
        rng: Random generator.
        apps: Side of the split of apps. Apps of the other side have neither an icon nor a notification.
        themes: Side of the split of accent colours and wallpapers.
        texts: Side of the split of words.
    """
    mine = choices(APPS, apps, EVALUATION_APPS)
    state = generate.random_state(rng, generate.random_look(rng))
    state["look"] |= {
        "accent": rng.choice(choices(words.ACCENTS, themes, EVALUATION_ACCENTS)),
        "wallpaper": rng.choice(choices(range(6), themes, EVALUATION_WALLPAPERS)),
        "icon_order": [app for app in state["look"]["icon_order"] if app in mine],
    }
    state["notifications"] = [row for row in state["notifications"] if row["app"] in mine]
    reword(state, rng, texts)
    state["screen"] = _first_screen(rng, mine, state)
    return state


def _first_screen(rng: Random, apps: Sequence[str], state: Document) -> Document:
    """Return what is open at first: an app, a conversation, which has the most words, or the launcher."""
    if rng.random() < 0.1:
        return {"app": "launcher", "page": "home", "shade_open": rng.random() < 0.5}
    app = rng.choice(apps)
    if app == "Messages" and rng.random() < 0.7:
        return {"app": app, "page": f"thread/{rng.choice(state['messages'])['name_or_number']}"}
    return {"app": app, "page": "main"}


def walk(page: Page, rng: Random, apps: Split, themes: Split, texts: Split) -> Iterator[Screen]:
    """Yield the screens of one walk, until it leaves the apps of its side or no action changes the screen.

    It also ends after LONGEST_WALK screens, and after LONGEST_STAY of them that show no app.

    Args:
        page: A page of `page_spec`.
        rng: Random generator; with the sides it determines the walk.
        apps: Side of the split of apps.
        themes: Side of the split of accent colours and wallpapers.
        texts: Side of the split of words.
    """
    mine = {"launcher", *choices(APPS, apps, EVALUATION_APPS)}
    state = random_screen_state(rng, apps, themes, texts)
    page.evaluate(f"phone.setState({json.dumps(state)})")
    frame, stay = page.advance(100), 0
    for _ in range(LONGEST_WALK):
        elements, shown_words, screen = page.evaluate(LOOK)
        stay += screen["app"] == "launcher" or screen["shade_open"]
        if screen["app"] not in mine or stay > LONGEST_STAY:
            return
        before, actions = frame, list[tuple[str, bool]]()
        while len(actions) < TRIES and not (actions and actions[-1][1]):
            action = parse(format(draw_action(rng, elements, screen["keyboard"] is not None, texts)))
            frame = perform(page, action)
            actions.append((format(action), not np.array_equal(frame, before)))
        scale = before.shape[1] / WIDTH
        yield Screen(before, _labels(elements, scale), *scaled_words(shown_words, scale), _open(screen), actions)
        if not actions[-1][1]:
            return


def perform(page: Page, action: ScreenAction) -> Frame:
    """Perform an action and return the frame after it."""
    if action.type in ("back", "home"):
        page.evaluate(f"phone.{action.type}()")
    page.begin(action)
    return page.finish()


def draw_action(rng: Random, elements: Sequence[dict[str, Any]], keyboard: bool, texts: Split) -> ScreenAction:
    """Draw a random action.

    Args:
        rng: Random generator.
        elements: The elements of the screen, as `phone.elements()` returns them.
        keyboard: Whether the keyboard is open, so that a typed text arrives.
        texts: Side of the split of words, for typed texts.
    """
    kind = rng.random()
    touchable = [element for element in elements if element["role"] != "text"]
    if keyboard and kind < 0.35 or kind < 0.02:
        return ScreenAction("type", text=" ".join(draw_word(rng, texts) for _ in range(rng.randint(1, 2))))
    if kind < 0.5 or (touchable and kind < 0.72):
        if touchable and kind < 0.66:
            weights = [RARE if element["role"] in RARE_ROLES else 1.0 for element in touchable]
            return ScreenAction(rng.choice(TOUCHES), *_point(rng, rng.choices(touchable, weights)[0]["box"]))  # type: ignore[arg-type]
        return ScreenAction("tap", rng.random(), rng.random())
    if kind < 0.9:
        return _swipe(rng)
    return ScreenAction("back" if kind < 0.96 else "home" if kind < 0.98 else "enter")


def _point(rng: Random, box: Sequence[float]) -> tuple[float, float]:
    """Return a point in the middle half of a box in CSS pixels, as fractions of the screen."""
    x0, y0, x1, y1 = box
    across, down = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
    return (x0 + across * (x1 - x0)) / WIDTH, (y0 + down * (y1 - y0)) / HEIGHT


def _swipe(rng: Random) -> ScreenAction:
    """Return a swipe that scrolls down, scrolls up, or pulls the notification shade."""
    x, kind = rng.uniform(0.2, 0.8), rng.random()
    start, end = (0.75, rng.uniform(0.2, 0.5)) if kind < 0.6 else (0.3, rng.uniform(0.5, 0.8))
    if kind > 0.85:
        start, end = 0.01, 0.5
    return ScreenAction("swipe", x, start, x, end)


def _labels(elements: Sequence[dict[str, Any]], scale: float) -> Labels:
    keys = ("name", "role", "text", "value")
    return [
        {**{key: element[key] for key in keys}, "box": _scaled(element["box"], scale), "distance": 0.0}
        for element in elements
    ]


def scaled_words(words: Sequence[tuple[str, list[float], list[float]]], scale: float) -> tuple[Any, Any]:
    """Return the words that WORDS finds, each with its box, and the edges of their letters, in pixels of a frame.

    Args:
        words: Texts with their boxes and edges in CSS pixels.
        scale: Pixels of a frame per CSS pixel.
    """
    boxes = [(text, _scaled(box, scale)) for text, box, _ in words]
    return boxes, [_scaled(edges, scale) for _, _, edges in words]


def _scaled(sides: Sequence[float], scale: float) -> list[float]:
    return [round(scale * side, 2) for side in sides]


def _open(screen: dict[str, Any]) -> dict[str, str | None]:
    """Return what is open, with the names of page and dialog without their arguments."""
    return {
        "app": screen["app"],
        "page": screen["page"].partition("/")[0],
        "dialog": screen["dialog"] and screen["dialog"].partition("/")[0],
        "keyboard": screen["keyboard"],
        "shade": "open" if screen["shade_open"] else None,
    }

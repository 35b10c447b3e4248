"""Pages of text in the phone's fonts, sizes and colours, for learning to read.

A screen of an app has about 30 words, and most of them belong to the app. A page has about 200, all of them random.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from pr2l.data.screen_texts import Split, draw_text
from pr2l.data.screen_walk import WIDTH, WORDS, Screen, random_screen_state, scaled_words
from pr2l.environments.browser import Page

PAGES = 12  # pages of one look
LINES = 40  # more than fit
SIZES = (11, 12, 12, 13, 13, 14, 14, 14, 15, 15, 16, 16, 17, 18, 20, 22, 26)  # CSS pixels, as the apps use them
COLOURS = (  # text and background: parts of the phone's theme
    *(("on-surface", f"surface{level}") for level in ("", "", "-1", "-1", "-2", "-4")),
    *(("on-surface-variant", f"surface{level}") for level in ("", "-1", "-2")),
    *(("primary", f"surface{level}") for level in ("", "-1")),
    ("on-primary", "primary"),
    ("on-primary-container", "primary-container"),
    ("on-secondary-container", "secondary-container"),
)
ON_WALLPAPER = "color: #fff; text-shadow: 0 1px 2px #0008"
DRAW = """(([lines, wallpaper]) => {
  const main = Object.assign(document.createElement("div"), {className: "main"});
  const area = Object.assign(document.createElement("div"), {className: "launcher"});
  Object.assign(area.style, {display: "block", padding: 0});
  area.dataset.wallpaper = wallpaper;
  for (const [text, style] of lines) {
    const line = Object.assign(document.createElement("div"), {textContent: text});
    line.style.cssText = style;
    area.append(line);
  }
  main.append(area);
  document.getElementById("phone").replaceChildren(main);
})"""


def text_pages(page: Page, rng: Random, themes: Split, texts: Split) -> Iterator[Screen]:
    """Yield PAGES pages of text with the same theme and font size.

    Args:
        page: A page of `page_spec`.
        rng: Random generator; with the sides it determines the pages.
        themes: Side of the split of accent colours and wallpapers.
        texts: Side of the split of words.
    """
    state = random_screen_state(rng, "train", themes, texts)
    page.evaluate(f"phone.setState({json.dumps(state)})")
    for _ in range(PAGES):
        lines = [(_text(rng, texts), _style(rng)) for _ in range(LINES)]
        page.evaluate(f"{DRAW}({json.dumps([lines, state['look']['wallpaper']])})")
        frame = page.advance(100)
        screen = {"app": "text", "page": None, "dialog": None, "keyboard": None, "shade": None}
        yield Screen(frame, [], *scaled_words(page.evaluate(WORDS), frame.shape[1] / WIDTH), screen, [])


def _text(rng: Random, texts: Split) -> str:
    return " ".join(draw_text(rng, texts) for _ in range(rng.randint(4, 14)))


def _style(rng: Random) -> str:
    """Return the CSS of a line with random font, colours and position; a long text fills several lines."""
    text, background = rng.choice(COLOURS)
    colours = f"color: var(--f7-md-{text}); background: var(--f7-md-{background})"
    font = f"font: {rng.choice((400, 400, 500))} {rng.choice(SIZES)}px/{rng.uniform(1.1, 1.5):.2f} Roboto"
    padding = f"padding: {rng.uniform(0, 5):.1f}px {rng.uniform(2, 20):.1f}px"
    align = f"text-align: {rng.choice(('left', 'left', 'left', 'center', 'right'))}"
    return "; ".join((font, padding, align, ON_WALLPAPER if rng.random() < 0.1 else colours))

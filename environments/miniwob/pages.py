"""The pages of MiniWoB++: where they are, and JavaScript that plays an episode in one."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from ..base import UserError

WIDTH, HEIGHT = 160, 210  # CSS pixels of a task, fixed by MiniWoB++

STATE = "[WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL]"

# A form that is sent would leave the page. The instruction of some pages is an object with the values in it.
# jQuery UI listens to the mouse only; so a finger on what can be dragged moves the mouse, as in jQuery UI Touch Punch.
INIT = """{
  addEventListener("submit", event => event.preventDefault(), true);
  let first = null, dragged = null;
  const mouse = (type, touch, target) => target.dispatchEvent(new MouseEvent(type, {
    bubbles: true, cancelable: true, view: window, clientX: touch.clientX, clientY: touch.clientY,
    buttons: type === "mouseup" ? 0 : 1,
  }));
  addEventListener("touchstart", event => { first = event.touches[0]; dragged = null; }, { passive: false });
  addEventListener("touchmove", event => {
    if (!event.target.closest(".ui-draggable, .ui-slider")) return;
    event.preventDefault();
    if (!dragged) mouse("mousedown", first, dragged = event.target);
    mouse("mousemove", event.touches[0], dragged);
  }, { capture: true, passive: false });
  addEventListener("touchend", event => { if (dragged) mouse("mouseup", event.changedTouches[0], dragged); });
}"""
START = """((seed, data) => {
  const style = document.createElement("style");
  style.textContent = "#reward-display, #click-canvas { display: none } html { overflow-x: hidden }";
  document.head.append(style);
  core.EPISODE_MAX_TIME = 2e9;  // steps are limited, not time
  core.startEpisode = () => {};  // the page stays as it is at the end, without the cover of the next episode
  WOB_DATA_MODE = data;
  Math.seedrandom(seed);
  core.startEpisodeReal();
  if (document.activeElement) document.activeElement.blur();
  const goal = core.getUtterance();
  return typeof goal === "string" ? goal : goal.utterance;
})(%s, %s)"""

# Visible elements with a text of their own, or that can be used. A name is a text that can be read on the screen.
ELEMENTS = """(() => {
  const use = "a, button, input, select, textarea, label, svg *, [onclick]", found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("#query, #reward-display, #sync-task-cover, #click-canvas, script, style")) continue;
    const own = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!own && !element.matches(use)) continue;
    const box = element.getBoundingClientRect();
    const x0 = Math.max(box.left, 0), y0 = Math.max(box.top, 0);
    const x1 = Math.min(box.right, innerWidth), y1 = Math.min(box.bottom, innerHeight);
    if (x1 - x0 < 1 || y1 - y0 < 1) continue;
    const top = document.elementFromPoint((x0 + x1) / 2, (y0 + y1) / 2);
    if (!top || !(element.contains(top) || top.contains(element))) continue;
    const text = element.value || element.innerText || element.textContent || element.placeholder || element.id;
    const name = (text || element.tagName).trim().replace(/\\s+/g, " ").slice(0, 60) || element.tagName.toLowerCase();
    found.push({ name, box: [x0, y0, x1, y1] });
  }
  return found;
})()"""


def folder() -> Path:
    """Return the folder of the pages in the package miniwob, which is not imported.

    Raises:
        UserError: If the package is not installed.
    """
    package = find_spec("miniwob")
    if package is None or not package.submodule_search_locations:
        raise UserError("MiniWoB++'s pages are missing; install them with `pip install --no-deps miniwob==1.1.0`")
    return Path(package.submodule_search_locations[0]) / "html" / "miniwob"


def start(split: str, seed: int) -> str:
    """Return the script that starts an episode; its value is the instruction.

    Args:
        split: "train" or "evaluation". The seeds of a split are its own, and a few pages have other texts for tests.
        seed: The number of the episode.
    """
    return START % (json.dumps(f"{split} {seed}"), json.dumps({"train": "train", "evaluation": "test"}[split]))

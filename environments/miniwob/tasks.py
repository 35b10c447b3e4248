"""Tasks of MiniWoB++ as data: pages that suit a touch screen; standard library only.

AndroidWorld lists 92 pages that people can do on an Android phone. These are those of the package miniwob 1.1.0, but
not enter-date, highlight-text and highlight-text-2, whose calendar and selection of text belong to the system and not
to the page, nor resize-textarea, which needs a mouse. Step limits are about three times what a person needs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Row of TASKS.

    Args:
        horizon: Step limit of an episode.
        reward: What is rewarded.
        success: When an episode is a success.
        prompt: Recommended prompt.
    """

    horizon: int
    reward: str = "1 for a success, else 0; with raw_reward, the page's reward, -1 to 1"
    success: str = "the page gives its full reward of 1"
    prompt: str = "phone/all/goal"


TASKS: dict[str, Task] = {
    "bisect-angle": Task(6),
    "book-flight": Task(30),
    "choose-date": Task(20),
    "choose-date-easy": Task(10),
    "choose-date-medium": Task(15),
    "choose-list": Task(10),
    "circle-center": Task(6),
    "click-button": Task(6),
    "click-button-sequence": Task(6),
    "click-checkboxes": Task(15),
    "click-checkboxes-large": Task(25),
    "click-checkboxes-soft": Task(15),
    "click-checkboxes-transfer": Task(15),
    "click-collapsible": Task(6),
    "click-collapsible-2": Task(15),
    "click-color": Task(6),
    "click-dialog": Task(6),
    "click-dialog-2": Task(10),
    "click-link": Task(6),
    "click-menu-2": Task(10),
    "click-option": Task(10),
    "click-pie": Task(6),
    "click-scroll-list": Task(15),
    "click-shades": Task(25),
    "click-shape": Task(6),
    "click-tab": Task(10),
    "click-tab-2": Task(15),
    "click-tab-2-easy": Task(15),
    "click-tab-2-hard": Task(15),
    "click-tab-2-medium": Task(15),
    "click-test": Task(6),
    "click-test-2": Task(6),
    "click-test-transfer": Task(6),
    "click-widget": Task(6),
    "copy-paste": Task(12),
    "copy-paste-2": Task(12),
    "count-shape": Task(6),
    "count-sides": Task(6),
    "drag-box": Task(10),
    "email-inbox": Task(15),
    "email-inbox-delete": Task(10),
    "email-inbox-forward": Task(15),
    "email-inbox-forward-nl": Task(15),
    "email-inbox-forward-nl-turk": Task(15),
    "email-inbox-important": Task(10),
    "email-inbox-nl-turk": Task(15),
    "email-inbox-noscroll": Task(15),
    "email-inbox-reply": Task(15),
    "email-inbox-star-reply": Task(15),
    "enter-password": Task(12),
    "enter-text": Task(10),
    "enter-text-2": Task(10),
    "enter-text-dynamic": Task(10),
    "enter-time": Task(10),
    "find-midpoint": Task(6),
    "find-word": Task(10),
    "focus-text": Task(6),
    "focus-text-2": Task(6),
    "grid-coordinate": Task(6),
    "guess-number": Task(20),
    "identify-shape": Task(6),
    "login-user": Task(12),
    "login-user-popup": Task(15),
    "multi-layouts": Task(15),
    "multi-orderings": Task(15),
    "navigate-tree": Task(15),
    "read-table": Task(10),
    "read-table-2": Task(15),
    "right-angle": Task(6),
    "scroll-text": Task(12),
    "scroll-text-2": Task(12),
    "search-engine": Task(20),
    "simon-says": Task(30),
    "simple-algebra": Task(10),
    "simple-arithmetic": Task(10),
    "social-media": Task(15),
    "social-media-all": Task(25),
    "social-media-some": Task(25),
    "terminal": Task(15),
    "text-transform": Task(10),
    "tic-tac-toe": Task(15),
    "unicode-test": Task(6),
    "use-autocomplete": Task(15),
    "use-colorwheel": Task(15),
    "use-colorwheel-2": Task(15),
    "use-slider": Task(15),
    "visual-addition": Task(10),
}

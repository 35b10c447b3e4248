"""Scripted solutions of tasks, in JavaScript, as functions of the page as it is now.

Each is the body of a function of `goal`, the instruction, that returns the next action as an object with the fields of
a ScreenAction. It runs with the functions of HELPERS.
"""

from __future__ import annotations

import json

HELPERS = """
const all = (selector, root) => [...(root || document).querySelectorAll(selector)];
const one = (selector, text) => all(selector).find(e => e.innerText.trim() === text && e.getClientRects().length);
const quoted = () => [...goal.matchAll(/"(.*?)"/g)].map(match => match[1]);
const wait = () => ({ type: "back" });  // which lets time pass
// The middle of an element, or the next point that no other element covers; swipe first if it is outside of the page.
const tap = element => {
  if (!element) return wait();
  const box = element.getBoundingClientRect();
  if (box.top + box.height / 2 > 208) return { type: "swipe", x: 0.5, y: 0.75, to_x: 0.5, to_y: 0.55 };
  if (box.top + box.height / 2 < 2) return { type: "swipe", x: 0.5, y: 0.55, to_x: 0.5, to_y: 0.75 };
  for (const right of [0.5, 0.2, 0.8]) for (const down of [0.5, 0.2, 0.8]) {
    const x = box.left + right * box.width, y = box.top + down * box.height;
    if (element.contains(document.elementFromPoint(x, y))) return { type: "tap", x: x / 160, y: y / 210 };
  }
  return wait();
};
const fill = (field, text) => {
  if (document.activeElement !== field) return tap(field);
  return { type: "type", text: text.slice(field.value.length) };
};
const submit = () => tap(document.querySelector("#subbtn, button.secondary-action"));
// Fill one field after the other, then submit.
const form = pairs => {
  for (const [selector, text] of pairs) {
    const field = document.querySelector(selector);
    if (field.value !== text) return fill(field, text);
  }
  return submit();
};
// Check the boxes whose labels have these texts, then submit.
const check = texts => {
  const boxes = all("#area label").filter(e => texts.includes(e.innerText.trim())).map(e => e.querySelector("input"));
  const open = boxes.find(box => !box.checked);
  return open ? tap(open) : submit();
};
"""

CHECKBOXES = """
const words = goal.match(/Select (.*) and click/)[1], texts = words === "nothing" ? [] : words.split(", ");
return check(texts);
"""
LINK_IN_TABS = """
const link = all("#area span.alink").find(e => e.innerText === quoted()[0] && e.getClientRects().length);
if (link) return tap(link);
const holder = (all("#area span.alink").find(e => e.textContent === quoted()[0]) || all("#tabs-2")[0]).closest("div");
return tap(document.querySelector(`#area a[href="#${holder.id}"]`));
"""
LOGIN = """
const cancel = document.querySelector("#popup-cancel");
return cancel ? tap(cancel) : form([["#username", quoted()[0]], ["#password", quoted()[1]]]);
"""

ORACLES: dict[str, str] = {
    "choose-list": """
        const text = goal.match(/Select (.*) from the list/)[1], options = document.querySelector("#options");
        if (options.options[options.selectedIndex].text === text) return submit();
        const choice = all("[data-choice]").find(e => e.innerText === text);
        return tap(choice || options);""",
    "click-button": 'return tap(one("#area button", quoted()[0]));',
    "click-button-sequence": """
        return tap(document.querySelector("#subbtn").dataset.tampered ? subbtn2 : subbtn);""",
    "click-checkboxes": CHECKBOXES,
    "click-checkboxes-large": CHECKBOXES,
    "click-checkboxes-transfer": CHECKBOXES,
    "click-collapsible": """
        const expanded = all(".ui-accordion-content").some(e => e.offsetHeight > 20);
        return expanded ? submit() : tap(document.querySelector("h3"));""",
    "click-color": """
        const color = goal.match(/Click on the (.*) colored box/)[1];
        return tap(document.querySelector(`#area [data-color="${color}"]`));""",
    "click-dialog": 'return tap(document.querySelector(".ui-dialog-titlebar-close"));',
    "click-dialog-2": """
        const text = quoted()[0];
        if (text === "x") return tap(document.querySelector(".ui-dialog-titlebar-close"));
        return tap(one(".ui-dialog button", text));""",
    "click-link": 'return tap(one("#area .alink", quoted()[0]));',
    "click-option": "return check([goal.match(/Select (.*) and click/)[1]]);",
    "click-tab": 'return tap(one("#area ul a", goal.match(/Tab #[0-9]/)[0]));',
    "click-tab-2": LINK_IN_TABS,
    "click-tab-2-easy": LINK_IN_TABS,
    "click-tab-2-medium": LINK_IN_TABS,
    "click-tab-2-hard": LINK_IN_TABS,
    "click-test": "return tap(subbtn);",
    "click-test-2": "return tap(subbtn);",
    "click-test-transfer": 'return tap(goal.includes("ONE") ? subbtn : subbtn2);',
    "click-widget": 'return tap(document.querySelector(`#area [data-type="${quoted()[0]}"]`));',
    "email-inbox-delete": """
        const name = goal.match(/by (\\w+)/)[1], trash = document.querySelector("#email .trash");
        if (trash && trash.getClientRects().length) return tap(trash);
        return tap(all(".email-thread").find(e => e.querySelector(".email-sender").innerText === name));""",
    "enter-password": 'return form([["#password", quoted()[0]], ["#verify", quoted()[0]]]);',
    "enter-text": 'return form([["#tt", quoted()[0]]]);',
    "enter-text-dynamic": 'return form([["#tt", quoted()[0]]]);',
    "focus-text": 'return tap(document.querySelector("#tt"));',
    "focus-text-2": 'return tap(document.querySelector("#tt" + goal.match(/[0-9]/)[0]));',
    "grid-coordinate": "return tap(document.getElementById(goal.match(/\\(.*?\\)/)[0]));",
    "login-user": LOGIN,
    "login-user-popup": LOGIN,
    "navigate-tree": """
        const found = all("#tree span").find(e => e.innerText === quoted()[0] && e.getClientRects().length);
        if (found) return tap(found);
        const hidden = all("#tree span").find(e => e.textContent === quoted()[0]);
        const folder = all("#tree li.expandable").find(e => e.contains(hidden) && e.getClientRects().length);
        return tap(folder.querySelector("span"));""",
    "search-engine": """
        const wanted = Number(goal.match(/the ([0-9]+)/)[1]), field = document.querySelector("#search-text");
        if (field.value !== quoted()[0]) return fill(field, quoted()[0]);
        const titles = all(".search-title").filter(e => e.getClientRects().length);
        if (!titles.length) return tap(document.querySelector("#search"));
        const page = Math.floor((wanted - 1) / 3) + 1, here = document.querySelector("#pagination .active");
        if (here && Number(here.innerText) !== page) {
          return tap(one("#pagination a", String(page)) || one("#pagination a", ">"));
        }
        return tap(titles[(wanted - 1) % 3]);""",
    "social-media": """
        const [, user, button] = goal.match(/user (@\\S+), click on the "(.*?)" button/);
        const post = all(".media").find(e => e.innerText.includes(user)), action = button.toLowerCase();
        if (["reply", "retweet", "like", "share"].includes(action)) return tap(post.querySelector("." + action));
        const item = all("li", post).find(e => e.innerText === button && e.getClientRects().length);
        return tap(item || post.querySelector(".more"));""",
    "use-autocomplete": """
        const [start, end] = [quoted()[0], quoted()[1] || ""], field = document.querySelector("#tags");
        const fits = text => text.length > start.length && text.startsWith(start) && text.endsWith(end);
        if (fits(field.value)) return submit();
        if (field.value !== start) return fill(field, start);
        return tap(all(".ui-menu-item").find(e => fits(e.innerText)));""",
}


def call(body: str, goal: str) -> str:
    """Return the JavaScript expression of the next action.

    Args:
        body: A value of ORACLES.
        goal: The instruction.
    """
    return f"(goal => {{ {HELPERS} {body} }})({json.dumps(goal)})"

"use strict";
/* What can be seen and touched now, as boxes: the labels of a frame, and the eyes of scripted solutions. */
{
  const LEAST = 6; // CSS pixels of an element that must be in view

  /* Return [{name, role, text, box: [x0, y0, x1, y1] in CSS pixels, value, visible}].
   *
   * Elements with a name are those a touch at the middle of their box would reach; the box is the part in view. Other
   * texts follow with role "text" and the text as name. */
  phone.elements = () => {
    const named = [...document.querySelectorAll("[data-name]")].map(touchable).filter(Boolean);
    return distinct([...named, ...texts()]);
  };

  const touchable = (element) => {
    const box = inView(element, element.getBoundingClientRect());
    if (!box || top(box)?.closest("[data-name]") !== element) return null;
    const { name, role, value } = element.dataset;
    const text = (element.value ?? element.innerText).replace(/\s+/g, " ").trim();
    return { name, role, text, box, value: value === undefined ? null : JSON.parse(value), visible: true };
  };

  const texts = () => {
    const walker = document.createTreeWalker(document.getElementById("phone"), NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
      const node = walker.currentNode, text = node.data.replace(/\s+/g, " ").trim();
      if (!text || node.parentElement.closest("[data-name]")) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      const box = inView(node.parentElement,
        common(range.getBoundingClientRect(), node.parentElement.getBoundingClientRect()));
      if (box && node.parentElement === top(box)) {
        found.push({ name: text, role: "text", text, box, value: null, visible: true });
      }
    }
    return found;
  };

  const top = ([x0, y0, x1, y1]) => document.elementFromPoint((x0 + x1) / 2, (y0 + y1) / 2);

  /* Return the part of a rectangle that the screen and the scrolled areas around the element show, or null. */
  const inView = (element, rectangle) => {
    let seen = common(rectangle, { left: 0, top: 0, right: innerWidth, bottom: innerHeight });
    for (let area = element.closest("[data-scroll]"); area; area = area.parentElement.closest("[data-scroll]")) {
      seen = common(seen, area.getBoundingClientRect());
    }
    const { left, top, right, bottom } = seen;
    return right - left < LEAST || bottom - top < LEAST ? null
      : [left, top, right, bottom].map((value) => Math.round(value * 100) / 100);
  };

  const common = (one, other) => ({
    left: Math.max(one.left, other.left), top: Math.max(one.top, other.top),
    right: Math.min(one.right, other.right), bottom: Math.min(one.bottom, other.bottom),
  });

  /* Number elements of the same name: "Contacts/Ann Lee", "Contacts/Ann Lee (2)". */
  const distinct = (elements) => {
    const counts = {};
    for (const element of elements) {
      const count = counts[element.name] = (counts[element.name] ?? 0) + 1;
      if (count > 1) element.name += ` (${count})`;
    }
    return elements;
  };
}

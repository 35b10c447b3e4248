"use strict";
/* Touches: tap, long press, scrolling, sliders, and the swipes that open and close the notification shade.
 *
 * The page handles them itself: a swipe scrolls by exactly its own length, whatever the time it takes. */
{
  const SLACK = 10; // CSS pixels that a finger may move during a tap
  const HOLD_MS = 400;
  const EDGE = 24; // the height of the status bar, where the shade's swipe begins
  let touch = null;

  const handled = (handler, ...values) => {
    handler(...values);
    phone.draw();
  };

  const begin = ({ clientX: x, clientY: y, target }) => {
    const element = target.closest("[data-name]");
    const area = target.closest("[data-scroll]");
    touch = { x, y, element, area, from: area?.scrollTop, moved: null, done: false };
    const own = touch;
    if (element?.hold) own.timer = setTimeout(() => press(own), HOLD_MS);
  };

  const press = (own) => {
    if (own.moved || own.done) return;
    own.done = true;
    phone.state.screen.toast = null;
    handled(own.element.hold);
  };

  const move = ({ clientX: x, clientY: y }) => {
    if (!touch || touch.done) return;
    const right = Math.abs(x - touch.x), down = Math.abs(y - touch.y);
    if (!touch.moved && Math.hypot(right, down) <= SLACK) return;
    touch.moved ||= kind(right > down);
    touch.moved(x, y);
  };

  /* What a moving finger does, which its first direction decides. */
  const kind = (sideways) => {
    if (touch.element?.slide && sideways) return slide;
    if (touch.y < EDGE) return pullShade;
    return touch.area ? scroll : () => {};
  };

  const slide = (x) => handled(touch.element.slide, partOf(touch.element, x));

  /* How far along an element a place is, 0 = left end. */
  const partOf = (element, x) => {
    const { left, width } = element.getBoundingClientRect();
    return Math.min(1, Math.max(0, (x - left) / width));
  };

  const pullShade = (_, y) => {
    if (y - touch.y < 2 * EDGE) return;
    touch.done = true;
    handled(() => Object.assign(phone.state.screen, { shade_open: true, focus: null, keyboard: null, toast: null }));
  };

  const scroll = (_, y) => {
    const { area, from } = touch;
    if (area.dataset.scroll === "shade") {
      if (touch.y - y > 2 * EDGE) {
        touch.done = true;
        handled(() => { phone.state.screen.shade_open = false; });
      }
      return;
    }
    area.scrollTop = from + (touch.y - y) / area.currentCSSZoom;
    phone.state.screen[area.dataset.scroll] = area.scrollTop;
  };

  const end = ({ clientX: x }) => {
    const own = touch;
    touch = null;
    if (!own) return;
    clearTimeout(own.timer);
    if (own.done || own.moved) return;
    own.done = true;
    phone.state.screen.toast = null;
    if (own.element?.slide) own.element.slide(partOf(own.element, x));
    else own.element?.tap?.();
    phone.draw();
  };

  const cancel = () => {
    clearTimeout(touch?.timer);
    touch = null;
  };

  const listen = (type, handler) => document.addEventListener(type,
    (event) => event.isPrimary !== false && handler(event));
  listen("pointerdown", begin);
  listen("pointermove", move);
  listen("pointerup", end);
  listen("pointercancel", cancel);

  // The focus is part of the state, so the browser must not move it. A driver's keys come as input events.
  document.addEventListener("mousedown", (event) => event.preventDefault());
  document.addEventListener("contextmenu", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (!["Enter", "Tab"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Enter") phone.enter();
  });
  document.addEventListener("input", ({ target }) => {
    if (!target.dataset.field) return;
    phone.state.screen.draft[target.dataset.field] = target.value;
    phone.draw();
  });
}

"""JavaScript that runs in every page before its own scripts, and removes what depends on real time."""

# The clocks of a page are offset from the virtual time by the real duration of its navigation, and `performance.now`
# has a random jitter; Date is exact.
CLOCKS = """{
  const start = Date.now(), now = () => Date.now() - start, draw = window.requestAnimationFrame.bind(window);
  performance.now = now;
  window.requestAnimationFrame = callback => draw(() => callback(now()));
  let drawn = 0;
  const count = () => { drawn++; draw(count); };  // a frame that the page has not requested would deliver no touches
  draw(count);
  Object.defineProperty(window, "framesDrawn", { get: () => drawn });
}"""

# An image that a page shows later would be read from the disk in real time. This loads the images that its style sheets
# and scripts name, before the page counts as loaded.
IMAGES = """{
  const images = window.preloadedImages = [], file = /[^"'()\\s]+\\.(?:png|gif|jpe?g|svg|webp)/g;
  const load = (text, base) => {
    for (const [path] of text.matchAll(file)) {
      const image = new Image();
      image.src = new URL(path, base);
      images.push(image);
    }
  };
  const rules = sheet => {
    try { return [...sheet.cssRules].map(rule => rule.cssText).join(""); } catch { return ""; }
  };
  addEventListener("DOMContentLoaded", () => {
    for (const sheet of document.styleSheets) load(rules(sheet), sheet.href || location.href);
    for (const script of document.scripts) load(script.text, location.href);
  });
}"""

# Chromium tells a tap from a long press by real time. Here a touch is a click if it is shorter than HOLD in the page's
# time and does not move; a longer one neither opens a menu nor selects text by itself.
TOUCHES = """{
  const HOLD = 500, SLOP = 8;
  let begin = null, moved = false;
  const stop = event => { event.preventDefault(); event.stopImmediatePropagation(); };
  addEventListener("touchstart", event => {
    begin = { time: Date.now(), x: event.touches[0].clientX, y: event.touches[0].clientY };
    moved = false;
  }, { capture: true, passive: false });
  addEventListener("touchmove", event => {
    moved ||= Math.hypot(event.touches[0].clientX - begin.x, event.touches[0].clientY - begin.y) > SLOP;
  }, { capture: true, passive: false });
  addEventListener("touchend", event => {
    if (moved || Date.now() - begin.time >= HOLD) event.preventDefault();
    begin = null;
  }, { capture: true, passive: false });
  addEventListener("contextmenu", stop, true);
  addEventListener("selectstart", event => { if (begin) stop(event); }, true);
}"""

# Chromium's own scrolling predicts the finger's place and flings with its speed, both in real time. This moves the
# content exactly as far as the finger, along the axis in which it has moved first, and does not fling.
SCROLLING = """{
  const SLOP = 8;  // px before a touch becomes a scroll
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("* { touch-action: none !important }");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  let first = null, scrolled = null, vertical = true, origin = 0;

  const scrolls = (element, size) => element === document.scrollingElement
    || /auto|scroll/.test(getComputedStyle(element)[size === "Height" ? "overflowY" : "overflowX"]);
  const scrollable = (element, by) => {
    const size = vertical ? "Height" : "Width", place = vertical ? "scrollTop" : "scrollLeft";
    for (; element; element = element.parentElement || element.getRootNode().host) {
      const room = element["scroll" + size] - element["client" + size];
      if (room > 0 && scrolls(element, size) && (by > 0 ? element[place] < room : element[place] > 0)) return element;
    }
    return null;
  };
  addEventListener("touchstart", event => { first = event.touches[0]; scrolled = null; }, { passive: false });
  addEventListener("touchmove", event => {
    const touch = event.touches[0], own = event.defaultPrevented;
    event.preventDefault();  // else Chromium would fling, and take the next tap as the end of the fling
    if (!first || own) return;
    const x = first.clientX - touch.clientX, y = first.clientY - touch.clientY;
    if (!scrolled) {
      if (Math.max(Math.abs(x), Math.abs(y)) < SLOP) return;
      vertical = Math.abs(y) >= Math.abs(x);
      scrolled = scrollable(event.target, vertical ? y : x);
      if (!scrolled) return;
      origin = scrolled[vertical ? "scrollTop" : "scrollLeft"];
    }
    scrolled.scrollTo({ [vertical ? "top" : "left"]: origin + (vertical ? y : x), behavior: "instant" });
  }, { passive: false });
}"""

# The list of a <select> would be a window of the system: it is in no frame, and Chromium draws none while it is open.
# This shows the options in the page instead, with the attribute data-choice. In a list that is always open, a tap
# selects an option, or changes whether it is selected if several can be.
SELECTS = """{
  const changed = select => {
    for (const name of ["input", "change"]) select.dispatchEvent(new Event(name, { bubbles: true }));
  };
  const close = () => document.querySelectorAll("[data-choices]").forEach(list => list.remove());
  const open = select => {
    const list = document.createElement("div"), box = select.getBoundingClientRect();
    const room = innerHeight - box.bottom, below = room >= innerHeight / 3;
    list.dataset.choices = "";
    list.style.cssText = `position: fixed; left: ${box.left}px; min-width: ${box.width}px; overflow: auto;
      box-sizing: border-box; background: white; color: black; border: 1px solid #777; z-index: 2147483647;
      font: ${getComputedStyle(select).font}; max-height: ${below ? room : box.top}px;
      ${below ? "top: " + box.bottom : "bottom: " + (innerHeight - box.top)}px`;
    [...select.options].forEach((option, index) => {
      if (option.disabled || option.hidden) return;
      const choice = list.appendChild(document.createElement("div"));
      choice.dataset.choice = index;
      choice.textContent = option.text;
      choice.style.cssText = `padding: 2px 4px; ${option.selected ? "background: #cde" : ""}`;
      choice.addEventListener("click", event => {
        event.stopPropagation();
        close();
        if (select.selectedIndex === index) return;
        select.selectedIndex = index;
        changed(select);
      });
    });
    document.body.append(list);
  };
  addEventListener("mousedown", event => {
    const select = event.target.closest("select"), option = event.target.closest("option");
    if (!select) return;
    event.preventDefault();
    if (!option || select.disabled || option.disabled || !(select.multiple || select.size > 1)) return;
    option.selected = !(select.multiple && option.selected);
    changed(select);
  }, true);
  addEventListener("click", event => {
    if (event.target.closest("[data-choices]")) return;
    const select = event.target.closest("select"), shown = document.querySelector("[data-choices]");
    close();
    if (select && !shown && !select.disabled && !select.multiple && select.size < 2) open(select);
  }, true);
}"""

INIT_SCRIPTS = (CLOCKS, IMAGES, TOUCHES, SCROLLING, SELECTS)

"""JavaScript that runs in every page before its own scripts, and removes what depends on real time."""

# The clocks of a page are offset from the virtual time by the real duration of its navigation, and `performance.now`
# has a random jitter; Date is exact. A context menu would open after a long press of a real duration.
CLOCKS = """{
  const start = Date.now(), now = () => Date.now() - start, draw = window.requestAnimationFrame.bind(window);
  performance.now = now;
  window.requestAnimationFrame = callback => draw(() => callback(now()));
  const always = () => draw(always);  // a frame without a request of the page would not deliver its touches
  always();
  addEventListener("contextmenu", event => { event.preventDefault(); event.stopImmediatePropagation(); }, true);
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
    const touch = event.touches[0];
    if (!first || event.defaultPrevented) return;
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

INIT_SCRIPTS = (CLOCKS, SCROLLING)

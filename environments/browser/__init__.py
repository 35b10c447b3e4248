"""Driver of web pages: Chromium without a window or a network, trusted touches, and virtual time.

pool = shared_pool(BrowserOptions(browsers=2))
page = pool.take(PageSpec("file:///path/page.html", width=160, height=210))
page.begin(ScreenAction("tap", x=0.5, y=0.5))
frame = page.finish()
page.close()
pool.close()
"""

from .options import BrowserOptions, Gesture, PageFailure, PageSpec
from .pool import Page, Pool, shared_pool
from .tab import ScriptError

__all__ = ["BrowserOptions", "Gesture", "Page", "PageFailure", "PageSpec", "Pool", "ScriptError", "shared_pool"]

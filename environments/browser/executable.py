"""Search for the Chromium executable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..base import UserError

VARIABLE = "PR2L_CHROMIUM"
# The headless shell alone has BeginFrame control. Debian's command of that name is a script around the program here.
PLACES = ("/usr/lib/chromium/chromium-headless-shell", "/usr/lib64/chromium-browser/headless_shell")
NAMES = ("chromium-headless-shell", "chrome-headless-shell", "headless_shell")
INSTALL = (
    "Install it with `sudo apt-get install chromium-headless-shell` (Debian), or with "
    "`npx @puppeteer/browsers install chrome-headless-shell`, and, if it is not in PATH, set "
    f"{VARIABLE} to the path of the executable."
)


def find() -> Path:
    """Return the path of Chromium's headless shell.

    Raises:
        UserError: If there is none, or the environment variable PR2L_CHROMIUM names a file that cannot be run.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return _checked(chosen)
    candidates = [*PLACES, *(path for name in NAMES if (path := shutil.which(name)))]
    for path in candidates:
        if os.access(path, os.X_OK):
            return Path(path)
    raise UserError(f"Chromium's headless shell was not found ({', '.join(NAMES)}). {INSTALL}")


def _checked(path: str) -> Path:
    found = shutil.which(path)
    if found is None:
        raise UserError(f"{VARIABLE}={path} is not an executable file. {INSTALL}")
    return Path(found)

"""Program that starts a browser and cleans up after it, however the browser or its owner ends.

The owner holds this program's standard input. If the owner dies, even by SIGKILL, the input ends; then the browser gets
a moment to exit, since its pipe has closed too, and is killed. In the end the profile folder is removed. Standard
library only: it is run by its path, in an interpreter without site-packages.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE = 3.0  # seconds for a browser to exit after its owner has gone
ATTEMPTS = 20  # to remove the profile, in which the browser's last children may still write


def main(profile: str, commands: str, answers: str, *command: str) -> int:
    """Run a browser until it exits, and return its exit code.

    Args:
        profile: The profile folder, removed at the end.
        commands: The file descriptor from which the browser reads; at least 5.
        answers: The file descriptor to which the browser writes; at least 5.
        command: The executable and its arguments. A DevTools pipe is always descriptors 3 and 4.
    """
    os.dup2(int(commands), 3)
    os.dup2(int(answers), 4)
    browser = subprocess.Popen(
        command, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    for descriptor in (3, 4, int(commands), int(answers)):
        os.close(descriptor)
    threading.Thread(target=end_with_owner, args=(browser,), daemon=True).start()
    code = browser.wait()
    kill_group(browser)
    remove(profile)
    return code


def end_with_owner(browser: subprocess.Popen[bytes]) -> None:
    """Kill the browser once the owner has closed this program's input."""
    os.read(0, 1)
    with suppress(subprocess.TimeoutExpired):
        browser.wait(GRACE)
    kill_group(browser)


def kill_group(browser: subprocess.Popen[bytes]) -> None:
    """Kill all processes of the browser, also those of a shell script that has started it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(browser.pid, signal.SIGKILL)


def remove(folder: str) -> None:
    """Remove a folder in which processes that were just killed may write for another moment."""
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        threading.Event().wait(0.05)


if __name__ == "__main__":
    sys.exit(abs(main(*sys.argv[1:])))

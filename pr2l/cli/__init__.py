"""The `pr2l` command line.

Exit codes:

    0     success
    1     a check failed; or pr2l, a plug-in or an environment has a bug (the output names which, with a traceback)
    2     the command has a mistake, a disk is full or a permission is missing; the message states the next step
    130   interrupted by Ctrl-C, after the run was saved
"""

from pr2l.cli.commands import app
from pr2l.cli.entry import main

__all__ = ["app", "main"]

"""Starts the ViZDoom engine so that it cannot outlive the process that asked for it. For Linux.

Run as a script: PARENT_PID FOLDER ENGINE ARGUMENT... It changes four things and then becomes the engine (exec):

- the kernel kills it when the thread that started it ends, however that happens, SIGKILL included
  (prctl(2)); ViZDoom starts its engine from a thread that then waits for the engine's end;
- it is in a session of its own: Ctrl-C at the terminal reaches the Python program only, which can save first;
- it runs in FOLDER, because it writes a node cache beneath its working directory;
- its output goes to FOLDER/engine.log, since an engine sometimes crashes, and prints so, after its work is done.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, folder: str, engine: str, *arguments: str) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before prctl took effect; then no signal will ever come.
    if os.getppid() == int(parent):
        os.setsid()
        os.chdir(folder)
        log = os.open("engine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execv(engine, [engine, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])

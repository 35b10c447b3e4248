"""Launcher of the ViZDoom engine, so that the engine ends with the process that started it. For Linux.

Run as a script: PARENT_PID FOLDER ENGINE ARGUMENT... It changes four things and then becomes the engine (exec):

- the kernel kills the engine when the thread that started it ends, also after a SIGKILL (prctl(2)); ViZDoom starts its
  engine from a thread that then waits for the engine's end;
- the engine is in its own session, so that Ctrl-C at the terminal reaches the Python program only, which can save;
- the engine runs in FOLDER, because it writes a node cache below its working directory;
- its output goes to FOLDER/engine.log, because an engine sometimes crashes after its work and prints a message.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, folder: str, engine: str, *arguments: str) -> None:
    """Become the engine.

    Args:
        parent: The process id of the Python program.
        folder: The working folder of the engine.
        engine: The path of the engine's executable.
        arguments: The arguments of the engine.

    Raises:
        OSError: If the kernel does not support prctl(PR_SET_PDEATHSIG).
    """
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

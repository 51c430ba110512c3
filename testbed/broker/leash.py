"""Become a command that dies with its parent: ``python leash.py PARENT_PID COMMAND ...``.

Linux kills the process when its parent ends, however it ends (prctl(2), ``PR_SET_PDEATHSIG``); the wish outlives
``exec``, so that the command keeps this process's id. A program of its own instead of ``preexec_fn``: that forks
without ``exec`` in a process with threads, which Python 3.12 warns of.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Never returns, unless the parent has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the wish was made.
    if os.getppid() == parent:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

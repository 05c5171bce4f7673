"""
Becomes another program that dies when its parent does: ``python -I -S die_with_parent.py PROGRAM ARGUMENTS``.

A program of its own, as a process with threads must not run Python between fork and exec. Linux only; elsewhere it just
becomes the other program.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == parent:  # Otherwise the parent died before the call.
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the program of the command line

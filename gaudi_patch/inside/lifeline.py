"""Have the kernel kill a child process, or its whole group, when this process ends in any way.

Like PR_SET_PDEATHSIG, but set from outside: no code runs between fork and exec, and the child needs no ctypes. It
covers a whole process group, and only the end of the process counts, not that of the thread that started the child.
Imports nothing of gaudi_patch; the smoke probes use it too.
"""

from __future__ import annotations

import fcntl
import os
import signal


class Lifeline:
    """A pipe that this process keeps open and never writes to; the kernel sends SIGKILL when it is closed.

    Pass ``end`` to the child (``pass_fds``): the tie lasts as long as the child keeps it open. It is close-on-exec in
    this process, so no other child inherits it.
    """

    def __init__(self) -> None:
        self.end, self._held = os.pipe()

    def tie(self, pid: int) -> None:
        """Kill process ``pid`` (if negative, the process group ``-pid``) as soon as this process is gone."""
        fcntl.fcntl(self.end, fcntl.F_SETOWN, pid)
        fcntl.fcntl(self.end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self.end, fcntl.F_SETFL, fcntl.fcntl(self.end, fcntl.F_GETFL) | os.O_ASYNC)
        self._close_end()

    def cut(self) -> None:
        """Kill the tied process or group if it is still running; safe to call twice."""
        self._close_end()
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)

    def _close_end(self) -> None:
        end, self.end = self.end, -1
        if end >= 0:
            os.close(end)

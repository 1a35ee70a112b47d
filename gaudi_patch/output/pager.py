"""A pager for long output on a terminal, chosen and started as git does it.

GAUDI_PATCH_PAGER, else PAGER, else less. No pager if the variable is empty or ``cat``, or without a capable terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from gaudi_patch.output.streams import is_dumb, is_terminal

#: For less: exit if everything fits on one screen, keep colours, leave the text on the screen. For lv: keep colours.
_DEFAULTS = {"LESS": "FRX", "LV": "-c"}


def command(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the pager's command line; empty for no pager."""
    if is_dumb(environ):
        return []
    chosen = environ.get("GAUDI_PATCH_PAGER")
    if chosen is None:
        chosen = environ.get("PAGER")
    if chosen is None:
        chosen = "less"
    try:
        words = shlex.split(chosen)
    except ValueError:  # an unmatched quotation mark
        return []
    return [] if words == ["cat"] else words


def colored(words: list[str]) -> list[str]:
    """Return the command line of a pager that keeps colours, whatever LESS contains."""
    return [*words, "-R"] if Path(words[0]).name == "less" else words


class _Input(io.TextIOWrapper):
    """The pager's standard input, which reports the terminal's properties."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def paged() -> Iterator[None]:
    """Send stdout through the pager within the block, if stdout is a terminal.

    A missing pager is skipped. A pager that quits early discards the rest and changes no exit code.
    """
    process = _start() if is_terminal(sys.stdout) else None
    if process is None:
        yield
        return
    terminal, interrupt = sys.stdout, signal.getsignal(signal.SIGINT)
    assert process.stdin is not None
    sys.stdout = _Input(process.stdin, encoding=terminal.encoding, errors=terminal.errors)
    # Ctrl-C belongs to the pager: it ends a search there, not this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the pager quit before all text was written
            sys.stdout.close()
        sys.stdout = terminal
        process.wait()
        signal.signal(signal.SIGINT, interrupt)


def _start() -> subprocess.Popen[bytes] | None:
    words = command()
    if not words:
        return None
    try:
        return subprocess.Popen(colored(words), stdin=subprocess.PIPE, env={**_DEFAULTS, **os.environ})
    except OSError:
        return None

"""A pager for long output on a terminal, chosen and started as git does it.

GAUDI_PATCH_PAGER, else PAGER, else less; none where that is empty or ``cat``, off a terminal, or on a dumb one.
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

#: For less: end at once where all fits on the screen, keep colours, leave the text there. For lv: keep colours.
_DEFAULTS = {"LESS": "FRX", "LV": "-c"}


def command(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the pager's command line; empty for none."""
    if is_dumb(environ):
        return []
    chosen = environ.get("GAUDI_PATCH_PAGER")
    if chosen is None:
        chosen = environ.get("PAGER")
    if chosen is None:
        chosen = "less"
    try:
        words = shlex.split(chosen)
    except ValueError:  # a quotation mark without its other
        return []
    return [] if words == ["cat"] else words


def colored(words: list[str]) -> list[str]:
    """Return the command line of a pager that keeps colours, whatever LESS says of them."""
    return [*words, "-R"] if Path(words[0]).name == "less" else words


class _Input(io.TextIOWrapper):
    """The standard input of the pager: who writes to it writes to the terminal behind it."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def paged() -> Iterator[None]:
    """Yield what is written to stdout within goes through the pager, if stdout is a terminal.

    A pager that is missing is done without. One that quits early takes no more text, and changes no exit code.
    """
    process = _start() if is_terminal(sys.stdout) else None
    if process is None:
        yield
        return
    terminal, interrupt = sys.stdout, signal.getsignal(signal.SIGINT)
    assert process.stdin is not None
    sys.stdout = _Input(process.stdin, encoding=terminal.encoding, errors=terminal.errors)
    # Ctrl-C is for the pager: it ends a search there, and not us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it has quit with text still to come
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

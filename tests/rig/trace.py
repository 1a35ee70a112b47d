"""Run a command under this directory's preloaded library, which records its file operations and injects faults.

``run`` is for tests of hostile targets, too::

done = trace.run(command("check", "--path", site), env=environment())
assert not done.touched(victim)
assert not [path for path in done.written if not path.is_relative_to(site)]

Shares no code with gaudi_patch: the library sits between libc and the process.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("preload.c")

#: Seconds after which a run is considered hung.
TIMEOUT = 60.0

#: The exit code of a run that had to be ended, as with timeout(1).
HUNG = 124


class Call(NamedTuple):
    """One call of a traced process.

    In ``path``, links in the parent are resolved and the last part is unchanged. ``other`` is the target of a link, or
    the second path of a call that has two (rename: the source). ``number`` counts the calls of a kind below the roots,
    and is 0 outside of them. ``error`` is the errno, 0 for success; ``fault`` is what the library did to the call.
    """

    pid: int
    kind: str
    number: int
    changes: bool
    error: int
    fault: str
    path: Path
    other: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path, self.other) if self.other is not None else (self.path,)


class Fault(NamedTuple):
    """A fault to inject at the ``number``-th call of ``kind`` ("any": of all kinds), and from then on if ``persist``.

    ``what`` is the name of an error or a signal, SHORT, or TORN; see preload.c.
    """

    kind: str
    number: int
    what: str
    persist: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}:{self.what}{'+' if self.persist else ''}"


@dataclass(frozen=True)
class Done:
    """The result of a run: exit code (negative: the signal that ended it; HUNG), streams, calls."""

    code: int
    out: str
    err: str
    calls: Sequence[Call]

    @property
    def written(self) -> set[Path]:
        """Return the paths successfully written, created, renamed, linked, removed, or given other metadata."""
        return {path for call in self._succeeded() if call.changes for path in _changed(call)}

    @property
    def removed(self) -> set[Path]:
        return {call.path for call in self._succeeded() if call.kind in ("unlink", "rmdir")}

    @property
    def opened(self) -> set[Path]:
        """Return the files and directories that were opened, links followed."""
        return {call.other or call.path for call in self._succeeded() if call.kind == "open"}

    @property
    def read(self) -> set[Path]:
        """Return the files whose bytes, and the directories whose names, were read."""
        return {call.path for call in self._succeeded() if call.kind in ("read", "readdir")}

    def touched(self, *places: Path) -> list[Call]:
        """Return the calls, successful or not, that opened, read, wrote, created or removed paths in ``places``.

        Reading metadata (stat, readlink, access) does not count: a link must be examined before it can be refused.
        """
        looks = ("stat", "fstat", "readlink", "access", "statvfs", "close", "getxattr")
        roots = [place.resolve() for place in places]
        return [
            call
            for call in self.calls
            if call.kind not in looks and any(path.is_relative_to(root) for path in call.paths for root in roots)
        ]

    @property
    def faulted(self) -> list[Call]:
        return [call for call in self.calls if call.fault]

    def _succeeded(self) -> Iterable[Call]:
        return (call for call in self.calls if call.error == 0)


def _changed(call: Call) -> tuple[Path, ...]:
    if call.kind in ("rename", "link"):
        return call.paths
    return (call.other or call.path,)


@functools.lru_cache(maxsize=1)
def library() -> Path:
    """Return the library, compiled once per process (0.5 s) into a temporary directory that is removed at exit.

    Raises FileNotFoundError if there is no C compiler.
    """
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc, gcc, clang)")
    folder = Path(tempfile.mkdtemp(prefix="gaudi-patch-rig-"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "preload.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(target), str(SOURCE), "-ldl"], check=True, capture_output=True)
    return target


def run(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    roots: Sequence[Path] = (),
    fault: Fault | None = None,
    log_level: str = "all",
    after: Path | None = None,
    cwd: Path = Path(os.sep),
    timeout: float = TIMEOUT,
) -> Done:
    """Run a command to its end and return its result.

    Calls below ``roots`` are numbered, and ``fault`` is injected into one of them. ``log_level`` is "all" (all calls,
    including the interpreter's start), "counted" (calls below ``roots`` and all that change something) or "changes"
    (only the latter and faulted calls). Calls count from the first one that reaches into the directory ``after``.
    """
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-rig-") as folder:
        log = Path(folder) / "log"
        environment = dict(env) | {
            "LD_PRELOAD": str(library()),
            "RIG_ROOT": ":".join(str(root.resolve()) for root in roots),
            "RIG_LOG": str(log),
            "RIG_TRACE": log_level,
            # Cached bytecode of gaudi-patch itself is not part of its output.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if after is not None:
            environment["RIG_AFTER"] = str(after.resolve())
        if fault is not None:
            environment |= {
                "RIG_KIND": fault.kind,
                "RIG_NTH": str(fault.number),
                "RIG_FAULT": fault.what,
                "RIG_PERSIST": "1" if fault.persist else "0",
            }
        # Files, not pipes: a grandchild with an open pipe would block this process.
        with (Path(folder) / "out").open("w+b") as out, (Path(folder) / "err").open("w+b") as err:
            process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=cwd,
            )
            # No wait(timeout): it polls, and sleeps up to 50 ms too long.
            hung = threading.Event()

            def end() -> None:
                hung.set()
                process.kill()

            limit = threading.Timer(timeout, end)
            limit.start()
            code = process.wait()
            limit.cancel()
            if code == -signal.SIGKILL and hung.is_set():
                code = HUNG
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode("utf-8", "backslashreplace"))
        # Output to stdout and stderr is already in the texts.
        calls = read_log(log, Path(folder).resolve())
        return Done(code, *texts, calls)


def read_log(log: Path, without: Path) -> list[Call]:
    """Return the calls of a trace in order, without those on files in the directory ``without``."""
    if not log.exists():
        return []
    left_out = os.fsencode(without)
    calls = []
    for line in log.read_bytes().splitlines():
        pid, kind, number, changes, error, fault, path, other = line.split(b"\t")
        if path.startswith(left_out):
            continue
        calls.append(
            Call(
                int(pid),
                kind.decode(),
                int(number),
                changes == b"w",
                int(error),
                fault.decode(),
                _path(path),
                _path(other) if other else None,
            )
        )
    return calls


def _path(text: bytes) -> Path:
    if b"\\" in text:
        text = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text)
    return Path(os.fsdecode(text))

"""The only way to ask the target's interpreter: run a script of ``inside/`` in it and read its answer.

The answer is separate from what it prints, and its exit does not matter once it has answered. Nothing in an answer is
trusted: its size is limited, and ``Fields`` checks the type of each value.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gaudi_patch.target.process import Child, Tail, ending, last_line

_T = TypeVar("_T")
INSIDE = Path(__file__).resolve().parent.parent / "inside"

#: Limit in bytes for an answer, unless the caller expects more, and for what the interpreter prints.
ANSWER_LIMIT = 1024 * 1024
PRINTED_LIMIT = 64 * 1024


class Problem(str, Enum):
    """Why there is no answer."""

    NOT_STARTED = "not-started"
    TIMEOUT = "timeout"
    NO_ANSWER = "no-answer"
    TOO_LARGE = "too-large"
    INVALID = "invalid"
    #: the script ran, but raised an exception
    FAILED = "failed"


class AskError(Exception):
    """The interpreter gave no usable answer; the message says why, as a clause."""

    def __init__(self, problem: Problem, why: str) -> None:
        super().__init__(why)
        self.problem = problem


def ask(
    python: Path | str,
    script: str,
    *arguments: str,
    timeout: float,
    environ: Mapping[str, str],
    flags: Sequence[str] = ("-I", "-B"),
    question: object = None,
    cwd: Path | str = "/",
    limit: int = ANSWER_LIMIT,
) -> Any:  # noqa: ANN401 - JSON
    """Run inside/``script`` with ``python`` and return the result of its function ``answer``, decoded from JSON.

    ``arguments`` and, unless None, ``question`` (any JSON value) are given to that function. Use "/" or an empty
    directory as ``cwd``, so that nothing is imported from it by accident. ``timeout`` is in seconds, ``limit`` in
    bytes. Raises AskError.
    """
    import json

    received, printed = _Line(limit), Tail(PRINTED_LIMIT)
    with _pipe() as (answers, answering), _pipe() as (reading, sending):
        theirs = [answering] if question is None else [answering, reading]
        command = [str(python), *flags, str(INSIDE / "answer.py"), str(answering.fileno())]
        command += ["-" if question is None else str(reading.fileno()), str(INSIDE / script), *arguments]
        deadline = time.monotonic() + timeout
        try:
            child = Child(command, environ, cwd, [pipe.fileno() for pipe in theirs])
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path or in the environment
            raise AskError(Problem.NOT_STARTED, getattr(error, "strerror", None) or str(error)) from error
        with child:
            answering.close()
            reading.close()
            readers = {answers.fileno(): received.add, child.output: printed.add}
            sent = None if question is None else (sending, json.dumps(question).encode("ascii"))
            in_time = child.follow(readers, deadline, sent, lambda: received.complete)
            status = child.kill()
            child.drain(readers)
    if received.overflow:
        raise AskError(Problem.TOO_LARGE, f"its answer is larger than {limit:,} bytes")
    if not received.complete:
        _explain(in_time, timeout, status, printed.text())
    return _unwrap(received.line)


@contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Yield a pipe as two files, which the block may close early."""
    ends = os.pipe()
    with FileIO(ends[0], "rb") as reading, FileIO(ends[1], "wb") as writing:
        yield reading, writing


class _Line:
    """The line that contains the answer; nothing beyond ``limit`` is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        #: Whether the answer is complete
        self.complete = self.overflow = False

    def add(self, data: bytes) -> None:
        if not self.complete:
            self._data += data
            ended = b"\n" in data
            self.overflow = not ended and len(self._data) > self._limit
            self.complete = ended or self.overflow

    @property
    def line(self) -> bytes:
        return bytes(self._data).partition(b"\n")[0]


def _explain(in_time: bool, timeout: float, status: int, printed: str) -> NoReturn:
    """Return why no answer came: the last line of a traceback, or the first of Python 2's complaint about -I."""
    if not in_time:
        raise AskError(Problem.TIMEOUT, f"no answer within {timeout:.0f} s")
    lines = [line for line in printed.strip().splitlines() if line.strip()]
    telling = lines[0] if lines and "option" in lines[0].lower() else last_line(printed)
    raise AskError(Problem.NO_ANSWER, f"no answer ({ending(status)})" + (f": {telling[:500]}" if telling else ""))


def _unwrap(line: bytes) -> Any:  # noqa: ANN401 - JSON
    import json

    try:
        wrapped = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise AskError(Problem.INVALID, f"its answer is not JSON ({type(error).__name__})") from error
    if not isinstance(wrapped, dict) or len(wrapped) != 1:
        raise AskError(Problem.INVALID, "its answer is malformed")
    if isinstance(wrapped.get("failed"), str):
        raise AskError(Problem.FAILED, wrapped["failed"])
    if "answer" not in wrapped:
        raise AskError(Problem.INVALID, "its answer is malformed")
    return wrapped["answer"]


class Fields:
    """A JSON object in an answer, read value by value; each type is checked, and AskError names a wrong value."""

    def __init__(self, value: object, where: str = "answer") -> None:
        self._where = where
        if not isinstance(value, dict):
            raise _wrong(where, "an object")
        self._values: dict[str, object] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def is_null(self, name: str) -> bool:
        return name in self._values and self._values[name] is None

    def text(self, name: str) -> str:
        return self._of(name, str, "a string")

    def path(self, name: str) -> str:
        """Return a string that can be the name of a file, or ""."""
        return _as_path(self._values.get(name), f"{self._where}.{name}")

    def paths(self, name: str) -> tuple[str, ...]:
        return tuple(_as_path(item, f"{self._where}.{name}") for item in self.items(name))

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.items(name)
        if not all(isinstance(value, str) for value in values):
            raise _wrong(f"{self._where}.{name}", "a list of strings")
        return tuple(str(value) for value in values)

    def flag(self, name: str) -> bool:
        return self._of(name, bool, "true or false")

    def number(self, name: str) -> int:
        value = self._values.get(name)
        if type(value) is not int or abs(value) >= 2**63:
            raise _wrong(f"{self._where}.{name}", "a whole number")
        return value

    def items(self, name: str) -> list[object]:
        return self._of(name, list, "a list")

    def table(self, name: str) -> dict[str, Any]:
        return self._of(name, dict, "an object")

    def fields(self, name: str) -> Fields:
        return Fields(self._values.get(name), f"{self._where}.{name}")

    def _of(self, name: str, kind: type[_T], words: str) -> _T:
        value = self._values.get(name)
        if not isinstance(value, kind):
            raise _wrong(f"{self._where}.{name}", words)
        return value


def _as_path(value: object, where: str) -> str:
    if isinstance(value, str) and "\0" not in value:
        try:
            os.fsencode(value)
            return value
        except UnicodeEncodeError:  # half of a surrogate pair, which no file name decodes to
            pass
    raise _wrong(where, "a path")


def _wrong(where: str, expected: str) -> AskError:
    return AskError(Problem.INVALID, f"its {where} is not {expected}")

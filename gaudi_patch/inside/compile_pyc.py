"""Compile source bytes to .pyc bytes, with the interpreter that will run them.

gaudi-patch imports it if the target is its own interpreter; otherwise answer.py runs it under the target's, since
marshal and the magic number belong to one version of Python. Standard library only.
"""

from __future__ import annotations

import base64
import importlib.util
import marshal
import warnings
from dataclasses import dataclass, field
from types import CodeType
from typing import Any


@dataclass(frozen=True)
class Output:
    """One .pyc. ``optimization``: "", "1" or "2". ``mode``: timestamp, checked or unchecked. mtime in s, size in B."""

    optimization: str
    mode: str
    mtime: int
    size: int


@dataclass(frozen=True)
class Request:
    path: str
    data: bytes
    outputs: tuple[Output, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "data": base64.b64encode(self.data).decode(),
            "outputs": [[output.optimization, output.mode, output.mtime, output.size] for output in self.outputs],
        }


@dataclass(frozen=True)
class Reply:
    error: str = ""
    line: int = 0
    outputs: list[bytes] = field(default_factory=list)


def compile_one(request: Request) -> Reply:
    """Compile at every requested optimization level, or at the default level if there is none."""
    codes: dict[str, CodeType] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # do not print a SyntaxWarning of the package's code
        for optimization in {output.optimization for output in request.outputs} or {""}:
            try:
                codes[optimization] = compile(
                    request.data, request.path, "exec", dont_inherit=True, optimize=int(optimization or 0)
                )
            except SyntaxError as error:
                return Reply(f"{type(error).__name__}: {error.msg}", error.lineno or 0)
            except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; nesting too deep
                return Reply(f"{type(error).__name__}: {error}")
    return Reply(outputs=[_pyc(request.data, codes[output.optimization], output) for output in request.outputs])


def _pyc(source: bytes, code: CodeType, output: Output) -> bytes:
    """Return the .pyc in the file format of PEP 552."""
    header = importlib.util.MAGIC_NUMBER
    if output.mode == "timestamp":
        header += bytes(4) + _long(output.mtime) + _long(output.size)
    else:
        header += _long(1 if output.mode == "unchecked" else 3) + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def _long(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def answer(question: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compile the requests, in the form of ``Request.to_json``; outputs are base64."""
    replies = []
    for item in question:
        outputs = tuple(Output(*output) for output in item["outputs"])
        reply = compile_one(Request(item["path"], base64.b64decode(item["data"]), outputs))
        encoded = [base64.b64encode(data).decode() for data in reply.outputs]
        replies.append({"error": reply.error, "line": reply.line, "outputs": encoded})
    return replies

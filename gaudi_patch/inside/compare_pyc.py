"""Check that a cached .pyc contains the code of its source, with the interpreter that would run it.

Marshalled code belongs to one version of Python, and its bytes differ between processes: the same code may be written
with different references. So the code is loaded and compared, but never run. This happens only here, not in
gaudi-patch's own process, since damaged bytecode can crash the interpreter that loads it. Run by answer.py; standard
library only.
"""

from __future__ import annotations

import base64
import importlib.util
import marshal
import warnings

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

#: Limit of the address space in bytes: damaged bytecode may request any amount.
MEMORY = 4 * 1024**3


def answer(question: list[dict[str, Any]]) -> list[str]:
    """Return the fault of each .pyc, "" for none.

    Each item has the source's ``path``, ``name`` (the end of the file name that the code must have) and ``data``, the
    .pyc as ``cached``, and its -O level as ``optimization``. Bytes are base64.
    """
    _limit_memory()
    return [_fault(item, base64.b64decode(item["cached"])) for item in question]


def _fault(item: dict[str, Any], pyc: bytes) -> str:
    if pyc[:4] != importlib.util.MAGIC_NUMBER:
        return ""  # Python ignores it
    source = base64.b64decode(item["data"])
    flags = int.from_bytes(pyc[4:8], "little")
    if flags and pyc[8:16] != importlib.util.source_hash(source):
        # Python also ignores a checked-hash file that does not match.
        return "" if flags & 2 else "was compiled from a different source, and Python uses it unchecked"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = compile(source, item["path"], "exec", dont_inherit=True, optimize=int(item["optimization"] or 0))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "belongs to a source that does not compile"
    if pyc[16:] == marshal.dumps(expected):
        return ""
    try:
        code = marshal.loads(pyc[16:])  # noqa: S302 - see above
    except (EOFError, ValueError, TypeError, MemoryError, RecursionError) as error:
        return f"cannot be loaded ({type(error).__name__})"
    if not isinstance(code, type(expected)):
        return "contains no code"
    name = code.co_filename
    if name != item["name"] and not name.endswith("/" + item["name"]):
        return f"contains the code of {name}"
    return "" if _bare(code, {}) == _bare(expected, {}) else "contains code that differs from its source"


def _bare(code: CodeType, known: dict[int, CodeType]) -> CodeType:
    """Return ``code`` without file names and positions, which depend on how Python was started."""
    if id(code) not in known:
        kind = type(code)
        constants = tuple(
            _bare(constant, known) if isinstance(constant, kind) else constant for constant in code.co_consts
        )
        positions = "co_linetable" if hasattr(code, "co_linetable") else "co_lnotab"  # before Python 3.10
        bare: dict[str, Any] = {"co_filename": "", "co_consts": constants, positions: b""}
        known[id(code)] = code.replace(**bare)
    return known[id(code)]


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

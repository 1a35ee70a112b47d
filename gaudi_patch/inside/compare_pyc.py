"""Does a cached .pyc hold the code of its own source? Answered by the interpreter that would run it.

Marshalled code belongs to one version of Python, and its bytes to one process: the same code may be written with
other references. So it is loaded and compared, here and never in gaudi-patch's own process, since damaged bytecode
can end the interpreter that loads it. Nothing of it is run. Run by answer.py; standard library only.
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

#: Bytes of address space: damaged bytecode may ask for any amount.
MEMORY = 4 * 1024**3


def answer(question: list[dict[str, Any]]) -> list[str]:
    """Return for each .pyc what is wrong with it, "" for nothing.

    Its source is given by its ``path``, ``name`` (the end of the file name that its code must have) and ``data``,
    itself as ``cached``, and the -O level it was compiled at as ``optimization``. Bytes are base64.
    """
    _limit_memory()
    return [_fault(item, base64.b64decode(item["cached"])) for item in question]


def _fault(item: dict[str, Any], pyc: bytes) -> str:
    if pyc[:4] != importlib.util.MAGIC_NUMBER:
        return ""  # Python passes it over
    source = base64.b64decode(item["data"])
    flags = int.from_bytes(pyc[4:8], "little")
    if flags and pyc[8:16] != importlib.util.source_hash(source):
        # What is checked before each use is passed over, too.
        return "" if flags & 2 else "was compiled from another source, and is used unchecked"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = compile(source, item["path"], "exec", dont_inherit=True, optimize=int(item["optimization"] or 0))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "is of a source that does not compile"
    if pyc[16:] == marshal.dumps(expected):
        return ""
    try:
        code = marshal.loads(pyc[16:])  # noqa: S302 - see above
    except (EOFError, ValueError, TypeError, MemoryError, RecursionError) as error:
        return f"cannot be loaded ({type(error).__name__})"
    if not isinstance(code, type(expected)):
        return "holds no code"
    name = code.co_filename
    if name != item["name"] and not name.endswith("/" + item["name"]):
        return f"holds the code of {name}"
    return "" if _bare(code, {}) == _bare(expected, {}) else "holds other code than its source"


def _bare(code: CodeType, known: dict[int, CodeType]) -> CodeType:
    """``code`` without file names and positions: these depend on how Python was started, what it does does not."""
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

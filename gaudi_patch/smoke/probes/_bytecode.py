"""Check that Python runs the code in the source files: a stale .pyc hides a patch."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path


def stale_modules(package: str) -> Iterator[tuple[str, str]]:
    """Return the loaded modules of ``package`` that do not run their source: (module, what is wrong).

    A source loader's ``get_code`` makes the same decision as the import: the cached bytecode if it counts as valid
    (by time and size, or unchecked), else the source. That code, and for functions the code objects in memory, are
    compared with a fresh compilation.
    """
    for name, module in sorted(sys.modules.items()):
        if module is None or not (name == package or name.startswith(package + ".")):
            continue
        spec = getattr(module, "__spec__", None)
        loader = getattr(spec, "loader", None)
        origin = getattr(spec, "origin", None)
        if isinstance(loader, importlib.machinery.SourcelessFileLoader):
            yield name, f"runs {origin}, bytecode without a source"
        elif isinstance(loader, importlib.machinery.SourceFileLoader) and origin:
            problem = _problem(module, loader, Path(origin))
            if problem:
                yield name, problem


def _problem(module: types.ModuleType, loader: importlib.machinery.SourceFileLoader, source: Path) -> str:
    try:
        fresh = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        return f"{source} cannot be compiled: {error}"
    cached = getattr(module, "__cached__", None)
    # By the loader's own name, because LMCache 0.4.4 and 0.4.5 register one module under a second name (lmcache.c_ops).
    if cached and Path(cached).exists() and loader.get_code(loader.name) != fresh:
        return f"runs the bytecode in {cached}, which is not what {source} compiles to"
    known = set(_codes(fresh))
    for function in _functions(module):
        code = function.__code__
        if Path(code.co_filename) == source and code not in known:
            return f"runs a {function.__qualname__} that is not the one in {source}"
    return ""


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, types.FunctionType):
            yield value
        elif isinstance(value, type):
            for member in vars(value).values():
                inner = getattr(member, "__func__", member)
                if isinstance(inner, types.FunctionType):
                    yield inner

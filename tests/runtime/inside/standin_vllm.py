"""A stand-in for vLLM's modules: every name imported from them is a class, so LMCache's adapter can be imported.

Only LMCache's own code is under test; the tests build the objects that vLLM would pass.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType


class _Meta(type):
    """Generic classes whose attributes (members of an enumeration, say) are classes again."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _made(name)

    def __getitem__(cls, item: object) -> type:
        return cls


def _made(name: str) -> type:
    return _Meta(name, (), {"__init__": lambda self, *arguments, **named: None})


class _Module(ModuleType):
    __version__ = "0.13.0"
    __path__: list[str] = []  # noqa: RUF012 -- what makes it a package

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        return -(-a // b)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _made(name)
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "vllm":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    sys.meta_path.insert(0, _Finder())

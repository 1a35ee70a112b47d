"""The programs by name, and their shared helpers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {}


def program(prepare: Callable[[], Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
    """Register a program: a function that prepares tensors and returns the function to count."""
    PROGRAMS[prepare.__name__] = prepare
    return prepare


def mark_step() -> None:
    """Cut the lazy graph here."""
    import habana_frameworks.torch.core as htcore

    htcore.mark_step()

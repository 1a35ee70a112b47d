"""The registry of the fault programs, and their shared helpers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import gaudi_patch.emulator


class Refused(Exception):  # noqa: N818 - not an error of the program
    """The device refused what the program tried to do."""


Program = Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Entry:
    run: Program
    #: "lazy", "eager" or "both": the rules under which the program is wrong.
    rules: str


FAULTS: dict[str, Entry] = {}
CORRECT: dict[str, Program] = {}

BIG = 1 << 20  # bytes


def fault(rules: str = "both", hidden_by_sync: bool = True) -> Callable[[Program], Program]:
    """Register a fault; ``hidden_by_sync``: a schedule without delay hides it (the tests parse it from the source)."""

    def register(function: Program) -> Program:
        FAULTS[function.__name__] = Entry(function, rules)
        return function

    return register


def correct(function: Program) -> Program:
    CORRECT[function.__name__] = function
    return function


def ready(value: float, count: int = 64) -> torch.Tensor:
    """Return a device tensor whose contents have arrived."""
    t = torch.full((count,), float(value), device="hpu")
    torch.hpu.synchronize()
    return t


def mark_step() -> None:
    import habana_frameworks.torch.core as htcore

    htcore.mark_step()


def pinned(count: int = 64, **options: Any) -> torch.Tensor:
    return torch.zeros(count, **options).pin_memory()


def with_sfg(program: Callable[[], torch.Tensor]) -> torch.Tensor:
    device = gaudi_patch.emulator.current()
    device.configure(sfg=True)
    try:
        return program()
    finally:
        torch.hpu.synchronize()
        device.configure(sfg=False)


def copied_with_an_event() -> torch.Tensor:
    out, event = pinned(), torch.hpu.Event()
    out.copy_(ready(3) + 1, non_blocking=True)
    event.record()
    event.synchronize()
    return out.clone()

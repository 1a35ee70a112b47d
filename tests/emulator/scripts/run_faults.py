"""Programs with one deliberate fault each, and their correct twins: ``run_faults.py REPORT MODE REPEATS``.

A fault is caught if the program's result differs from that of a lucky run, or if the device refuses the program. Each
program returns ``(observed, expected)``. Any other error is a fault of the device and counts as neither.
"""

from __future__ import annotations

import importlib
import traceback
from typing import Any

import device_process
import torch
from faults.registry import CORRECT, FAULTS, Program, Refused

MODULES = ("copies", "order", "twins")


def _differs(program: Program) -> tuple[bool, str, str]:
    """Return whether the fault shows, how, and any other error; leave the device without pending work."""
    shown, how, broke = False, "", ""
    try:
        observed, expected = program()
        wrong = int((observed.view(torch.uint8) != expected.view(torch.uint8)).sum())
        shown, how = wrong > 0, f"{wrong} bytes differ, first value {observed.flatten()[0].item()}"
    except Refused as refusal:
        shown, how = True, str(refusal)
    except Exception:
        broke = traceback.format_exc()
    try:
        torch.hpu.synchronize()
    except Exception:
        broke += traceback.format_exc()
    return shown, how, broke


def _repeated(program: Program, repeats: int) -> dict[str, Any]:
    runs = [_differs(program) for _ in range(repeats)]
    return {
        "shown": sum(shown for shown, _, _ in runs),
        "how": sorted({how for _, how, _ in runs}),
        "broke": next((broke for _, _, broke in runs if broke), ""),
    }


def main() -> None:
    path, mode, repeats = device_process.arguments()
    device_process.activate(mode, poison=not mode.endswith("sync"))
    for module in MODULES:
        importlib.import_module(f"faults.{module}")
    rules = "lazy" if device_process.MODES[mode]["lazy"] else "eager"
    result: dict[str, Any] = {"faults": {}, "correct": {}}
    for name, entry in FAULTS.items():
        if entry.rules in ("both", rules):
            result["faults"][name] = _repeated(entry.run, int(repeats))
    for name, program in CORRECT.items():
        result["correct"][name] = _repeated(program, int(repeats))
    device_process.report(path, result)


if __name__ == "__main__":
    main()

"""Run small programs and report the device's counters: ``run_counters.py REPORT MODE``.

Before each program, the device is idle, and the counters and known signatures are reset. The counters are read directly
after the program, before any further wait.
"""

from __future__ import annotations

import importlib
import traceback
from typing import Any

import device_process
import torch
from programs.registry import PROGRAMS

MODULES = ("launches", "cuts", "copies", "writes", "fallbacks")


def _strict(emulator: Any) -> dict[str, str]:
    """Run with strict="raise", so that each operator that would fall back raises instead."""
    emulator.configure(strict="raise")
    outcome = {}
    for name, prepare in PROGRAMS.items():
        if name.endswith("_falls_back"):
            run = prepare()
            try:
                run()
                outcome[name] = "ran"
            except NotImplementedError as error:
                outcome[name] = str(error)
    emulator.configure(strict="count")
    return outcome


def _int64_bytes(emulator: Any) -> dict[str, int]:
    """Return the bytes that cross the bus for ten int64 values, sent unchanged and as int32."""
    counted = {}
    for carried in (False, True):
        emulator.configure(int64_as_int32=carried)
        emulator.counters.reset()
        torch.arange(10).to("hpu")
        counted[str(carried)] = emulator.counters.snapshot()["h2d_bytes"]
    try:
        torch.tensor([2**40]).to("hpu")
        counted["out of range"] = 0
    except RuntimeError:
        counted["out of range"] = 1
    emulator.configure(int64_as_int32=False)
    return counted


def main() -> None:
    path, mode = device_process.arguments()
    emulator = device_process.activate(mode)
    for module in MODULES:
        importlib.import_module(f"programs.{module}")
    counted: dict[str, Any] = {}
    for name, prepare in PROGRAMS.items():
        try:
            run = prepare()
            torch.hpu.synchronize()
            emulator.counters.reset(signatures=True)
            kept = run()
            counted[name] = emulator.counters.snapshot()
            torch.hpu.synchronize()
            del kept
        except Exception:
            counted[name] = {"failed": traceback.format_exc()}
    device_process.report(
        path, {"counted": counted, "strict": _strict(emulator), "int64_bytes": _int64_bytes(emulator)}
    )


if __name__ == "__main__":
    main()

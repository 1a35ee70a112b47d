"""Run every conformance case on the CPU and on the emulated HPU: ``run_cases.py REPORT MODE [NAME...]``."""

from __future__ import annotations

import importlib
import traceback
import warnings
from pathlib import Path

import device_process


def main() -> None:
    path, mode, *only = device_process.arguments()
    # The values are compared here, including those of pageable memory; run_faults.py covers missing waits.
    emulator = device_process.activate(mode, bounces="waited")
    import torch
    from cases import _case

    torch.use_deterministic_algorithms(False)
    for file in sorted(Path(__file__).with_name("cases").glob("[a-z]*.py")):
        importlib.import_module(f"cases.{file.stem}")
    outcome: dict[str, str] = {}
    for name, case in _case.CASES.items():
        if not only or name in only:
            outcome[name] = _compare(case, _case)
    for name, run in _case.CHECKS.items():
        if not only or name in only:
            outcome[name] = _guarded(run)
    torch.hpu.synchronize()
    launched = emulator.counters.snapshot()["ops"]
    device_process.report(path, {"outcome": outcome, "compared": len(_case.CASES), "ops": launched})


def _compare(case, _case) -> str:  # type: ignore[no-untyped-def]
    def run() -> None:
        import torch

        reference = case.run(_case.Target("cpu"))
        trial = case.run(_case.Target("hpu"))
        torch.hpu.synchronize()
        if found := _case.difference(reference, trial, case.layout):
            raise AssertionError(found)

    return _guarded(run)


def _guarded(run) -> str:  # type: ignore[no-untyped-def]
    """Return an empty string for success, else the traceback; leave the device without pending work."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
        failure = ""
    except Exception:
        failure = traceback.format_exc()
    try:
        torch.hpu.synchronize()
    except Exception:
        failure += "left an error on the device:\n" + traceback.format_exc()
    return failure


if __name__ == "__main__":
    main()

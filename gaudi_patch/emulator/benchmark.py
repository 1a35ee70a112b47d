"""Measure the cost of the emulated device: ``python -m gaudi_patch.emulator --benchmark``.

All times are CPU time, which the load of the machine does not distort.
"""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import build, pytorch
from .device import activate
from .options import EmulatorError

BUDGETS = {"first build (s)": 40.0, "activation on top of torch (ms)": 50.0, "one operator, issued (us)": 10.0}
_OPERATORS = 2000


def first_build() -> float:
    """Return the CPU time in seconds of a build with an empty cache: its wall time on an idle machine."""
    torch = importlib.import_module("torch")
    with tempfile.TemporaryDirectory() as scratch:
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        build.compile_to(Path(scratch) / "device.so", pytorch.running(torch))
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def activation() -> float:
    """Return the CPU time in milliseconds to import and activate the emulator after torch is imported."""
    program = (
        "import importlib.util, sys, time, torch\n"
        "start = time.process_time()\n"
        f"place = {str(Path(__file__).resolve().parent)!r}\n"
        "spec = importlib.util.spec_from_file_location('hpu_emulator', place + '/__init__.py',"
        " submodule_search_locations=[place])\n"
        "module = sys.modules['hpu_emulator'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module.activate()\n"
        "print((time.process_time() - start) * 1000)\n"
    )
    runs = []
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": ""}
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
        )
        if result.returncode != 0:
            raise EmulatorError(result.stderr)
        runs.append(float(result.stdout.split()[-1]))
    return min(runs)


def operators() -> dict[str, tuple[float, float]]:
    """Return, per operator, the CPU time in microseconds to issue it and to run it in the next wait."""
    emulator = activate()
    torch: Any = importlib.import_module("torch")
    x = torch.ones(8, 8, device="hpu")
    rows, index = torch.ones(4, 8, device="hpu"), torch.arange(4, device="hpu")
    host = torch.ones(8, 8)
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: x + 1,
        "add_ in place": lambda: x.add_(1),
        "index_select": lambda: x.index_select(0, index),
        "index_copy_": lambda: x.index_copy_(0, index, rows),
        "cat": lambda: torch.cat([x, x]),
        "slice (a view)": lambda: x[1:3],
        "empty": lambda: torch.empty(8, 8, device="hpu"),
        "copy to the device": lambda: host.to("hpu"),
        "copy to the host": lambda: x.cpu(),
    }
    result = {}
    for name, call in calls.items():
        call()
        torch.hpu.synchronize()
        start = time.thread_time()
        for _ in range(_OPERATORS):
            call()
        issued = time.thread_time()
        torch.hpu.synchronize()
        done = time.thread_time()
        result[name] = ((issued - start) * 1e6 / _OPERATORS, (done - issued) * 1e6 / _OPERATORS)
    emulator.counters.reset()
    return result


def report() -> int:
    """Print the figures with their budgets; return 1 if any figure exceeds its budget, else 0."""
    build_seconds, activation_ms, costs = first_build(), activation(), operators()
    issue = sum(costs[name][0] for name in ("add", "add_ in place", "index_select", "index_copy_", "cat")) / 5
    figures = dict(zip(BUDGETS, (build_seconds, activation_ms, issue), strict=True))
    print(f"torch {importlib.import_module('torch').__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    for name, figure in figures.items():
        print(f"{name:<34}{figure:>9.1f}   budget {BUDGETS[name]:g}{'' if figure <= BUDGETS[name] else '   OVER'}")
    print(f"\n{'CPU time in us':<34}{'issue':>9}{'run':>9}")
    for name, (issued, run) in costs.items():
        print(f"{name:<34}{issued:>9.2f}{run:>9.2f}")
    return int(any(figure > BUDGETS[name] for name, figure in figures.items()))

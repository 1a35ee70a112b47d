"""The signatures of the device's Python packages: ``run_signatures.py REPORT MODE``."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from typing import Any

import device_process

#: Names in the table are dotted paths from one of these modules.
MODULES = {
    "htcore": "habana_frameworks.torch.core",
    "internal": "habana_frameworks.torch.utils.internal",
    "metrics": "habana_frameworks.torch.hpu.metrics",
    "hpu": "habana_frameworks.torch.hpu",
    "Tensor": "torch",
}


def _describe(function: Any) -> list[list[str]] | str:
    """Return each parameter as name, kind, default; without annotations, whose spelling in the real package differs."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        return f"no signature: {error}"
    return [
        [p.name, p.kind.name, "required" if p.default is p.empty else str(getattr(p.default, "value", p.default))]
        for p in signature.parameters.values()
    ]


def _find(dotted: str) -> Any:
    first, *rest = dotted.split(".")
    found = importlib.import_module(MODULES[first])
    for name in ["Tensor", *rest] if first == "Tensor" else rest:
        found = inspect.getattr_static(found, name) if inspect.isclass(found) else getattr(found, name)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
    return found


def _call(action: Any) -> str:
    """Return the outcome of a call: the exception's name, or "returned" and the value's repr."""
    try:
        return f"returned {action()!r}"
    except Exception as error:
        return type(error).__name__


def main() -> None:
    path, mode = device_process.arguments()
    device_process.activate(mode)
    import habana_frameworks.torch as htorch
    import habana_frameworks.torch.core as htcore
    import torch

    wanted = json.loads(sys.stdin.read())
    signatures: dict[str, Any] = {}
    for name in wanted:
        try:
            signatures[name] = _describe(_find(name))
        except AttributeError as error:
            signatures[name] = f"missing: {error}"
    stream, event = torch.hpu.Stream(), torch.hpu.Event()
    calls = {
        "mark_step(1, 2, 3)": lambda: htcore.mark_step("", True, 3),
        "mark_step(flush=True)": lambda: htcore.mark_step(flush=True),
        "mark_step()": lambda: htcore.mark_step(),
        "mark_step(device_str, sync)": lambda: htcore.mark_step(device_str="", sync=True),
        "synchronize('hpu')": lambda: torch.hpu.synchronize("hpu"),
        "synchronize(device=None)": lambda: torch.hpu.synchronize(device=None),
        "Stream(non_blocking=True)": lambda: torch.hpu.Stream(non_blocking=True),
        "Event(blocking=True)": lambda: torch.hpu.Event(blocking=True),
        "Event(True, True)": lambda: torch.hpu.Event(True, True),
        "Event(interprocess=True)": lambda: torch.hpu.Event(interprocess=True),
        "current_stream(0, 1)": lambda: torch.hpu.current_stream(0, 1),
        "stream.synchronize(1)": lambda: stream.synchronize(1),
        "stream.wait_event()": lambda: stream.wait_event(),
        "event.record(None, 1)": lambda: event.record(None, 1),
        "event.elapsed_time()": lambda: event.elapsed_time(),
        "manual_seed()": lambda: torch.hpu.manual_seed(),
        "memory_stats(0, 1)": lambda: torch.hpu.memory_stats(0, 1),
        "set_device()": lambda: torch.hpu.set_device(),
    }
    absent = ("empty_cache", "ipc_collect", "get_per_process_memory_fraction", "memory_snapshot", "list_gpu_processes")
    device_process.report(
        path,
        {
            "signatures": signatures,
            "calls": {name: _call(action) for name, action in calls.items()},
            "extras": [name for name in absent if hasattr(torch.hpu, name)],
            "has_graphs": hasattr(torch.hpu, "HPUGraph"),
            "alias": htorch.hpu is torch.hpu,
            "inductor_threads": os.environ.get("TORCHINDUCTOR_COMPILE_THREADS"),
            "is_lazy": importlib.import_module(MODULES["internal"]).is_lazy(),
        },
    )


if __name__ == "__main__":
    main()

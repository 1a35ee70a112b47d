"""The process's emulated device: activation, counters, trace."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from . import build
from .options import EmulatorError, Options

PACKAGES = Path(__file__).resolve().parent / "packages"

Counts = dict[str, Any]
OptionValue = bool | str | None

_lock = threading.RLock()
_emulator: Emulator | None = None


class Counters:
    """What the device has done since the last reset; names are explained in README.md."""

    def __init__(self, ops: ModuleType) -> None:
        self._ops = ops

    def snapshot(self) -> Counts:
        """The counters, ready for JSON: numbers, and dictionaries of numbers."""
        counts: Counts = json.loads(self._ops.counters())
        return counts

    def reset(self, *, signatures: bool = False) -> None:
        """Sets the counters to zero.

        :param signatures: forget the graph signatures seen so far too, so that each counts as a compilation again.
        """
        self._ops.reset_counters(signatures)


class Emulator:
    """The emulated device of this process. Made by :func:`activate`."""

    def __init__(self, options: Options, ops: ModuleType, library: Path) -> None:
        self.options = options
        self.library = library
        self.counters = Counters(ops)
        self._ops = ops
        self._tracing = False

    def trace(self, on: bool = True) -> list[dict[str, Any]]:
        """Starts (True) or stops (False) recording events; returns those recorded so far and forgets them."""
        events: list[dict[str, Any]] = json.loads(self._ops.take_trace())
        self._ops.set_tracing(on)
        return events

    def pending(self) -> int:
        """The operators and copies that have been issued and not yet run."""
        return int(self._ops.pending())

    def configure(self, **options: OptionValue) -> None:
        """Changes options of the running device; ``lazy`` and ``autoload`` are fixed at activation.

        :raises ValueError: for those, and for a value that an option does not take.
        """
        fixed = {"lazy", "autoload"} & set(options)
        if fixed:
            message = f"{', '.join(sorted(fixed))} cannot change once the device is active"
            raise ValueError(message)
        current = {name: getattr(self.options, name) for name in self.options.__dataclass_fields__}
        self.options = Options.read({**current, **options}, {})
        self._apply()

    def environment(self) -> dict[str, str]:
        """Variables for a child process, in which ``import habana_frameworks.torch`` then brings up the device."""
        variables = self.options.environment()
        others = os.environ.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([str(PACKAGES), *([others] if others else [])])
        return variables

    def _apply(self) -> None:
        # A spawned process starts from the environment alone, and must have its parent's device.
        self.options.export(os.environ)
        for name, value in self.options.device_settings().items():
            self._ops.set_option(name, value)


def active() -> Emulator | None:
    """The active device, or None."""
    return _emulator


def current() -> Emulator:
    """The active device.

    :raises EmulatorError: when there is none.
    """
    if _emulator is None:
        message = "the emulated HPU is not active in this process; call activate() first"
        raise EmulatorError(message)
    return _emulator


def activate(**options: OptionValue) -> Emulator:
    """Brings up the emulated device in this process; see :class:`Options`.

    A second call returns the same device.

    :raises EmulatorError: when the device cannot be built, PyTorch already has another ``hpu`` backend, a real Gaudi
        is present, or an option contradicts the active device.
    """
    global _emulator
    with _lock:
        if _emulator is not None:
            _refuse_contradiction(_emulator.options, options)
            return _emulator
        settled = Options.read(options, os.environ)
        _refuse_real_device()
        torch = importlib.import_module("torch")
        if hasattr(torch, "hpu"):
            message = "PyTorch already has an hpu backend in this process"
            raise EmulatorError(message)
        library = build.library(torch)
        torch.ops.load_library(str(library))
        emulator = Emulator(settled, torch.ops.hpu_emulator, library)
        emulator._apply()
        if str(PACKAGES) not in sys.path:
            sys.path.insert(0, str(PACKAGES))
            importlib.invalidate_caches()
        _emulator = emulator
        if settled.autoload:
            importlib.import_module("habana_frameworks.torch")
        return emulator


def _refuse_contradiction(active: Options, given: dict[str, OptionValue]) -> None:
    wanted = Options.read({**{n: getattr(active, n) for n in active.__dataclass_fields__}, **given}, {})
    for name in given:
        if getattr(wanted, name) != getattr(active, name):
            message = (
                f"the emulated HPU is active with {name}={getattr(active, name)!r}, not {getattr(wanted, name)!r}; "
                "use another process, or Emulator.configure for what can change"
            )
            raise EmulatorError(message)


def _refuse_real_device() -> None:
    loaded = sys.modules.get("habana_frameworks")
    spec = importlib.util.find_spec("habana_frameworks") if loaded is None else loaded.__spec__
    origin = spec.origin if spec else None
    ours = origin is not None and PACKAGES in Path(origin).resolve().parents
    if spec is None or ours:
        return
    if loaded is not None:
        message = "the real habana_frameworks is already imported in this process"
        raise EmulatorError(message)
    nodes = [*Path("/dev/accel").glob("accel[0-9]*"), *Path("/dev").glob("hl[0-9]*")]
    if nodes:
        message = f"habana_frameworks is installed and a device is present ({nodes[0]}); use the real one"
        raise EmulatorError(message)

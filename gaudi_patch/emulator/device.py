"""The process's emulated device: activation, counters, trace."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from . import build, pytorch, real_plugin
from .options import HOST_VARIABLE, EmulatorError, Options

PACKAGES = real_plugin.PACKAGES

Counts = dict[str, Any]
OptionValue = bool | str | int | None

_lock = threading.RLock()
_emulator: Emulator | None = None


class Counters:
    """The device's counters since the last reset; README.md explains the names."""

    def __init__(self, ops: ModuleType) -> None:
        self._ops = ops

    def snapshot(self) -> Counts:
        """Return the counters, ready for JSON: numbers, and dictionaries of numbers."""
        counts: Counts = json.loads(self._ops.counters())
        return counts

    def reset(self, *, signatures: bool = False) -> None:
        """Set the counters to zero.

        :param signatures: also forget the graph signatures seen so far, so that each counts as a compilation again.
        """
        self._ops.reset_counters(signatures)


class Emulator:
    """The emulated device of this process, created by :func:`activate`."""

    def __init__(self, options: Options, ops: ModuleType, library: Path) -> None:
        self.options = options
        self.library = library
        self.counters = Counters(ops)
        self._ops = ops
        self._tracing = False

    def trace(self, on: bool = True) -> list[dict[str, Any]]:
        """Start (True) or stop (False) recording events; return and forget those recorded so far."""
        events: list[dict[str, Any]] = json.loads(self._ops.take_trace())
        self._ops.set_tracing(on)
        return events

    def pending(self) -> int:
        """Return the number of operators and copies that were issued but have not run yet."""
        return int(self._ops.pending())

    def configure(self, **options: OptionValue) -> None:
        """Change options of the running device.

        :raises ValueError: for ``lazy`` and ``autoload``, which activation fixes, and for an invalid value.
        """
        fixed = {"lazy", "autoload"} & set(options)
        if fixed:
            message = f"{', '.join(sorted(fixed))} cannot change once the device is active"
            raise ValueError(message)
        current = {name: getattr(self.options, name) for name in self.options.__dataclass_fields__}
        self.options = Options.read({**current, **options}, {})
        self._apply()

    def environment(self) -> dict[str, str]:
        """Return variables for a child process: ``import habana_frameworks.torch`` then activates the device there."""
        variables = {**self.options.environment(), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        variables[HOST_VARIABLE] = os.environ[HOST_VARIABLE]
        real_plugin.export(variables)
        return variables

    def _apply(self) -> None:
        # A spawned process inherits only the environment, and needs the same device as its parent.
        self.options.export(os.environ)
        for name, value in self.options.device_settings().items():
            self._ops.set_option(name, value)


def active() -> Emulator | None:
    """Return the active device, or None."""
    return _emulator


def current() -> Emulator:
    """Return the active device.

    :raises EmulatorError: if there is none.
    """
    if _emulator is None:
        message = "the emulated HPU is not active in this process; call activate() first"
        raise EmulatorError(message)
    return _emulator


def activate(**options: OptionValue) -> Emulator:
    """Activate the emulated device in this process; see :class:`Options`.

    A second call returns the same device.

    :raises EmulatorError: if the device cannot be built, PyTorch already has another ``hpu`` backend, a real Gaudi
        is present, or an option contradicts the active device.
    """
    global _emulator
    with _lock:
        if _emulator is not None:
            _refuse_contradiction(_emulator.options, options)
            return _emulator
        settled = Options.read(options, os.environ)
        real_plugin.refuse()
        # Before importing PyTorch, which would load the real plugin.
        before = os.environ.get(real_plugin.AUTOLOAD_VARIABLE)
        os.environ[real_plugin.AUTOLOAD_VARIABLE] = "0"
        try:
            torch = importlib.import_module("torch")
            if hasattr(torch, "hpu"):
                message = "PyTorch already has an hpu backend in this process"
                raise EmulatorError(message)
            _hide_gpus(torch)
            library = _load(torch)
        except BaseException:
            _restore(real_plugin.AUTOLOAD_VARIABLE, before)
            raise
        # This process and its children share the cards of one host.
        os.environ.setdefault(HOST_VARIABLE, secrets.token_hex(8))
        emulator = Emulator(settled, torch.ops.hpu_emulator, library)
        emulator._apply()
        _emulator = emulator
        try:
            real_plugin.put_in_front()
        except BaseException:
            _emulator = None
            real_plugin.take_back()
            raise
        if settled.autoload:
            importlib.import_module("habana_frameworks.torch")
        return emulator


def _load(torch: ModuleType) -> Path:
    library = build.library(pytorch.running(torch))
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        message = f"the compiled device {library} cannot be loaded: {error}"
        raise EmulatorError(message) from error
    return library


def _hide_gpus(torch: ModuleType) -> None:
    # A process has one kind of accelerator. PyTorch does not look for GPUs before their first use.
    if torch.version.cuda is None:
        return
    if torch.cuda.is_initialized():
        message = "PyTorch uses a GPU in this process; activate the emulated HPU first, or in another process"
        raise EmulatorError(message)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _refuse_contradiction(active: Options, given: dict[str, OptionValue]) -> None:
    wanted = Options.read({**{n: getattr(active, n) for n in active.__dataclass_fields__}, **given}, {})
    for name in given:
        if getattr(wanted, name) != getattr(active, name):
            message = (
                f"the emulated HPU is active with {name}={getattr(active, name)!r}, not {getattr(wanted, name)!r}; "
                "use another process, or Emulator.configure for options that can change"
            )
            raise EmulatorError(message)

# SPDX-License-Identifier: Apache-2.0
"""The device: the only module that touches ``habana_frameworks`` and ``torch.hpu``.

Rules kept here, with their source in gaudi-pytorch-bridge (HabanaAI, release 1.19):

* ``torch.hpu`` exists only once ``habana_frameworks.torch`` is imported, and in lazy mode nothing imports it
  by itself (python_packages/habana_frameworks/autoload/__init__.py). So :func:`load_habana` runs before any
  device detection.
* A process owns one device, index 0 (backend/habana_device/HPUGuardImpl.h). The device is always written
  ``"hpu"``, never with an index, and ``set_device`` is never called.
* ``mark_step`` submits and does not wait; only ``synchronize`` waits, and it takes no argument
  (python_packages/habana_frameworks/torch/hpu/__init__.py).
* Only a blocking copy waits for host memory that is not pinned, and pinned is what :mod:`.pinning` says.
* With ``PT_HPU_ENABLE_SFG=1`` in lazy mode, recording an event does not join the thread that still holds copies to the
  host back (backend/habana_device/HPUEvent.cpp:90-98, habana_kernels/lazy_kernels.cpp:829-872).
* A question may claim a card: ``get_device_name`` does, ``is_available`` and ``device_count`` do not
  (python_packages/habana_frameworks/torch/hpu/__init__.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from . import pinning
from .pinning import DEVICE

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEVICE",
    "Backend",
    "Event",
    "HostBackend",
    "HpuBackend",
    "backend_for",
    "broadcast_device",
    "describe_device",
    "is_available",
    "load_habana",
]

#: The device's name in LMCache's usage statistics: reading its real name would claim it.
_NAME = "Intel Gaudi"
_NUMBERS = itertools.count()


class Event(Protocol):
    """A point in the device's queue that the host can wait for."""

    def synchronize(self) -> None:
        """Block the calling thread until the work recorded before the event is done."""


def load_habana() -> bool:
    """Import ``habana_frameworks.torch`` where it is installed, so that ``torch.hpu`` exists.

    Cheap, and without side effects, on hosts without Gaudi software: nothing is imported there, torch included.

    Returns:
        True when an HPU can be used by this process.

    Raises:
        ImportError: habana_frameworks is installed and broken. That must not end in a quiet run on the CPU.
    """
    if importlib.util.find_spec("habana_frameworks") is None:
        return False
    importlib.import_module("habana_frameworks.torch")
    if not is_available():
        return False
    torch_module = sys.modules["torch"]
    if torch_module.cuda.is_available():
        # GPU migration (PT_HPU_GPU_MIGRATION=1) answers for torch.cuda; LMCache 0.5.2 and 0.5.3 ask CUDA first.
        os.environ.setdefault("DEVICE_TYPE", DEVICE)
        _shadow_cuda_ops()
    return True


def _shadow_cuda_ops() -> None:
    """Let ``import lmcache.c_ops`` give LMCache's own fallback.

    Up to 0.4.3 that import depends on ``torch.cuda.is_available()`` alone, and the extension needs CUDA's libraries.
    Later releases choose by themselves and have no module of this name.
    """
    if importlib.util.find_spec("lmcache.non_cuda_equivalents") is not None:
        sys.modules.setdefault("lmcache.c_ops", importlib.import_module("lmcache.non_cuda_equivalents"))


def is_available() -> bool:
    """Return whether this process can use an HPU; imports nothing.

    Returns:
        True once :func:`load_habana` has run on a host with a device.
    """
    torch_module = sys.modules.get("torch")
    hpu = getattr(torch_module, "hpu", None)
    return hpu is not None and bool(hpu.is_available())


def broadcast_device(device_type: str, index: int) -> str:
    """Return where a process keeps its copy of a tensor that the ranks of a group broadcast.

    Args:
        device_type: The device type that LMCache has detected or assumes.
        index: The index that LMCache would use, from the rank.

    Returns:
        ``"hpu"`` on Gaudi, where the only device of a process is number 0 whatever the rank;
        ``f"{device_type}:{index}"`` elsewhere.
    """
    return DEVICE if is_available() else f"{device_type}:{index}"


def describe_device() -> tuple[int, str, int]:
    """Return the description of the device for LMCache's usage statistics.

    The process may be the scheduler's, which has no card and must not take one from a worker. Name, properties and
    memory of a device are reported only to the process that holds it (bridge 1.19, hpu/__init__.py: ``_lazy_init``).

    Returns:
        Number of devices; a name that is the same for all of them; 0 for the memory.
    """
    import torch

    hpu: Any = torch.hpu  # type: ignore[attr-defined]
    return int(hpu.device_count()), _NAME, 0


class Backend(Protocol):
    """The device operations that a transfer needs."""

    device: torch.device
    #: Whether the caches may be bit-cast to integers, for a device without data movement in every dtype.
    bitcast: bool

    def submit(self) -> None:
        """Submit the operations recorded so far as one graph; does not wait."""

    def synchronize(self) -> None:
        """Wait for everything that this process has submitted to the device."""

    def record(self) -> Event:
        """Record an event after everything submitted so far."""

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Copy between host and device; the end is covered by the next event and by the next synchronize.

        Waits where that is the only way to cover it.
        """

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Allocate a host buffer, uint8 ``[nbytes]``, pinned for this device where that is possible."""

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Return whether the device's driver would copy to and from ``tensor`` without a bounce buffer."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` compiled to one graph per call, if the mode needs a compiler for that."""


class HpuBackend:
    """The HPU, in lazy mode (``PT_HPU_LAZY_MODE=1``) and in eager mode (0, vllm-gaudi's default)."""

    bitcast = False

    def __init__(self) -> None:
        import torch

        if not load_habana():
            raise RuntimeError("no HPU: habana_frameworks.torch is not installed, or reports no device")
        self.device = torch.device(DEVICE)
        self._hpu: Any = torch.hpu  # type: ignore[attr-defined]
        core = importlib.import_module("habana_frameworks.torch.core")
        internal = importlib.import_module("habana_frameworks.torch.utils.internal")
        self._mark_step: Callable[[], None] = core.mark_step
        self.lazy = bool(internal.is_lazy())
        self.events_cover_copies = not (self.lazy and _is_set("PT_HPU_ENABLE_SFG"))

    def submit(self) -> None:
        """Cut the lazy graph here. In eager mode every operation has been submitted already."""
        if self.lazy:
            self._mark_step()

    def synchronize(self) -> None:
        """Wait for the device. Submits what is pending; the call takes no device (bridge 1.19)."""
        self._hpu.synchronize()

    def record(self) -> Event:
        """Record an event on the current stream.

        On the default stream the bridge records it behind the compute and both DMA queues
        (backend/synapse_helpers/device.cpp, ``record_event``), so it also covers copies. Where it does not
        (``PT_HPU_ENABLE_SFG=1``), the device is waited for instead.
        """
        if not self.events_cover_copies:
            self.synchronize()
            return _Happened()
        event = self._hpu.Event()
        event.record()
        return event  # type: ignore[no-any-return]

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Copy without waiting if the host's side is pinned, and wait for the copy otherwise; see :mod:`.pinning`."""
        host = destination if destination.device.type == "cpu" else source
        destination.copy_(source, non_blocking=pinning.is_pinned(host))

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Uint8 ``[nbytes]``, zero-filled; pageable where nothing can be pinned."""
        return pinning.allocate(nbytes)

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Return whether ``tensor`` starts a block that was pinned here; see :func:`.pinning.is_pinned`."""
        return pinning.is_pinned(tensor)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``torch.compile`` with the ``hpu_backend`` in eager mode, where that backend is registered."""
        if self.lazy:
            return function
        import torch

        # The bridge registers the backend when it is imported; without the registry there is none.
        registry = sys.modules.get("torch._dynamo.backends.registry")
        if registry is None or "hpu_backend" not in registry.list_backends(exclude_tags=()):
            return function
        assert isinstance(function, FunctionType)
        # A separate code object: PyTorch counts recompilations per code object, and gives up after a few.
        name = f"{function.__name__}_{next(_NUMBERS)}"
        own = FunctionType(
            function.__code__.replace(co_name=name), function.__globals__, name, None, function.__closure__
        )
        compiled: Callable[..., Any] = torch.compile(own, backend="hpu_backend", dynamic=False)
        return compiled


class HostBackend:
    """The CPU instead of a device: for tests of the arithmetic, never chosen automatically."""

    bitcast = True

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cpu")

    def submit(self) -> None:
        """Do nothing: the CPU has already run everything."""

    def synchronize(self) -> None:
        """Do nothing: the CPU never lags behind."""

    def record(self) -> Event:
        """Return an event that has already happened."""
        return _Happened()

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Copy; done on return."""
        destination.copy_(source)

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Return plain memory, zero-filled."""
        import torch

        return torch.zeros(nbytes, dtype=torch.uint8)

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Plain memory needs no pinning to be copied on the CPU."""
        return True

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` unchanged."""
        return function


def _is_set(variable: str) -> bool:
    """Return whether the bridge would treat an environment variable as true."""
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "off", "no")


class _Happened:
    def synchronize(self) -> None:
        return


def backend_for(device: torch.device) -> Backend:
    """Return the backend of the device that holds the KV caches.

    Raises:
        ValueError: the caches are neither on an HPU nor on the CPU.
    """
    if device.type == DEVICE:
        return HpuBackend()
    if device.type == "cpu":
        return HostBackend()
    raise ValueError(f"KV caches are on {device}, not on an HPU")

"""The probe's device: its kind, and its counters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _probe

COUNTED = (
    "graph_launches",
    "graph_compilation",
    "h2d_copies",
    "d2h_copies",
    "bounce_bytes",
    "pinned_bytes",
    "blocking_copies",
    "device_syncs",
    "event_syncs",
    "view_writes",
    "whole_copies",
    "blocking_copies",
    "cpu_fallback",
    "device_traffic_bytes",
    "peak_staging_bytes",
)


def confirm(probe: _probe.Probe) -> None:
    """Check that the device is the one named in the result."""
    _probe.load("habana_frameworks")
    _probe.confirm_habana(probe)
    probe.checks += 1
    internal = _probe.load("habana_frameworks.torch.utils.internal")
    lazy = bool(internal.is_lazy())
    probe.check(
        lazy == (probe.rules == "lazy"),
        f"the device runs in {'lazy' if lazy else 'eager'} mode, and the check is for {probe.rules} mode",
    )
    torch = _probe.load("torch")
    probe.check(torch.hpu.is_available(), "torch.hpu.is_available() is False")
    _confirm_pinned_memory(probe, torch)


def _confirm_pinned_memory(probe: _probe.Probe, torch: Foreign) -> None:
    """Check pinned memory, which LMCache needs: without it, all later checks would fail for unclear reasons."""
    try:
        pinned = torch.empty(16, pin_memory=True)
        known = pinned.is_pinned() or pinned.is_pinned("hpu")
    except Exception as error:
        probe.end(
            f"PyTorch {torch.__version__} cannot allocate pinned memory for this device: {_probe.describe(error)}"
        )
    if not known:
        probe.end(f"PyTorch {torch.__version__} does not know its own pinned memory (is_pinned() is False)")
    probe.checks += 1


def register_compiler(probe: _probe.Probe) -> None:
    """In eager mode, register the backend of torch.compile, as the real habana_frameworks does on import.

    The emulated one leaves that to PyTorch, which finds backends when its registry is imported. This takes a second
    or two, which most programs do not need. Without the backend, compiled code runs operator by operator.
    """
    if probe.rules == "eager":
        registry = _probe.load("torch._dynamo.backends.registry")
        known = registry.list_backends(exclude_tags=())
        probe.check("hpu_backend" in known, f"torch.compile has no hpu_backend, only {', '.join(known)}")


class Counts(dict[str, int]):
    """The device's counts for a section of code; counters that this device lacks are missing."""

    def at_most(self, probe: _probe.Probe, name: str, limit: int, what: str) -> None:
        """Check a count against its limit, if it was counted."""
        if name in self:
            probe.check(
                self[name] <= limit,
                f"{what}: {name} is {self[name]}, more than {limit}",
                counter=name,
                found=self[name],
                limit=limit,
            )


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Count the device's work within the block; the result is filled in at its end.

    A real HPU reports only the number of compiled graphs.
    """
    counts = Counts()
    emulator = sys.modules.get("hpu_emulator")
    if emulator is not None:
        counters: Any = emulator.current().counters
        counters.reset()
        try:
            yield counts
        finally:
            snapshot = counters.snapshot()
            counts.update({name: int(snapshot[name]) for name in COUNTED})
        return
    before = _compiled()
    yield counts
    after = _compiled()
    if before is not None and after is not None:
        counts["graph_compilation"] = after - before


def _compiled() -> int | None:
    try:
        metrics = _probe.load("habana_frameworks.torch.hpu.metrics")
        stats = dict(metrics.metric_global("graph_compilation").stats())
        return int(stats["TotalNumber"])
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        return None


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """On the emulated device, run functions under ``torch.compile`` without compiling them.

    There a compiled function does the same as its source, and compiling takes most of the time. On a real device the
    compiled graph is what must be checked, so nothing changes; nor before PyTorch 2.6.
    """
    set_stance = getattr(_probe.load("torch").compiler, "set_stance", None)
    if "hpu_emulator" not in sys.modules or set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield


@contextlib.contextmanager
def streams_reversed() -> Iterator[bool]:
    """Make the emulated device run its streams in reverse order at each wait; yield whether it does.

    Unordered work on different streams, right only by chance otherwise, then gives wrong results.
    """
    emulator = sys.modules.get("hpu_emulator")
    if emulator is None:
        yield False
        return
    device: Any = emulator.current()
    before = device.options.schedule
    device.configure(schedule="reversed")
    try:
        yield True
    finally:
        device.configure(schedule=before)


@contextlib.contextmanager
def nothing_pinned() -> Iterator[bool]:
    """Make the emulated device refuse to pin more host memory; yield whether it does."""
    with _configured(pinned_bytes=1) as emulated:
        yield emulated


@contextlib.contextmanager
def events_cover_no_copies() -> Iterator[bool]:
    """Exclude copies to the host from events, as with PT_HPU_ENABLE_SFG=1 in lazy mode; yield whether it works."""
    before = os.environ.get("PT_HPU_ENABLE_SFG")
    os.environ["PT_HPU_ENABLE_SFG"] = "1"
    try:
        with _configured(sfg=True) as emulated:
            yield emulated
    finally:
        if before is None:
            del os.environ["PT_HPU_ENABLE_SFG"]
        else:
            os.environ["PT_HPU_ENABLE_SFG"] = before


@contextlib.contextmanager
def copies_in_order() -> Iterator[None]:
    """Make the emulated device do all copies in stream order, including those that no wait covers."""
    with _configured(bounces="waited"):
        yield


@contextlib.contextmanager
def _configured(**options: Foreign) -> Iterator[bool]:
    emulator = sys.modules.get("hpu_emulator")
    if emulator is None:
        yield False
        return
    device: Any = emulator.current()
    before = {name: getattr(device.options, name) for name in options}
    device.configure(**options)
    try:
        yield True
    finally:
        device.configure(**before)


def holds_a_card() -> bool | None:
    """Return whether this process has taken a card; None if unknown."""
    if "hpu_emulator" not in sys.modules:
        return None
    return bool(_probe.load("torch").ops.hpu_emulator.acquired())


@contextlib.contextmanager
def unpoisoned() -> Iterator[None]:
    """Stop the emulated device from filling fresh and freed memory, for timed work.

    Filling costs more the more memory is in use, and no real device does it.
    """
    emulator = sys.modules.get("hpu_emulator")
    if emulator is None:
        yield
        return
    device: Any = emulator.current()
    before = device.options.poison
    device.configure(poison=False)
    try:
        yield
    finally:
        device.configure(poison=before)

"""Transfers through LMCache's connector that are checked byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv import oracle as kv_oracle
    from gaudi_patch.smoke.probes._kv.caches import Caches
    from gaudi_patch.smoke.probes._kv.connector import Port, Span, columns
    from gaudi_patch.smoke.probes._kv.oracle import Random
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _probe

    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache
    from _kv import oracle as kv_oracle
    from _kv.connector import Port, Span, columns

np: Any = _probe.load("numpy")

GUARD = 0xC3  # fills the objects next to those of a request
STALE = 0x5A  # fills an object before it is stored into
REUSED = 0xA5  # overwrites an object after the load, like its next user


class Rig(Port):
    """One set of caches behind one connector; every transfer is checked."""

    def __init__(
        self, probe: _probe.Probe, caches: Caches, chunk: int, allocator: kv_lmcache.Allocator, rng: Random
    ) -> None:
        super().__init__(caches, chunk, allocator, rng)
        self._probe = probe

    def store(
        self,
        slots: Sequence[int],
        spans: Sequence[Span],
        *,
        single: bool = False,
        counted: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> kv_device.Counts:
        """Store and check the objects, their neighbours and the caches.

        single: one object per call. counted: the counts cover only the transfer; otherwise the forward pass is still
        running when LMCache stores its result, and is counted too. before: extra work queued on the device just
        before the call, and counted.
        """
        self.caches.write_pending([slots[token] for start, end in spans for token in range(start, end)])
        if counted:
            self._torch.hpu.synchronize()
        objects, guards = self._objects(spans)
        for memory_object in objects:
            for content in self.contents(memory_object):
                content.fill(STALE)
        arguments = self.arguments(slots)
        with kv_device.counting() as counts:
            before()
            if single:
                for memory_object, (start, end) in zip(objects, spans):  # noqa: B905 - equal by construction
                    self.connector.from_gpu(memory_object, start, end, **arguments)
            else:
                self.connector.batched_from_gpu(objects, *columns(spans), **arguments)
        # No wait here: the objects must be complete when the call returns.
        found = [[content.copy() for content in self.contents(item)] for item in objects]
        for number, (start, end) in enumerate(spans):
            for layers, content in zip(self.kinds, found[number]):  # noqa: B905 - of equal length by construction
                planes = [self.caches.truth[plane] for plane in self.caches.plane_numbers(layers)]
                expected, defined = kv_oracle.stored(planes, slots, start, end)
                problem = kv_oracle.difference(content, expected, defined)
                self._probe.check(not problem, f"the stored object of tokens {start} to {end}: {problem}")
        self._check_guards(guards)
        self._check_caches("store", ())
        self.free([*objects, *guards])
        return counts

    def load(
        self,
        slots: Sequence[int],
        spans: Sequence[Span],
        *,
        cached: int = 0,
        single: bool = False,
        on_device: bool = False,
        counted: bool = False,
    ) -> kv_device.Counts:
        """Load random objects and check every byte of the caches.

        cached: leading tokens that vLLM itself has. on_device: the objects are already on the HPU.
        single, counted: as for ``store``.
        """
        objects, guards = self._objects(spans)
        contents = [self.contents(item) for item in objects]
        for parts in contents:
            for content in parts:
                content[...] = self._rng.integers(0, 256, content.shape, dtype=np.uint8)
        before = [[content.copy() for content in parts] for parts in contents]
        used = {slots[token] for start, end in spans for token in range(start, end)}
        self.caches.write_pending([slot for slot in range(0, self.caches.slots, 7) if slot not in used])
        for number, layers in enumerate(self.kinds):
            planes = self.caches.plane_numbers(layers)
            after = kv_oracle.loaded(
                [self.caches.truth[plane] for plane in planes],
                [parts[number] for parts in before],
                spans,
                slots,
                cached,
            )
            for plane, rows in zip(planes, after):  # noqa: B905 - of equal length by construction
                self.caches.truth[plane] = rows
        if counted:
            self._torch.hpu.synchronize()
        given = [kv_lmcache.object_on_device(item) for item in objects] if on_device else objects
        arguments = {**self.arguments(slots), "vllm_cached_tokens": cached}
        with kv_device.counting() as counts:
            if single:
                for memory_object, (start, end) in zip(given, spans):  # noqa: B905 - of equal length by construction
                    self.connector.to_gpu(memory_object, start, end, **arguments)
            else:
                self.connector.batched_to_gpu(given, *columns(spans), **arguments)
        # LMCache frees the objects when the call returns, and the next request overwrites them.
        for parts, old in zip(contents, before):  # noqa: B905 - of equal length by construction
            for content, kept in zip(parts, old):  # noqa: B905 - of equal length by construction
                self._probe.check(bool((content == kept).all()), "a load changed a memory object")
                content.fill(REUSED)
        self._check_guards(guards)
        written = {slots[token] for start, end in spans for token in range(max(start, cached), end)}
        self._check_caches("load", written - {-1})
        self.free([*objects, *guards])
        return counts

    def refuses(self, slots: Sequence[int], spans: Sequence[Span]) -> None:
        """Check that a load and a store with these slots raise and leave the caches unchanged."""
        objects, guards = self._objects(spans)
        for name in ("batched_to_gpu", "batched_from_gpu"):
            try:
                getattr(self.connector, name)(objects, *columns(spans), **self.arguments(slots))
            except (IndexError, ValueError, RuntimeError):
                refused = True
            else:
                refused = False
            self._probe.check(refused, f"{name} takes a slot outside the caches without an error")
            self._check_caches("refused request", ())
        self.free([*objects, *guards])

    def _objects(self, spans: Sequence[Span]) -> tuple[list[Foreign], list[Foreign]]:
        """Return an object for each span, and guards allocated around them."""
        guards = [self.allocate(1)]
        objects = []
        for start, end in spans:
            objects.append(self.allocate(end - start))
        guards.append(self.allocate(1))
        for guard in guards:
            for content in self.contents(guard):
                content.fill(GUARD)
        return objects, guards

    def _check_guards(self, guards: Sequence[Foreign]) -> None:
        for guard in guards:
            for content in self.contents(guard):
                self._probe.check(bool((content == GUARD).all()), "a memory object of another request was changed")

    def _check_caches(self, when: str, written: Collection[int]) -> None:
        """Compare all caches; their actual content becomes the reference for the next request."""
        found = self.caches.read()
        problem = kv_oracle.wrong_rows(found, self.caches.truth, written)
        self._probe.check(not problem, f"the KV cache after a {when}: {problem}")
        self.caches.truth = found

"""Caches, LMCache's connector for them, and transfers through the connector that are checked byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _device, _lmcache, _oracle, _probe
    from gaudi_patch.smoke.probes._caches import Caches
    from gaudi_patch.smoke.probes._oracle import Bytes, Random
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _device
    import _lmcache
    import _oracle
    import _probe

np: Any = _probe.load("numpy")

Span = tuple[int, int]
GUARD = 0xC3  # fills the objects beside those of a request
STALE = 0x5A  # fills an object before it is stored into
REUSED = 0xA5  # fills an object after it was loaded from, as its next user would


class Rig:
    """One set of caches behind one connector.

    chunk: LMCache's chunk size in tokens. allocator: shared by the rigs of a probe, since its pool is large.
    """

    def __init__(
        self, probe: _probe.Probe, caches: Caches, chunk: int, allocator: _lmcache.Allocator, rng: Random
    ) -> None:
        self._probe, self.caches, self.chunk, self._allocator, self._rng = probe, caches, chunk, allocator, rng
        self.mla = caches.layout.mla
        kv_shape = (len(caches.heads), caches.kv, chunk, caches.heads[0], caches.head_size)
        config = _lmcache.make_config(chunk_size=chunk, local_cpu=True, max_local_cpu_size=0.1)
        self._metadata = _lmcache.make_metadata(kv_shape=kv_shape, dtype=caches.dtype, use_mla=self.mla)
        self._connector = _lmcache.make_connector(config, self._metadata)
        _lmcache.register(self._connector, caches.entries)
        self._torch = _probe.load("torch")
        # Layers of one width make one tensor of a memory object, in the order of their first layers.
        kinds: dict[int, list[int]] = {}
        for layer, width in enumerate(caches.widths):
            kinds.setdefault(width, []).append(layer)
        self._kinds = list(kinds.values())
        # Before LMCache was patched, its adapter kept the slot mapping on the device.
        self._slot_device = "cpu" if _probe.is_patched() else "hpu"

    @property
    def token_bytes(self) -> int:
        """Bytes of one token over all layers."""
        return int(sum(plane.shape[1] for plane in self.caches.truth))

    def spans(self, tokens: int, start: int = 0) -> list[Span]:
        """The request's chunks from token ``start`` on, the last one partial where the tokens end inside it."""
        return [(first, min(first + self.chunk, tokens)) for first in range(start, tokens, self.chunk)]

    def slots(self, tokens: int) -> list[int]:
        """A new slot mapping for ``tokens`` tokens."""
        return _oracle.slot_map(tokens, self.caches.blocks, self.caches.block_size, self._rng)

    def store(
        self,
        slots: Sequence[int],
        spans: Sequence[Span],
        *,
        single: bool = False,
        counted: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> _device.Counts:
        """Store and check the objects, their neighbours and the caches.

        single: one object a call. counted: the counts are of the transfer alone; otherwise what the forward
        pass has just computed is still under way when LMCache stores it, and is counted too. before: what is
        given to the device just before the call, and counted.
        """
        self.caches.write_pending([slots[token] for start, end in spans for token in range(start, end)])
        if counted:
            self._torch.hpu.synchronize()
        objects, guards = self._objects(spans)
        for memory_object in objects:
            for content in self._contents(memory_object):
                content.fill(STALE)
        arguments = self._arguments(slots)
        with _device.counting() as counts:
            before()
            if single:
                for memory_object, (start, end) in zip(objects, spans):  # noqa: B905 - equal by construction
                    self._connector.from_gpu(memory_object, start, end, **arguments)
            else:
                self._connector.batched_from_gpu(objects, *_columns(spans), **arguments)
        # Nothing is waited for here: the objects must be complete when the call returns.
        found = [[content.copy() for content in self._contents(item)] for item in objects]
        for number, (start, end) in enumerate(spans):
            for layers, content in zip(self._kinds, found[number]):  # noqa: B905
                planes = [self.caches.truth[plane] for plane in self.caches.plane_numbers(layers)]
                expected, defined = _oracle.stored(planes, slots, start, end)
                problem = _oracle.difference(content, expected, defined)
                self._probe.check(not problem, f"the stored object of tokens {start} to {end}: {problem}")
        self._check_guards(guards)
        self._check_caches("store", ())
        self._free([*objects, *guards])
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
    ) -> _device.Counts:
        """Load random objects and check every byte of the caches.

        cached: leading tokens that vLLM has itself. on_device: the objects lie on the HPU already.
        single, counted: as for ``store``.
        """
        objects, guards = self._objects(spans)
        contents = [self._contents(item) for item in objects]
        for parts in contents:
            for content in parts:
                content[...] = self._rng.integers(0, 256, content.shape, dtype=np.uint8)
        before = [[content.copy() for content in parts] for parts in contents]
        used = {slots[token] for start, end in spans for token in range(start, end)}
        self.caches.write_pending([slot for slot in range(0, self.caches.slots, 7) if slot not in used])
        for number, layers in enumerate(self._kinds):
            planes = self.caches.plane_numbers(layers)
            after = _oracle.loaded(
                [self.caches.truth[plane] for plane in planes],
                [parts[number] for parts in before],
                spans,
                slots,
                cached,
            )
            for plane, rows in zip(planes, after):  # noqa: B905
                self.caches.truth[plane] = rows
        if counted:
            self._torch.hpu.synchronize()
        given = [_lmcache.object_on_device(item) for item in objects] if on_device else objects
        arguments = {**self._arguments(slots), "vllm_cached_tokens": cached}
        with _device.counting() as counts:
            if single:
                for memory_object, (start, end) in zip(given, spans):  # noqa: B905
                    self._connector.to_gpu(memory_object, start, end, **arguments)
            else:
                self._connector.batched_to_gpu(given, *_columns(spans), **arguments)
        # LMCache frees the objects when the call returns, and the next request writes into them.
        for parts, old in zip(contents, before):  # noqa: B905
            for content, kept in zip(parts, old):  # noqa: B905
                self._probe.check(bool((content == kept).all()), "a load changed a memory object")
                content.fill(REUSED)
        self._check_guards(guards)
        written = {slots[token] for start, end in spans for token in range(max(start, cached), end)}
        self._check_caches("load", written - {-1})
        self._free([*objects, *guards])
        return counts

    def refuses(self, slots: Sequence[int], spans: Sequence[Span]) -> None:
        """Check that a load and a store with these slots raise, and leave the caches as they are."""
        objects, guards = self._objects(spans)
        for name in ("batched_to_gpu", "batched_from_gpu"):
            try:
                getattr(self._connector, name)(objects, *_columns(spans), **self._arguments(slots))
            except (IndexError, ValueError, RuntimeError):
                refused = True
            else:
                refused = False
            self._probe.check(refused, f"{name} takes a slot outside the caches without an error")
            self._check_caches("refused request", ())
        self._free([*objects, *guards])

    def _arguments(self, slots: Sequence[int]) -> dict[str, Foreign]:
        mapping = self._torch.tensor(list(slots), dtype=self._torch.int64).to(self._slot_device)
        return {"kvcaches": self.caches.entries, "slot_mapping": mapping}

    def _objects(self, spans: Sequence[Span]) -> tuple[list[Foreign], list[Foreign]]:
        """An object for each span, and guards allocated around them."""
        guards = [self._allocate(1)]
        objects = []
        for start, end in spans:
            objects.append(self._allocate(end - start))
        guards.append(self._allocate(1))
        for guard in guards:
            for content in self._contents(guard):
                content.fill(GUARD)
        return objects, guards

    def _allocate(self, tokens: int) -> Foreign:
        shapes, dtypes = _lmcache.object_shapes(self._metadata, self._connector, tokens)
        expected = [(self.caches.kv, len(layers), tokens, self.caches.widths[layers[0]]) for layers in self._kinds]
        if shapes != expected:
            raise ValueError(f"LMCache would allocate objects of shape {shapes}, the caches need {expected}")
        return self._allocator.allocate(shapes, dtypes, use_mla=self.mla)

    def _contents(self, memory_object: Foreign) -> list[Bytes]:
        """The object's memory itself, as uint8 ``[planes, tokens, bytes a row]`` for each kind of layer."""
        contents = []
        for tensor in _lmcache.object_tensors(memory_object, len(self._kinds)):
            kv, layers, tokens, width = tensor.shape
            raw = tensor.view(-1).view(self._torch.uint8).numpy()
            contents.append(raw.reshape(kv * layers, tokens, width * tensor.dtype.itemsize))
        return contents

    def _check_guards(self, guards: Sequence[Foreign]) -> None:
        for guard in guards:
            for content in self._contents(guard):
                self._probe.check(bool((content == GUARD).all()), "a memory object of another request was changed")

    def _check_caches(self, when: str, written: Collection[int]) -> None:
        """Compare all caches; what they hold is what the next request is judged by."""
        found = self.caches.read()
        problem = _oracle.wrong_rows(found, self.caches.truth, written)
        self._probe.check(not problem, f"the KV cache after a {when}: {problem}")
        self.caches.truth = found

    def _free(self, objects: Sequence[Foreign]) -> None:
        for memory_object in objects:
            memory_object.ref_count_down()


def _columns(spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    return [start for start, _ in spans], [end for _, end in spans]

"""LMCache's connector over caches, and the parts of a request: slots, memory objects, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv import oracle as kv_oracle
    from gaudi_patch.smoke.probes._kv.caches import Caches
    from gaudi_patch.smoke.probes._kv.oracle import Bytes, Random
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _environment
    import _probe

    from _kv import lmcache as kv_lmcache
    from _kv import oracle as kv_oracle

np: Any = _probe.load("numpy")

Span = tuple[int, int]


class Port:
    """One set of caches, registered with one connector.

    chunk: LMCache's chunk size in tokens. allocator: the source of memory objects; its pool may be shared.
    kinds: the layers of each tensor of a memory object, grouped by width, in the order of their first layer.
    """

    def __init__(self, caches: Caches, chunk: int, allocator: kv_lmcache.Allocator, rng: Random) -> None:
        self.caches, self.chunk, self._allocator, self._rng = caches, chunk, allocator, rng
        self.mla = caches.layout.mla
        kv_shape = (len(caches.entries), caches.kv, chunk, caches.heads[0], caches.head_size)
        config = kv_lmcache.make_config(chunk_size=chunk, local_cpu=True, max_local_cpu_size=0.1)
        self._metadata = kv_lmcache.make_metadata(kv_shape=kv_shape, dtype=caches.dtype, use_mla=self.mla)
        self.connector = kv_lmcache.make_connector(config, self._metadata)
        kv_lmcache.register(self.connector, caches.entries)
        self._torch = _probe.load("torch")
        kinds: dict[int, list[int]] = {}
        for layer, width in enumerate(caches.widths):
            kinds.setdefault(width, []).append(layer)
        self.kinds = list(kinds.values())
        # Unpatched, LMCache's adapter keeps the slot mapping on the device.
        self._slot_device = "cpu" if _environment.is_patched() else "hpu"

    @property
    def host_copied_bytes(self) -> int | None:
        """Return the bytes that the host has copied for this connector so far; None if not counted."""
        transfer = getattr(self.connector, "transfer", None)
        return None if transfer is None else int(transfer.host_copied_bytes)

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token over all layers."""
        return int(sum(self.caches.widths) * self.caches.kv * self.caches.dtype.itemsize)

    def spans(self, tokens: int, start: int = 0) -> list[Span]:
        """Return the request's chunks from token ``start`` on; the last one may be partial."""
        return [(first, min(first + self.chunk, tokens)) for first in range(start, tokens, self.chunk)]

    def slots(self, tokens: int) -> list[int]:
        """Return a new slot mapping for ``tokens`` tokens."""
        return kv_oracle.slot_map(tokens, self.caches.blocks, self.caches.block_size, self._rng)

    def arguments(self, slots: Sequence[int]) -> dict[str, Foreign]:
        """Return LMCache's arguments to the connector other than the objects and their spans."""
        mapping = self._torch.tensor(list(slots), dtype=self._torch.int64).to(self._slot_device)
        return {"kvcaches": self.caches.entries, "slot_mapping": mapping}

    def allocate(self, tokens: int) -> Foreign:
        """Return a memory object for this number of tokens."""
        shapes, dtypes = kv_lmcache.object_shapes(self._metadata, self.connector, tokens)
        expected = [(self.caches.kv, len(layers), tokens, self.caches.widths[layers[0]]) for layers in self.kinds]
        if shapes != expected:
            raise ValueError(f"LMCache would allocate objects of shape {shapes}, the caches need {expected}")
        return self._allocator.allocate(shapes, dtypes, use_mla=self.mla)

    def contents(self, memory_object: Foreign) -> list[Bytes]:
        """Return the object's memory itself, as uint8 ``[planes, tokens, bytes per row]`` for each kind of layer."""
        contents = []
        for tensor in kv_lmcache.object_tensors(memory_object, len(self.kinds)):
            kv, layers, tokens, width = tensor.shape
            raw = tensor.view(-1).view(self._torch.uint8).numpy()
            contents.append(raw.reshape(kv * layers, tokens, width * tensor.dtype.itemsize))
        return contents

    def free(self, objects: Sequence[Foreign]) -> None:
        """Return the objects to the allocator."""
        for memory_object in objects:
            memory_object.ref_count_down()


def columns(spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Return the starts and the ends, as expected by the connector."""
    return [start for start, _ in spans], [end for _, end in spans]

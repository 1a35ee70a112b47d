"""The shared state of level kernels' cases: random numbers, pools, and the count."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv.caches import Caches, Layout
    from gaudi_patch.smoke.probes._kv.rig import Rig
else:  # run by path, beside this file
    import _probe
    from _kv import lmcache as kv_lmcache
    from _kv.caches import Caches
    from _kv.rig import Rig

np: Any = _probe.load("numpy")

POOL_BYTES = 64 * 1024 * 1024


class Bench:
    """The state shared by the cases."""

    def __init__(self, probe: _probe.Probe) -> None:
        self.probe = probe
        self.rng = np.random.default_rng(_probe.SEED)
        self._pools = {ring: kv_lmcache.Allocator(POOL_BYTES, one_buffer=ring) for ring in (False, True)}
        self.cases = 0

    def close(self) -> None:
        """Release the pools."""
        for pool in self._pools.values():
            pool.close()

    def rig(
        self,
        layout: Layout,
        dtype: str = "bfloat16",
        *,
        chunk: int,
        block_size: int,
        blocks: int,
        heads: Sequence[int] | None = None,
        head_size: int | None = None,
        ring: bool = False,
        foreign: bool = False,
        shared: int = 0,
    ) -> Rig:
        """Return a rig of caches and their connector; two layers unless ``heads`` gives more, plus ``shared`` ones.

        ring: memory objects come from one buffer known to the connector. foreign: the connector expects other
        objects.
        """
        self.cases += 1
        caches = Caches(
            layout,
            dtype=dtype,
            blocks=blocks,
            block_size=block_size,
            heads=heads or ((1, 1) if layout.mla else (2, 2)),
            head_size=head_size or (24 if layout.mla else 8),
            rng=self.rng,
            shared=shared,
        )
        with set_variable("LMCACHE_GAUDI_PIN_MIB") if ring else contextlib.nullcontext():
            return Rig(self.probe, caches, chunk, self._pools[ring or foreign], self.rng)

    def unpinned_rig(
        self, layout: Layout, *, chunk: int, block_size: int, blocks: int
    ) -> tuple[Rig, kv_lmcache.Allocator]:
        """Return a rig with a pool of its own, of which nothing is pinned before an object needs it."""
        self.cases += 1
        with set_variable("LMCACHE_GAUDI_PIN_AHEAD_MIB"):
            pool = kv_lmcache.Allocator(POOL_BYTES)
            caches = Caches(
                layout, dtype="bfloat16", blocks=blocks, block_size=block_size, heads=(2, 2), head_size=8, rng=self.rng
            )
            return Rig(self.probe, caches, chunk, pool, self.rng), pool


@contextlib.contextmanager
def set_variable(name: str) -> Iterator[None]:
    """Set a limit of pinned memory to 0 for the time of the block."""
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before

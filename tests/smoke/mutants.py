"""Deliberate faults of the patched LMCache, each a small edit of one file; each must fail a smoke level."""

from __future__ import annotations

from tests.smoke.guard_mutants import GUARD_MUTANTS
from tests.smoke.multiprocess_mutants import MULTIPROCESS_MUTANTS
from tests.smoke.mutant import RUNTIME as _GAUDI
from tests.smoke.mutant import Mutant
from tests.smoke.old_routing_mutants import OLD_ROUTING_MUTANTS
from tests.smoke.pinning_mutants import PINNING_MUTANTS
from tests.smoke.routing_mutants import ROUTING_MUTANTS

MUTANTS: tuple[Mutant, ...] = (
    *GUARD_MUTANTS,
    *PINNING_MUTANTS,
    *ROUTING_MUTANTS,
    *OLD_ROUTING_MUTANTS,
    *MULTIPROCESS_MUTANTS,
    # Waiting.
    Mutant(
        "the device-wide wait at the end of a request is dropped",
        f"{_GAUDI}/transfer.py",
        "                self.backend.synchronize()\n                self._outputs = None",
        "                self._outputs = None",
    ),
    Mutant(
        "the wait is dropped, seen through the engine and its disk",
        f"{_GAUDI}/device.py",
        "        self._hpu.synchronize()",
        "        self._hpu.is_available()",
        level="engine",
    ),
    Mutant(
        "mark_step is taken for a wait",
        f"{_GAUDI}/device.py",
        "        self._hpu.synchronize()",
        "        self._mark_step()",
    ),
    Mutant(
        "a pinned buffer is reused without waiting for its event",
        f"{_GAUDI}/staging.py",
        "        if event is not None:\n            event.synchronize()\n        if job",
        "        if event is None:\n            return\n        if job",
    ),
    Mutant(
        "the event of a buffer is recorded before its copy",
        f"{_GAUDI}/transfer.py",
        "            self.backend.copy(parts[-1], host)\n            slot.busy(self.backend.record())\n"
        "        self.kernels.scatter(group.chunks, index, parts)\n        self._pool.give(self.backend.record())\n\n"
        "    def _load_resident",
        "            event = self.backend.record()\n            self.backend.copy(parts[-1], host)\n"
        "            slot.busy(event)\n"
        "        self.kernels.scatter(group.chunks, index, parts)\n        self._pool.give(self.backend.record())\n\n"
        "    def _load_resident",
    ),
    Mutant(
        "the last buffers of a store are not emptied",
        f"{_GAUDI}/transfer.py",
        "                self.ring.drain()",
        "                self.ring.reset()",
    ),
    Mutant(
        "copies to the host run on a stream of their own that waits for nothing",
        f"{_GAUDI}/transfer.py",
        "            self.backend.copy(host.view(output.shape), output)\n"
        "            self._outputs = self.backend.record()",
        "            with torch.hpu.stream(torch.hpu.Stream()):\n"
        "                self.backend.copy(host.view(output.shape), output)\n"
        "            self._outputs = self.backend.record()",
        rules="eager",
    ),
    # Which slots.
    Mutant(
        "every slot is one too high",
        f"{_GAUDI}/transfer.py",
        "        np.copyto(host.numpy(), group.index, casting",
        "        np.copyto(host.numpy(), group.index + 1, casting",
    ),
    Mutant(
        "slot numbers are cut to 16 bits",
        f"{_GAUDI}/transfer.py",
        "        np.copyto(host.numpy(), group.index, casting",
        "        np.copyto(host.numpy(), group.index & 0xFFFF, casting",
    ),
    Mutant(
        "tokens without a slot travel with the others of their object",
        f"{_GAUDI}/plan.py",
        "    if live.all():",
        "    if live.any():",
    ),
    Mutant(
        "the prefix that vLLM has is written again",
        f"{_GAUDI}/connector.py",
        'skip=int(kwargs.get("vllm_cached_tokens") or 0)',
        "skip=0",
    ),
    Mutant(
        "one rank sends MLA objects to itself",
        f"{_GAUDI}/connector.py",
        "        return bool(self.metadata.world_size == 1)",
        "        return False",
        "engine",
    ),
    Mutant(
        "the first token after the prefix is left out",
        f"{_GAUDI}/plan.py",
        "        first = min(max(start, skip), end)",
        "        first = min(max(start, skip and skip + 1), end)",
    ),
    Mutant(
        "the padding lies one slot too low, in a live block",
        f"{_GAUDI}/plan.py",
        "        filler = pad[0] + np.arange",
        "        filler = pad[0] - 1 + np.arange",
    ),
    Mutant(
        "padding without a padding block carries other rows than the slot it goes to",
        f"{_GAUDI}/rows.py",
        "    if group.padding and not group.sink:",
        "    if group.padding and group.sink:",
    ),
    Mutant(
        "a slot outside the caches is taken",
        f"{_GAUDI}/plan.py",
        "    if int(index.max()) >= capacity:",
        "    if int(index.max()) >= 2 * capacity:",
    ),
    # Which rows.
    Mutant(
        "K and V are exchanged",
        f"{_GAUDI}/layout.py",
        "        planes=tuple(planes[side] for side in range(kv) for _, planes in members),",
        "        planes=tuple(planes[side] for side in reversed(range(kv)) for _, planes in members),",
    ),
    Mutant(
        "planes are ordered by layer, not by K and V",
        f"{_GAUDI}/layout.py",
        "        planes=tuple(planes[side] for side in range(kv) for _, planes in members),",
        "        planes=tuple(planes[side] for _, planes in members for side in range(kv)),",
    ),
    Mutant(
        "all planes of a part get the rows of its first",
        f"{_GAUDI}/kernels.py",
        "stacked[number].view(rows, *shapes[p])",
        "stacked[0].view(rows, *shapes[p])",
    ),
    Mutant(
        "all planes of a part get the rows of its first, in a compiled graph only",
        f"{_GAUDI}/kernels.py",
        "stacked[number].view(rows, *shapes[p])",
        "stacked[0 if torch.compiler.is_compiling() else number].view(rows, *shapes[p])",
        rules="eager",
    ),
    Mutant(
        "the last row of every run is left out",
        f"{_GAUDI}/plan.py",
        "first - position, last - first))",
        "first - position, last - first - 1))",
    ),
    Mutant(
        "an object that is split between groups starts anew in the second",
        f"{_GAUDI}/plan.py",
        "            cut.append(Run(obj, start + first - offset,",
        "            cut.append(Run(obj, start,",
    ),
    Mutant(
        "wide rows: the second thread copies nothing",
        f"{_GAUDI}/staging.py",
        "for n in range(1, self.threads)]",
        "for n in range(2, self.threads)]",
    ),
    Mutant(
        "values are converted on the way, not bits moved",
        f"{_GAUDI}/kernels.py",
        "                outputs.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces))",
        "                outputs.append(torch.cat(pieces).float().to(planes[0].dtype))",
    ),
    Mutant(
        "objects on the device are written whole, whatever vLLM has of them",
        f"{_GAUDI}/transfer.py",
        "            and start >= skip\n",
        "            and end > skip\n",
    ),
    Mutant(
        "a latent cache in blocks is taken for a flat one",
        f"{_GAUDI}/layout.py",
        "    blocked = tensor.dim() == 4 or (tensor.dim() == 3 and latent)",
        "    blocked = tensor.dim() == 4",
    ),
    # Cost.
    Mutant(
        "device memory under way has no bound",
        f"{_GAUDI}/staging.py",
        "        while self._held + needed > self._limit and self._idle:",
        "        while self._held < 0 and self._idle:",
    ),
    Mutant(
        "the largest graph is not compiled in advance",
        f"{_GAUDI}/transfer.py",
        "        for chunks in self.kernels.sizes:\n            group = Group(",
        "        for chunks in self.kernels.sizes[:-1]:\n            group = Group(",
    ),
    Mutant(
        "the device is waited for after every group",
        f"{_GAUDI}/transfer.py",
        "        self.kernels.scatter(group.chunks, index, parts)\n        self._pool.give(self.backend.record())\n\n"
        "    def _load_resident",
        "        self.kernels.scatter(group.chunks, index, parts)\n        self.backend.synchronize()\n"
        "        self._pool.give(self.backend.record())\n\n    def _load_resident",
    ),
    Mutant(
        "the buffers are not pinned",
        f"{_GAUDI}/device.py",
        "        return pinning.allocate(nbytes)",
        "        return __import__('torch').zeros(nbytes, dtype=__import__('torch').uint8)",
    ),
    Mutant(
        "the caches are written through the view that vLLM registers",
        f"{_GAUDI}/layout.py",
        "        target = base\n        if base.shape[0] > slots:",
        "        if base.shape[0] < slots:",
    ),
    # Memory ownership.
    Mutant(
        "the pointers of storages are compared",
        f"{_GAUDI}/layout.py",
        "        and view.storage_offset() == 0\n",
        "        and view.storage_offset() == 0\n"
        "        and base.untyped_storage().data_ptr() == view.untyped_storage().data_ptr()\n",
    ),
    Mutant(
        "allocations are told apart by the pointers of their storages",
        f"{_GAUDI}/layout.py",
        "owner.untyped_storage()._cdata",
        "owner.untyped_storage().data_ptr()",
    ),
    Mutant(
        "layers that share caches are refused",
        f"{_GAUDI}/layout.py",
        "        if places in self._known:",
        "        if places in ():",
    ),
    Mutant(
        "layers that share caches are moved as if they had their own",
        f"{_GAUDI}/layout.py",
        "            shared.append(index)\n            continue\n",
        "            shared.append(index)\n",
    ),
    Mutant(
        "K and V may share an allocation",
        f"{_GAUDI}/layout.py",
        "            if allocation in self._layers:",
        "            if self._layers.get(allocation, index) != index:",
    ),
    Mutant(
        "layers may share an allocation in any way",
        f"{_GAUDI}/layout.py",
        "            if allocation in self._layers:",
        "            if self._layers.get(allocation) == index:",
    ),
    Mutant(
        "a cache may begin anywhere in its allocation",
        f"{_GAUDI}/layout.py",
        "    if tensor.storage_offset():",
        "    if tensor.storage_offset() < 0:",
    ),
    Mutant(
        "K and V packed into one tensor are taken for a latent cache",
        f"{_GAUDI}/compat.py",
        "    if not metadata.use_mla and any(",
        "    if metadata.use_mla is None and any(",
    ),
    # Routing.
    Mutant(
        "the stock connector is chosen",
        "lmcache/v1/gpu_connector/__init__.py",
        "    if is_available() and engine != EngineType.MOCK:",
        "    if is_available() and engine == EngineType.MOCK:",
    ),
    Mutant(
        "the Habana software is not loaded before the device is detected",
        "lmcache/__init__.py",
        "load_habana()  # torch.hpu exists only after this",
        "load_habana  # torch.hpu exists only after this",
        level="imports",
    ),
)

"""Faults of pinned memory objects, of knowledge about memory, of event coverage, and of ownership of the card."""

from __future__ import annotations

from tests.smoke.mutant import RUNTIME as _GAUDI
from tests.smoke.mutant import Mutant

PINNING_MUTANTS = (
    # Objects pinned one by one.
    Mutant(
        "an object gets the slab of its neighbour back when it is freed",
        f"{_GAUDI}/allocator.py",
        "                self._at[address] = nbytes if slab is None else slab",
        "                self._at[address] = nbytes if slab is None else self._at.get(address - nbytes, slab)",
        level="engine",
    ),
    Mutant(
        "a slab goes to the next object while the device still writes it",
        f"{_GAUDI}/slabs.py",
        "        if slab.holds:\n            return",
        "        if slab.holds < 0:\n            return",
    ),
    Mutant(
        "a slab whose transfer ends goes to the next object, though its own still has it",
        f"{_GAUDI}/slabs.py",
        "            slab.holds -= 1\n            if not slab.used:",
        "            slab.holds -= 1\n            if slab.used in (False, True):",
    ),
    Mutant(
        "memory that the driver did not pin is taken for a slab",
        f"{_GAUDI}/slabs.py",
        "                if backend.is_pinned(buffer):",
        "                if backend.is_pinned(buffer) in (False, True):",
    ),
    Mutant(
        "a server's shared memory is left unused, and KV is pickled",
        "lmcache/v1/multiprocess/transfer_context/base.py",
        "    if not use_pickle:\n",
        "    if use_pickle is None:\n",
        cases="multiprocess",
    ),
    Mutant(
        "a hold ends before the device was waited for",
        f"{_GAUDI}/transfer.py",
        "                self.ring.drain()\n            finally:",
        "                self.ring.drain()\n                if self.direct is not None:\n"
        "                    self.direct.settled()\n            finally:",
    ),
    Mutant(
        "objects of another allocator are taken for pinned",
        f"{_GAUDI}/direct.py",
        "        if slab is None:\n            return None\n        self._held.append(slab)",
        "        if slab is not None:\n            self._held.append(slab)",
    ),
    Mutant(
        "a partial chunk is taken for a whole object",
        f"{_GAUDI}/direct.py",
        "        if others or (first.start, first.row, first.count) != (0, 0, self._kernels.chunk):",
        "        if others or (first.start, first.row) != (0, 0):",
    ),
    Mutant(
        "an object of which vLLM has a part is copied whole",
        f"{_GAUDI}/direct.py",
        "        if others or (first.start, first.row, first.count) != (0, 0, self._kernels.chunk):",
        "        if others or first.row:",
    ),
    Mutant(
        "no object is copied directly",
        f"{_GAUDI}/slabs.py",
        "    if slab is None or tensor.nbytes > slab.nbytes:",
        "    if slab is None or tensor.nbytes <= slab.nbytes:",
    ),
    Mutant(
        "LMCache's pool stays one buffer, seen through the engine",
        "lmcache/v1/storage_backend/local_cpu_backend.py",
        "            return memory_pool(config, MixedMemoryAllocator)(",
        "            return MixedMemoryAllocator(",
        level="engine",
    ),
    Mutant(
        "every object of those that are read together gets the rows of the first",
        f"{_GAUDI}/kernels.py",
        "torch.cat([piece[start : start + chunk] for piece in pieces])",
        "torch.cat([piece[:chunk] for piece in pieces])",
    ),
    Mutant(
        "an object's planes are joined by chunk in the wrong order",
        f"{_GAUDI}/kernels.py",
        "                    pieces = [member[number] for member in members]",
        "                    pieces = [member[number] for member in reversed(members)]",
    ),
    Mutant(
        "a tail is not unpacked",
        f"{_GAUDI}/direct.py",
        "            slot.busy(self._backend.record(), job)",
        "            slot.busy(self._backend.record())",
    ),
    Mutant(
        "a tail is unpacked before its copy is done",
        f"{_GAUDI}/direct.py",
        "            slot.busy(self._backend.record(), job)",
        "            self._backend.record()\n            job()",
    ),
    Mutant(
        "the largest direct graph is not compiled in advance",
        f"{_GAUDI}/transfer.py",
        "                if self.direct is not None:\n                    self.direct.rewrite(group)",
        "                if self.direct is not None:\n                    chunks < 8 and self.direct.rewrite(group)",
    ),
    # The bridge's knowledge of memory.
    Mutant(
        "nothing is waited for, whatever memory it is",
        f"{_GAUDI}/device.py",
        "non_blocking=pinning.is_pinned(host))",
        "non_blocking=True)",
    ),
    Mutant(
        "every copy is waited for",
        f"{_GAUDI}/device.py",
        "non_blocking=pinning.is_pinned(host))",
        "non_blocking=False)",
    ),
    Mutant(
        "the device's side of a copy is asked whether it is pinned",
        f"{_GAUDI}/device.py",
        '        host = destination if destination.device.type == "cpu" else source',
        '        host = destination if destination.device.type != "cpu" else source',
    ),
    Mutant(
        "every part of a pinned block is taken for pinned",
        f"{_GAUDI}/pinning.py",
        "        return tensor.nbytes <= _blocks.get(tensor.data_ptr(), -1)",
        "        return tensor.untyped_storage().data_ptr() in _blocks",
    ),
    Mutant(
        "only whole blocks are taken for pinned",
        f"{_GAUDI}/pinning.py",
        "        return tensor.nbytes <= _blocks",
        "        return tensor.nbytes == _blocks",
    ),
    Mutant(
        "int64 is taken for pinned",
        f"{_GAUDI}/pinning.py",
        "    if tensor.dtype in (torch.int64, torch.float64) or not",
        "    if not",
    ),
    Mutant(
        "what is not contiguous is taken for pinned",
        f"{_GAUDI}/pinning.py",
        " or not tensor.is_contiguous():",
        ":",
    ),
    Mutant(
        "pageable memory is entered as pinned where pinning fails",
        f"{_GAUDI}/pinning.py",
        "        block = torch.empty(nbytes, dtype=torch.uint8)\n    return",
        "        block = torch.empty(nbytes, dtype=torch.uint8)\n        _blocks[block.data_ptr()] = nbytes\n"
        "    return",
    ),
    Mutant(
        "memory that cannot be pinned ends the engine",
        f"{_GAUDI}/pinning.py",
        "    except PinningError:\n        block",
        "    except KeyError:\n        block",
    ),
    Mutant(
        "indices are converted on the host",
        f"{_GAUDI}/transfer.py",
        "        self.backend.copy(target, host)\n        slot.busy",
        "        target.copy_(host.to(torch.int64), non_blocking=True)\n        slot.busy",
    ),
    # Event coverage.
    Mutant(
        "an event is trusted under PT_HPU_ENABLE_SFG",
        f"{_GAUDI}/device.py",
        "        if not self.events_cover_copies:",
        "        if self.events_cover_copies is None:",
    ),
    Mutant(
        "under PT_HPU_ENABLE_SFG an event has happened before anything was waited for",
        f"{_GAUDI}/device.py",
        "            self.synchronize()\n            return _Happened()",
        "            return _Happened()",
    ),
    Mutant(
        "PT_HPU_ENABLE_SFG is looked for in the wrong mode",
        f"{_GAUDI}/device.py",
        'not (self.lazy and _is_set("PT_HPU_ENABLE_SFG"))',
        'not (not self.lazy and _is_set("PT_HPU_ENABLE_SFG"))',
    ),
    Mutant(
        "another variable than PT_HPU_ENABLE_SFG is read",
        f"{_GAUDI}/device.py",
        '_is_set("PT_HPU_ENABLE_SFG")',
        '_is_set("PT_ENABLE_SFG")',
    ),
    # Ownership of the card.
    Mutant(
        "usage statistics ask the device for its name",
        f"{_GAUDI}/device.py",
        "    return int(hpu.device_count()), _NAME, 0",
        "    return int(hpu.device_count()), str(hpu.get_device_name()), 0",
    ),
    Mutant(
        "usage statistics ask which device is the current one",
        f"{_GAUDI}/device.py",
        "    return int(hpu.device_count()), _NAME, 0",
        "    return int(hpu.current_device()) + 1, _NAME, 0",
    ),
)

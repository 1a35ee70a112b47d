"""LMCache's own HPU connector, unpatched, on the device: ``run_lmcache.py REPORT MODE`` in an LMCache environment."""

from __future__ import annotations

import traceback
from typing import Any

import device_process
import torch

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8")
BLOCK, HEADS, HEAD = 16, 2, 8
CHUNK = 32


def _bits(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (torch.Size(shape).numel() * size,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)
    )


def _caches(host: list[list[torch.Tensor]], mla: bool) -> list[Any]:
    """Return paged caches on the device as vllm-gaudi passes them: views of flat tensors with a final padding block."""

    def paged(rows: torch.Tensor) -> torch.Tensor:
        flat = torch.empty(rows.shape[0] + BLOCK, *rows.shape[1:], dtype=rows.dtype, device="hpu")
        flat[: rows.shape[0]].copy_(rows)
        return flat.view(-1, BLOCK, *rows.shape[1:])[:-1]

    return [paged(layer[0]) if mla else tuple(paged(part) for part in layer) for layer in host]


def _rows(cache: Any, mla: bool) -> list[torch.Tensor]:
    parts = [cache] if mla else list(cache)
    return [part.cpu().flatten(0, 1) for part in parts]


class Bench:
    """One connector, its host memory, its caches and slots."""

    def __init__(self, dtype: torch.dtype, mla: bool, layers: int, chunks: int, partial: int, chunk: int) -> None:
        from lmcache.v1.gpu_connector.hpu_connector import VLLMPagedMemHPUConnectorV2
        from lmcache.v1.memory_allocators.mixed_memory_allocator import MixedMemoryAllocator
        from lmcache.v1.memory_management import MemoryFormat

        self.mla, self.dtype = mla, dtype
        generator = torch.Generator().manual_seed(17)
        self.generator = generator
        tokens = chunks * chunk + partial
        blocks = -(-tokens // BLOCK) + 3
        shape = (blocks * BLOCK, HEAD) if mla else (blocks * BLOCK, HEADS, HEAD)
        kv = 1 if mla else 2
        self.host = [[_bits(generator, dtype, *shape) for _ in range(kv)] for _ in range(layers)]
        self.other = [[_bits(generator, dtype, *shape) for _ in range(kv)] for _ in range(layers)]
        self.caches, self.target = _caches(self.host, mla), _caches(self.other, mla)
        self.slots = torch.randperm(blocks * BLOCK, generator=generator)[:tokens]
        self.new_slots = torch.randperm(blocks * BLOCK, generator=generator)[:tokens]
        self.ranges = [(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk)]
        hidden = shape[-1] * (1 if mla else HEADS)
        sizes = [torch.Size([kv, layers, end - start, hidden]) for start, end in self.ranges]
        allocator = MixedMemoryAllocator(sum(s.numel() * dtype.itemsize + 4096 for s in sizes) + (1 << 20))
        layout = MemoryFormat.KV_MLA_FMT if mla else MemoryFormat.KV_2LTD
        self.objects = [allocator.allocate(size, dtype, layout) for size in sizes]
        self.connector = VLLMPagedMemHPUConnectorV2()
        self.bytes = sum(s.numel() * dtype.itemsize for s in sizes)
        self.device_slots = self.slots.to("hpu")
        self.new_device_slots = self.new_slots.to("hpu")
        torch.hpu.synchronize()

    def store(self) -> None:
        starts, ends = zip(*self.ranges, strict=True)
        self.connector.batched_from_gpu(
            self.objects, starts, ends, kvcaches=self.caches, slot_mapping=self.device_slots
        )

    def load(self) -> None:
        starts, ends = zip(*self.ranges, strict=True)
        self.connector.batched_to_gpu(
            self.objects, starts, ends, kvcaches=self.target, slot_mapping=self.new_device_slots
        )

    def check_store(self) -> None:
        for (start, end), stored in zip(self.ranges, self.objects, strict=True):
            for number, layer in enumerate(self.host):
                for part, rows in enumerate(layer):
                    wanted = rows[self.slots[start:end]].flatten(1)
                    assert _same(stored.tensor[part, number], wanted), f"object {start}:{end}, layer {number}"

    def check_load(self) -> None:
        for number, cache in enumerate(self.target):
            for part, rows in enumerate(_rows(cache, self.mla)):
                wanted = self.other[number][part].clone()
                source = self.host[number][part]
                # fp8 has no advanced indexing on the CPU, so the bytes are moved.
                wanted.view(torch.uint8)[self.new_slots] = source.view(torch.uint8)[self.slots]
                assert _same(rows, wanted), f"layer {number}, part {part}"

    def close(self) -> None:
        for stored in self.objects:
            stored.ref_count_down()


def _round_trip(dtype: str, mla: bool) -> str:
    try:
        bench = Bench(getattr(torch, dtype), mla, layers=4, chunks=3, partial=13, chunk=CHUNK)
        bench.store()
        bench.check_store()
        bench.load()
        bench.check_load()
        bench.close()
    except Exception:
        return traceback.format_exc()
    return ""


def _counted(emulator: Any) -> dict[str, Any]:
    """32 layers and 8 chunks of 256 tokens."""
    bench = Bench(torch.bfloat16, False, layers=32, chunks=8, partial=0, chunk=256)
    emulator.counters.reset(signatures=True)
    bench.store()
    stored = emulator.counters.snapshot()
    emulator.counters.reset(signatures=True)
    bench.load()
    loaded = emulator.counters.snapshot()
    bench.check_store()
    bench.check_load()
    bench.close()
    return {"store": stored, "load": loaded, "bytes": bench.bytes}


def _without_synchronize() -> bool:
    """Return whether the connector without its synchronize stores wrong bytes: the device would detect that."""
    bench = Bench(torch.bfloat16, False, layers=4, chunks=2, partial=0, chunk=CHUNK)
    synchronize, torch.hpu.synchronize = torch.hpu.synchronize, lambda: None
    try:
        bench.store()
        bench.check_store()
        noticed = False
    except AssertionError:
        noticed = True
    finally:
        torch.hpu.synchronize = synchronize
        torch.hpu.synchronize()
    bench.close()
    return noticed


def _unpinned(emulator: Any) -> bool:
    """Return whether the connector stores wrong bytes if its copies run as late as the bridge may run them."""
    emulator.configure(bounces="late")
    bench = Bench(torch.bfloat16, False, layers=4, chunks=2, partial=0, chunk=CHUNK)
    bench.store()
    try:
        bench.check_store()
        noticed = False
    except AssertionError:
        noticed = True
    emulator.configure(bounces="waited")
    bench.close()
    return noticed


def main() -> None:
    path, mode = device_process.arguments()
    # It copies without blocking into slices of one pinned pool. No wait covers them, so it is right only by luck.
    emulator = device_process.activate(mode, bounces="waited")
    import lmcache

    result = {
        "device": lmcache.torch_device_type,
        "round_trips": {
            f"{dtype}-{layout}": _round_trip(dtype, layout == "mla") for dtype in DTYPES for layout in ("mha", "mla")
        },
        "counted": _counted(emulator),
        "noticed": _without_synchronize(),
        "unpinned": _unpinned(emulator),
    }
    device_process.report(path, result)


if __name__ == "__main__":
    main()

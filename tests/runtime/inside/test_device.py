"""device.py on an HPU: the rules set by the bridge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lmcache.gaudi import device, pinning
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Transfer
from lmcache.gaudi.waiting import waiting_for_host_copies
from support import make_caches, spans_of


def test_the_hpu_is_found_and_has_no_index() -> None:
    assert device.load_habana()
    assert device.is_available()
    assert str(device.HpuBackend().device) == "hpu"


def test_a_rank_keeps_its_broadcast_copies_on_the_only_device() -> None:
    assert device.broadcast_device("cuda", 3) == "hpu"
    torch.empty(1, device=device.broadcast_device("hpu", 7))


def test_no_device_is_ever_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"set_device{arguments}")

    monkeypatch.setattr(torch.hpu, "set_device", refuse)
    rng = np.random.default_rng(0)
    caches = make_caches("blocks", torch.bfloat16, blocks=8, block_size=16, rows=[(2, 4)], rng=rng)
    transfer = Transfer(normalise(caches.given), chunk=32)
    transfer.warm_up()
    objects = [caches.objects(end - start, rng) for start, end in spans_of(100, 32)]
    transfer.store(objects, spans_of(100, 32), torch.arange(100))
    transfer.load(objects, spans_of(100, 32), torch.arange(100))


def test_pinned_buffers_are_pinned_and_zero() -> None:
    backend = device.HpuBackend()
    buffer = backend.pinned(4096)
    assert backend.is_pinned(buffer)
    assert not buffer.any()


def test_pinned_is_a_whole_block_from_its_first_byte_and_nothing_else() -> None:
    backend = device.HpuBackend()
    buffer = backend.pinned(4096)
    assert backend.is_pinned(buffer[:100])
    assert backend.is_pinned(buffer.view(torch.bfloat16).view(2, 1024))
    assert not backend.is_pinned(buffer[128:])
    assert not backend.is_pinned(buffer.view(64, 64).t())
    assert not backend.is_pinned(buffer.view(torch.int64))  # the bridge converts it on the host
    assert not backend.is_pinned(torch.zeros(4096, dtype=torch.uint8))


def test_a_block_is_forgotten_when_it_is_gone() -> None:
    block = pinning.pin(1 << 20)
    address = block.data_ptr()
    assert pinning.is_pinned(block[:16])
    del block
    assert address not in pinning._blocks


def test_memory_that_could_not_be_pinned_is_not_called_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor, device=None: False)
    with pytest.raises(pinning.PinningError):
        pinning.pin(4096)
    backend = device.HpuBackend()
    buffer = backend.pinned(4096)
    assert not backend.is_pinned(buffer)
    assert not buffer.any()


class Recorder:
    """A tensor that records only its copies."""

    def __init__(self) -> None:
        self.waited: list[bool] = []
        self.device = torch.device("hpu")

    def copy_(self, source: object, *, non_blocking: bool) -> None:
        self.waited.append(not non_blocking)


def test_only_copies_of_pinned_memory_do_not_wait() -> None:
    backend = device.HpuBackend()
    target = Recorder()
    buffer = backend.pinned(4096)
    for host in (buffer, buffer[64:], torch.zeros(16), buffer.view(torch.float64)):
        backend.copy(target, host)  # type: ignore[arg-type]
    assert target.waited == [False, True, True, True]


def test_an_event_covers_a_copy_from_the_device() -> None:
    backend = device.HpuBackend()
    source = torch.full((1000,), 7, dtype=torch.int32).to("hpu")
    for host in (backend.pinned(4000).view(torch.int32), torch.zeros(1000, dtype=torch.int32)):
        backend.copy(host, source)
        backend.record().synchronize()
        assert bool((host == 7).all())


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_the_device_is_waited_for_where_events_do_not_cover_copies(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PT_HPU_ENABLE_SFG", value)
    backend = device.HpuBackend()
    waits: list[int] = []
    monkeypatch.setattr(backend, "synchronize", lambda: waits.append(1))
    backend.record().synchronize()
    assert len(waits) == int(backend.lazy)
    monkeypatch.setenv("PT_HPU_ENABLE_SFG", "0")
    assert device.HpuBackend().events_cover_copies


def test_usage_statistics_get_a_name_and_claim_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def claim(*arguments: object) -> None:
        raise AssertionError("the scheduler's process claimed a card")

    for name in ("_lazy_init", "init", "get_device_name", "get_device_properties", "mem_get_info", "current_device"):
        monkeypatch.setattr(torch.hpu, name, claim)
    count, name, memory = device.describe_device()
    assert (count, memory) == (1, 0)
    assert "GAUDI" in name.upper()


def test_caches_elsewhere_have_no_backend() -> None:
    with pytest.raises(ValueError, match="not on an HPU"):
        device.backend_for(torch.device("meta"))


def test_gpu_migration_does_not_hide_the_hpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("DEVICE_TYPE", raising=False)
    assert device.load_habana()
    import os

    assert os.environ["DEVICE_TYPE"] == "hpu"  # read by LMCache 0.5.2 and later


def test_copies_to_memory_that_cannot_be_pinned_are_waited_for() -> None:
    shared = torch.zeros(4, 100).share_memory_()
    source = torch.full((2, 100), 7.0).to("hpu")

    def gather(chunk: torch.Tensor) -> torch.Tensor:
        chunk[1:3].copy_(source + 1, non_blocking=True)
        return (source + 2).to("cpu", non_blocking=True)

    other = waiting_for_host_copies(gather)(shared)
    torch.hpu.synchronize()
    assert shared[:, 0].tolist() == [0, 8, 8, 0]
    assert bool((other == 9).all())


def test_copies_to_pinned_memory_are_not_waited_for() -> None:
    held = pinning.allocate(400)
    block = held.view(torch.float32)
    source = torch.full((100,), 7.0).to("hpu")

    def gather() -> None:
        block.copy_(source + 1, non_blocking=True)

    waiting_for_host_copies(gather)()
    assert bool((block != 8).all())
    torch.hpu.synchronize()
    assert bool((block == 8).all())

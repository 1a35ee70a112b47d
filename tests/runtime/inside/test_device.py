"""device.py on an HPU: the rules that the bridge sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lmcache.gaudi import device
from lmcache.gaudi.layout import normalise
from lmcache.gaudi.transfer import Transfer
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


def test_an_event_covers_a_copy_from_the_device() -> None:
    backend = device.HpuBackend()
    source = torch.full((1000,), 7, dtype=torch.int32).to("hpu")
    host = backend.pinned(4000).view(torch.int32)
    host.copy_(source, non_blocking=True)
    backend.record().synchronize()
    assert bool((host == 7).all())


def test_usage_statistics_get_a_name_and_claim_no_device() -> None:
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

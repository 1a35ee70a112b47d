"""Copies between host and device, pinned or not, blocking or not, and the waits for them."""

from __future__ import annotations

import torch

from .registry import program


@program
def blocking_copy_from_pageable_memory():
    host, t = torch.zeros(16), torch.ones(16, device="hpu")
    return lambda: t.copy_(host)


@program
def non_blocking_copy_from_pageable_memory():
    host, t = torch.zeros(16), torch.ones(16, device="hpu")
    return lambda: t.copy_(host, non_blocking=True)


@program
def non_blocking_copy_from_pinned_memory():
    host, t = torch.zeros(16).pin_memory(), torch.ones(16, device="hpu")
    return lambda: t.copy_(host, non_blocking=True)


@program
def non_blocking_copy_from_the_first_slice_of_a_pinned_pool():
    """Pinned memory is recognised by its base address, so the first object of a pool is recognised."""
    pool, t = torch.zeros(64).pin_memory(), torch.ones(16, device="hpu")
    return lambda: t.copy_(pool[:16], non_blocking=True)


@program
def non_blocking_copy_from_another_slice_of_a_pinned_pool():
    pool, t = torch.zeros(64).pin_memory(), torch.ones(16, device="hpu")
    return lambda: t.copy_(pool[16:32], non_blocking=True)


@program
def blocking_copy_to_pinned_memory():
    host, t = torch.zeros(16).pin_memory(), torch.ones(16, device="hpu")
    return lambda: host.copy_(t)


@program
def non_blocking_copy_to_pinned_memory():
    host, t = torch.zeros(16).pin_memory(), torch.ones(16, device="hpu")
    return lambda: host.copy_(t, non_blocking=True)


@program
def non_blocking_copy_to_pageable_memory():
    host, t = torch.zeros(16), torch.ones(16, device="hpu")
    return lambda: host.copy_(t, non_blocking=True)


@program
def non_blocking_copy_to_a_slice_of_a_pinned_pool():
    pool, t = torch.zeros(64).pin_memory(), torch.ones(16, device="hpu")
    return lambda: pool[16:32].copy_(t, non_blocking=True)


@program
def copies_of_several_types():
    sources = [torch.zeros(10, dtype=d) for d in (torch.bfloat16, torch.int8, torch.int64, torch.float8_e4m3fn)]
    return lambda: [s.to("hpu").cpu() for s in sources]


@program
def waits_of_every_kind():
    stream, event = torch.hpu.Stream(), torch.hpu.Event()
    event.record(stream)

    def run():
        torch.hpu.synchronize()
        torch.hpu.synchronize()
        for _ in range(3):
            stream.synchronize()
        event.synchronize()

    return run

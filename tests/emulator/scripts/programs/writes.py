"""Writes to whole tensors and through views, memory traffic, staging."""

from __future__ import annotations

import torch

from .registry import program


@program
def writes_to_whole_tensors():
    t, index, rows = (
        torch.zeros(64, 16, device="hpu"),
        torch.tensor([3, 1], device="hpu"),
        torch.ones(2, 16, device="hpu"),
    )

    def run():
        t.add_(1)
        t.index_copy_(0, index, rows)
        torch.hpu.synchronize()

    return run


@program
def writes_through_views():
    t, index, rows = (
        torch.zeros(4, 16, 16, device="hpu"),
        torch.tensor([3, 1], device="hpu"),
        torch.ones(2, 16, device="hpu"),
    )

    def run():
        t[1].add_(1)
        t.view(64, 16).index_copy_(0, index, rows)
        t[2, 3].copy_(rows[0])
        torch.hpu.synchronize()

    return run


@program
def traffic_of_a_gather():
    t = torch.zeros(1000, 16, device="hpu")
    index = torch.arange(10, dtype=torch.int32, device="hpu")

    def run():
        rows = t.index_select(0, index)
        torch.hpu.synchronize()
        return rows

    return run


@program
def traffic_of_a_scatter():
    t, rows = torch.zeros(1000, 16, device="hpu"), torch.ones(10, 16, device="hpu")
    index = torch.arange(10, dtype=torch.int64, device="hpu")

    def run():
        t.index_copy_(0, index, rows)
        torch.hpu.synchronize()

    return run


@program
def traffic_of_an_addition():
    a, b = torch.ones(256, device="hpu"), torch.ones(256, device="hpu")

    def run():
        c = a + b
        torch.hpu.synchronize()
        return c

    return run


@program
def traffic_of_a_concatenation():
    parts = [torch.ones(128, device="hpu") for _ in range(3)]

    def run():
        c = torch.cat(parts)
        torch.hpu.synchronize()
        return c

    return run


@program
def staging_of_two_live_results():
    t = torch.ones(1 << 14, device="hpu")

    def run():
        u = t + 1
        w = u + 1
        torch.hpu.synchronize()
        del u, w

    return run


@program
def staging_of_results_one_after_the_other():
    t = torch.ones(1 << 14, device="hpu")

    def run():
        for _ in range(4):
            u = t + 1
            torch.hpu.synchronize()
            del u

    return run

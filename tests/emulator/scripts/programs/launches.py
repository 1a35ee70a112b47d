"""Launches and signatures: what forms a graph, and what makes a different one."""

from __future__ import annotations

import torch

from .registry import mark_step, program


@program
def two_operators_and_a_mark_step():
    t = torch.ones(16, device="hpu")

    def run():
        u = (t + 1) * 2
        mark_step()
        return u

    return run


@program
def the_same_program_twice():
    once = two_operators_and_a_mark_step()
    return lambda: (once(), once())


@program
def the_same_program_on_another_shape():
    a, b = torch.ones(16, device="hpu"), torch.ones(17, device="hpu")

    def run():
        for t in (a, b):
            t * 2
            mark_step()

    return run


@program
def another_scalar_is_another_attribute():
    t = torch.ones(4, 16, device="hpu")

    def run():
        for dim in (0, 1):
            t.sum(dim, keepdim=True)
            mark_step()

    return run


@program
def a_slice_at_four_positions():
    t = torch.ones(64, device="hpu")

    def run():
        for start in range(0, 64, 16):
            t[start : start + 16] * 2
            mark_step()

    return run


@program
def views_alone_launch_nothing():
    t = torch.ones(4, 16, device="hpu")

    def run():
        t.view(64)[3:].unsqueeze(0).expand(3, -1).transpose(0, 1)
        torch.hpu.synchronize()

    return run


@program
def mark_steps_without_work():
    def run():
        for _ in range(3):
            mark_step()

    return run

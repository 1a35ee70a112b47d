"""Operators that the device cannot run."""

from __future__ import annotations

import torch

from .registry import program


@program
def index_put_of_int8_falls_back():
    t, index = torch.zeros(8, dtype=torch.int8, device="hpu"), torch.tensor([1], device="hpu")
    value = torch.ones(1, dtype=torch.int8, device="hpu")
    return lambda: t.index_put_((index,), value)


@program
def index_put_of_fp8_falls_back():
    t = torch.zeros(8, dtype=torch.float8_e4m3fn, device="hpu")
    index, value = torch.tensor([1], device="hpu"), torch.ones(1, device="hpu").to(torch.float8_e4m3fn)
    return lambda: t.index_put_((index,), value)


@program
def index_copy_of_int64_falls_back():
    t, index = torch.zeros(8, dtype=torch.int64, device="hpu"), torch.tensor([1], device="hpu")
    value = torch.ones(1, dtype=torch.int64, device="hpu")
    return lambda: t.index_copy_(0, index, value)


@program
def index_select_of_six_dimensions_falls_back():
    t, index = torch.zeros(2, 2, 2, 2, 2, 2, device="hpu"), torch.tensor([1], device="hpu")
    return lambda: t.index_select(0, index)


@program
def index_copy_of_fp8_is_a_device_operator():
    t = torch.zeros(8, 4, dtype=torch.float8_e4m3fn, device="hpu")
    index, value = torch.tensor([1], device="hpu"), torch.zeros(1, 4, dtype=torch.float8_e4m3fn, device="hpu")
    return lambda: (t.index_copy_(0, index, value), torch.hpu.synchronize())

"""Data types: movement is bit-exact for each, arithmetic for those that the CPU supports."""

from __future__ import annotations

import torch

from ._case import OnHost, Target, compare, compare_values, normal, pattern


def _movement(on: Target, dtype: torch.dtype):
    host = pattern(dtype, 9, 4, seed=3)
    t = on(host)
    target = torch.empty_like(t)
    target.copy_(t)
    back = torch.empty_like(host)
    back.copy_(t, non_blocking=True)
    on.sync()
    return t, target, OnHost(back), t[2:5], t.t().contiguous(), t.view(-1).view(torch.uint8)


@compare
def float64_moves_bit_for_bit(on: Target):
    return _movement(on, torch.float64)


@compare
def float32_moves_bit_for_bit(on: Target):
    return _movement(on, torch.float32)


@compare
def float16_moves_bit_for_bit(on: Target):
    return _movement(on, torch.float16)


@compare
def bfloat16_moves_bit_for_bit(on: Target):
    return _movement(on, torch.bfloat16)


@compare
def float8_e4m3fn_moves_bit_for_bit(on: Target):
    return _movement(on, torch.float8_e4m3fn)


@compare
def float8_e5m2_moves_bit_for_bit(on: Target):
    return _movement(on, torch.float8_e5m2)


@compare
def int64_moves_bit_for_bit(on: Target):
    return _movement(on, torch.int64)


@compare
def int32_moves_bit_for_bit(on: Target):
    return _movement(on, torch.int32)


@compare
def int16_moves_bit_for_bit(on: Target):
    return _movement(on, torch.int16)


@compare
def int8_moves_bit_for_bit(on: Target):
    return _movement(on, torch.int8)


@compare
def uint8_moves_bit_for_bit(on: Target):
    return _movement(on, torch.uint8)


@compare
def bool_moves_bit_for_bit(on: Target):
    return _movement(on, torch.bool)


@compare
def fp8_gather_and_scatter(on: Target):
    results = []
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        cache = on(pattern(dtype, 12, 2, 4, seed=1))
        index = on(torch.tensor([7, 0, 11, 3]))
        rows = cache.index_select(0, index)
        target = torch.zeros(12, 2, 4, dtype=dtype, device=on.type)
        target.view(torch.uint8).index_copy_(0, index, rows.view(torch.uint8))
        results += [rows, target]
    return results


@compare
def fp8_casts(on: Target):
    t = on(normal(4, 8))
    small = t.to(torch.float8_e4m3fn)
    return small, small.to(torch.float32), t.to(torch.float8_e5m2).to(torch.bfloat16)


@compare
def int8_arithmetic_wraps(on: Target):
    t = on(pattern(torch.int8, 64))
    return t + t, t * 3, -t, t // 4, t >> 1, t & 15, ~t


@compare
def bool_logic(on: Target):
    a, b = on(pattern(torch.bool, 32)), on(pattern(torch.bool, 32, seed=1))
    return a & b, a | b, a ^ b, ~a, a.logical_not(), a.any(), a.all(), a.sum()


@compare
def comparisons_give_bool(on: Target):
    a = on(torch.arange(6))
    b = on(torch.tensor([0, 5, 2, 1, 4, 9]))
    return a == b, a < b, a >= 3, torch.maximum(a, b), a.ne(b), torch.isnan(a.float() / 0)


@compare
def type_promotion(on: Target):
    i, h, b, f = (on(torch.ones(2, dtype=d)) for d in (torch.int32, torch.float16, torch.bfloat16, torch.float32))
    return i + h, h + b, b * f, i / 3, i * 2.5, i + i.bool(), torch.result_type(h, b) == torch.float32


@compare
def half_precision_arithmetic(on: Target):
    results = []
    for dtype in (torch.bfloat16, torch.float16):
        a, b = on(normal(33, dtype=dtype)), on(normal(33, dtype=dtype, seed=1))
        results += [a + b, a * b, a / b, a.exp(), (a * 100).round(), a.abs().sqrt()]
    return results


@compare_values
def half_precision_matmul(on: Target):
    a, b = on(normal(8, 16, dtype=torch.bfloat16)), on(normal(16, 4, dtype=torch.bfloat16, seed=1))
    return a @ b, torch.nn.functional.linear(a, b.t())


@compare
def casting_methods(on: Target):
    t = on(torch.tensor([1.7, -2.2, 300.0]))
    return t.int(), t.long(), t.half(), t.bfloat16(), t.double(), t.bool(), t.to(torch.int16), t.type(torch.float16)


@compare
def int64_values_within_32_bits(on: Target):
    t = on(torch.tensor([3, 1, 2], dtype=torch.int64))
    return t.sum(), t * 1000, t.cumsum(0), t.dtype == torch.int64

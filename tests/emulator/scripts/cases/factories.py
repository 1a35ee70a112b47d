"""Tensors created on the device."""

from __future__ import annotations

import torch

from ._case import Target, check, compare, normal, pattern


@compare
def zeros_ones_full(on: Target):
    d = on.type
    return (
        torch.zeros(2, 3, device=d),
        torch.ones(4, dtype=torch.bfloat16, device=d),
        torch.full((2, 2), 7, device=d),
        torch.full((2,), 1.5, dtype=torch.float16, device=d),
        torch.zeros(0, 3, device=d),
    )


@compare
def arange_linspace_eye(on: Target):
    d = on.type
    return (
        torch.arange(10, device=d),
        torch.arange(1, 2, 0.25, device=d),
        torch.arange(5, 0, -2, dtype=torch.int32, device=d),
        torch.linspace(0, 1, 5, device=d),
        torch.eye(3, 4, device=d),
    )


@compare
def tensor_from_lists_and_scalars(on: Target):
    d = on.type
    return (
        torch.tensor([[1, 2], [3, 4]], device=d),
        torch.tensor(3.5, device=d),
        torch.tensor([True, False], device=d),
        torch.tensor([1.0, float("nan"), float("inf")], dtype=torch.bfloat16, device=d),
        torch.as_tensor([1, 2, 3], device=d),
    )


@compare
def like_factories(on: Target):
    t = on(normal(3, 4, dtype=torch.bfloat16))
    return (
        torch.zeros_like(t),
        torch.ones_like(t, dtype=torch.int32),
        torch.full_like(t, 2),
        torch.empty_like(t).fill_(3),
        torch.zeros_like(t.t()),
    )


@compare
def new_factories(on: Target):
    t = on(normal(2, 2, dtype=torch.float16))
    return t.new_zeros(3), t.new_ones(2, 2), t.new_full((2,), 9), t.new_tensor([1, 2]), t.new_empty(4).zero_()


@compare
def empty_strided_keeps_strides(on: Target):
    t = torch.empty_strided((2, 3), (1, 2), device=on.type).fill_(4)
    return t, t.is_contiguous()


@compare
def empty_then_fill(on: Target):
    return torch.empty(5, 5, device=on.type).fill_(-1), torch.empty(3, dtype=torch.int64, device=on.type).zero_()


@compare
def scalar_tensors_and_promotion(on: Target):
    s = torch.tensor(2, device=on.type)
    t = on(torch.arange(3, dtype=torch.float16))
    return s * t, t + 1, t * 2.5, s + 1.5, t / 2, s // 2


@compare
def meshgrid_and_cartesian(on: Target):
    a, b = on(torch.arange(3)), on(torch.arange(2))
    return torch.meshgrid(a, b, indexing="ij"), torch.cartesian_prod(a, b)


@compare
def tril_indices_and_one_hot(on: Target):
    t = on(torch.tensor([0, 2, 1]))
    return torch.tril_indices(3, 3, device=on.type), torch.nn.functional.one_hot(t, 4)


@compare
def from_numpy_moved_to_the_device(on: Target):
    import numpy as np

    return torch.from_numpy(np.arange(6, dtype=np.int16).reshape(2, 3)).to(on.type)


@compare
def default_device_context(on: Target):
    with torch.device(on.type):
        return torch.zeros(2), torch.arange(3), torch.tensor([1.0, 2.0])


@compare
def module_parameters_move(on: Target):
    torch.manual_seed(1)
    layer = torch.nn.Linear(4, 3).to(on.type)
    return {name: p.detach() for name, p in layer.named_parameters()}


@compare
def complex_and_double_factories(on: Target):
    return (
        torch.zeros(2, dtype=torch.float64, device=on.type),
        on(pattern(torch.float64, 3)),
        torch.ones(2, dtype=torch.complex64, device=on.type),
    )


@check
def a_new_tensor_is_on_index_zero():
    assert torch.empty(1, device="hpu").device == torch.device("hpu", 0)
    assert torch.empty(1, device="hpu:0").get_device() == 0
    assert torch.empty(1, device=torch.device("hpu")).is_hpu
    assert not torch.empty(1).is_hpu


@check
def fresh_memory_is_poisoned():
    """Code that mistakes an empty tensor for zeros must notice."""
    t = torch.empty(4096, dtype=torch.uint8, device="hpu").cpu()
    assert (t != 0).all(), "fresh device memory looks like zeros"


@check
def index_one_raises():
    from ._case import raises

    for action in (
        lambda: torch.empty(1, device="hpu:1"),
        lambda: torch.zeros(1).to("hpu:1"),
        lambda: torch.ones(1, device=torch.device("hpu", 1)),
    ):
        raises((RuntimeError, AssertionError), action)
    assert torch.hpu.device_count() == 1

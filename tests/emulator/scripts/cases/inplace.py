"""In-place operators and out= arguments."""

from __future__ import annotations

import torch

from ._case import Target, compare, normal


@compare
def in_place_arithmetic(on: Target):
    t = on(normal(4, 4))
    t.add_(1).mul_(2).sub_(0.5).div_(3)
    t += t
    t **= 2
    return t, t.clamp_(0, 1)


@compare
def in_place_returns_the_tensor_itself(on: Target):
    t = on(normal(3))
    return t.add_(1) is t, t.zero_() is t, t.copy_(torch.ones(3)) is t, t.fill_(2) is t


@compare
def in_place_on_slices(on: Target):
    t = on(torch.zeros(6, 6))
    t[1:3].add_(1)
    t[:, ::2] *= 5
    t[4, 4] -= 3
    t[..., -1].fill_(8)
    return t


@compare
def out_arguments(on: Target):
    a, b = on(normal(3, 3)), on(normal(3, 3, seed=1))
    out = torch.empty(3, 3, device=on.type)
    same = torch.add(a, b, out=out) is out
    small = torch.empty(0, device=on.type)
    torch.mul(a, b, out=small)
    cat = torch.empty(6, 3, device=on.type)
    torch.cat([a, b], out=cat)
    return out, same, small, cat


@compare
def resize_and_set(on: Target):
    t = on(torch.arange(6.0))
    t.resize_(2, 2)
    u = torch.empty(0, device=on.type)
    u.set_(t.untyped_storage(), 1, (2,), (1,))
    return t, u


@compare
def fill_diagonal_and_masked_fill(on: Target):
    t = on(torch.zeros(4, 4))
    t.fill_diagonal_(3)
    t.masked_fill_(on(torch.eye(4).flip(0).bool()), -2)
    t.masked_scatter_(on(torch.eye(4).bool()), on(torch.arange(4.0)))
    return t


@compare
def transpose_and_squeeze_in_place(on: Target):
    t = on(torch.arange(6.0).reshape(1, 2, 3))
    t.transpose_(1, 2).squeeze_(0).unsqueeze_(-1)
    return t


@compare
def foreach_operators(on: Target):
    tensors = [on(normal(3, seed=s)) for s in range(3)]
    torch._foreach_add_(tensors, 1.0)
    torch._foreach_mul_(tensors, [1.0, 2.0, 3.0])
    return tensors, torch._foreach_add(tensors, tensors), torch._foreach_norm(tensors)


@compare
def version_counter_rises(on: Target):
    t = on(torch.zeros(2))
    before = t._version
    t.add_(1)
    view = t[0]
    view.mul_(2)
    return t._version - before, view._version == t._version


@compare
def many_small_writes_in_a_row(on: Target):
    t = on(torch.zeros(50, dtype=torch.int32))
    for index in range(50):
        t[index] = index * index
        if index % 10 == 9:
            on.mark_step()
    return t


@compare
def lerp_addcmul_addmm(on: Target):
    a, b, c = (on(normal(3, 3, seed=s)) for s in range(3))
    return (
        a.lerp(b, 0.25),
        a.addcmul(b, c, value=2),
        a.addmm(b, c),
        a.addcdiv_(b, c),
        torch.baddbmm(a[None], b[None], c[None]),
    )

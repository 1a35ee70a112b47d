"""Copies between host and device, and on the device."""

from __future__ import annotations

import copy

import torch

from ._case import OnHost, Target, check, compare, normal, pattern


@compare
def to_cpu_and_back(on: Target):
    t = on(pattern(torch.float32, 7, 5))
    back = t.cpu()
    return OnHost(back), back.to(on.type), OnHost(t.to("cpu", copy=True))


@compare
def to_with_dtype(on: Target):
    t = normal(5, 3)
    moved = t.to(on.type, torch.bfloat16)
    return moved, moved.to(torch.float32), OnHost(moved.to("cpu", torch.float16)), on(t).to(torch.float16)


@compare
def to_the_same_device_is_the_tensor(on: Target):
    t = on(normal(2))
    return t.to(on.type) is t, t.to(t.device) is t, t.to(t.dtype) is t, t.to(on.type, copy=True) is t


@compare
def copy_between_devices_in_place(on: Target):
    host = pattern(torch.int32, 4, 4)
    t = torch.empty(4, 4, dtype=torch.int32, device=on.type)
    t.copy_(host)
    target = torch.empty(4, 4, dtype=torch.int32)
    target.copy_(t)
    return t, OnHost(target)


@compare
def copy_of_any_length_from_any_address(on: Target):
    # From one cache line on, the copy moves whole cache lines: lengths and addresses on both sides of the edges.
    results = []
    for length in (1, 15, 63, 64, 65, 127, 129, 4095, 70_001):
        host = pattern(torch.uint8, length + 9)
        for start in (0, 1, 9):
            t = torch.zeros(length, dtype=torch.uint8, device=on.type)
            t.copy_(host[start : start + length])
            back = torch.zeros(length + 18, dtype=torch.uint8)
            back[start + 9 : start + 9 + length].copy_(t)
            results += [t, OnHost(back)]
    return tuple(results)


@compare
def copy_casts(on: Target):
    t = torch.zeros(6, dtype=torch.bfloat16, device=on.type)
    t.copy_(normal(6))
    host = torch.zeros(6, dtype=torch.float64)
    host.copy_(t)
    wide = torch.zeros(6, dtype=torch.int32, device=on.type)
    wide.copy_(t)
    return t, OnHost(host), wide


@compare
def copy_broadcasts(on: Target):
    t = torch.zeros(3, 4, device=on.type)
    t.copy_(on(torch.arange(4.0)))
    u = torch.zeros(3, 4, device=on.type)
    u.copy_(torch.arange(3.0).reshape(3, 1))
    return t, u


@compare
def copy_into_a_device_slice(on: Target):
    t = torch.zeros(4, 6, device=on.type)
    t[1].copy_(torch.arange(6.0))
    t[:, 2].copy_(torch.tensor([9.0, 8.0, 7.0, 6.0]))
    t[2:, 4:] = torch.ones(2, 2)
    return t


@compare
def copy_from_a_strided_device_view(on: Target):
    t = on(torch.arange(24.0).reshape(4, 6))
    return [OnHost(view.to("cpu", copy=True).contiguous()) for view in (t[:, 1], t.t(), t[1:3, ::2])]


@compare
def copy_into_a_contiguous_host_slice(on: Target):
    t = on(torch.arange(6.0))
    pool = torch.full((18,), -1.0)
    pool[6:12].copy_(t)
    return OnHost(pool)


@compare
def copy_from_a_noncontiguous_host_tensor(on: Target):
    host = torch.arange(24.0).reshape(4, 6)
    return on(host.t()), on(host[:, ::2]), on(host[1:, 3])


@compare
def non_blocking_round_trip(on: Target):
    host = pattern(torch.float16, 32, 16)
    t = host.to(on.type, non_blocking=True)
    back = torch.empty_like(host)
    back.copy_(t, non_blocking=True)
    on.sync()
    return t, OnHost(back)


@compare
def non_blocking_to_cpu_then_sync(on: Target):
    t = on(pattern(torch.int8, 1000))
    back = t.to("cpu", non_blocking=True)
    on.sync()
    return OnHost(back)


@compare
def pinned_round_trip(on: Target):
    host = pattern(torch.bfloat16, 64, 8)
    source = host.pin_memory() if on.is_hpu else host
    target = torch.empty(64, 8, dtype=torch.bfloat16, pin_memory=on.is_hpu)
    t = source.to(on.type, non_blocking=True)
    target.copy_(t, non_blocking=True)
    on.sync()
    return t, OnHost(target)


@compare
def a_later_copy_sees_an_earlier_op(on: Target):
    t = on(torch.zeros(1000))
    t += 1
    first = t.to("cpu", copy=True)
    t += 1
    second = torch.empty(1000)
    second.copy_(t, non_blocking=True)
    t.mul_(0)
    on.sync()
    return OnHost(first), OnHost(second), t


@compare
def copies_into_one_host_buffer_in_order(on: Target):
    buffer = torch.empty(16)
    for value in range(4):
        buffer.copy_(torch.full((16,), float(value), device=on.type), non_blocking=True)
    on.sync()
    return OnHost(buffer)


@compare
def host_to_device_to_host_chain(on: Target):
    a = normal(64)
    d = torch.empty(64, device=on.type)
    b = torch.empty(64)
    d.copy_(a, non_blocking=True)
    d.neg_()
    b.copy_(d, non_blocking=True)
    e = torch.empty(64, device=on.type)
    on.sync()
    e.copy_(b)
    return e, OnHost(b)


@compare
def device_to_device(on: Target):
    a = on(pattern(torch.int16, 5, 6))
    b = torch.empty_like(a)
    b.copy_(a)
    c = torch.zeros(6, 5, dtype=torch.int16, device=on.type)
    c.t().copy_(a)
    return b, c, a.clone(), a.t().clone(), a.t().clone(memory_format=torch.contiguous_format)


@compare
def clone_is_independent(on: Target):
    a = on(torch.arange(5.0))
    b = a.clone()
    a.zero_()
    return a, b


@compare
def deepcopy_of_tensors_and_modules(on: Target):
    a = on(normal(3, 3))
    view = a[1]
    b, bview = copy.deepcopy([a, view])
    b[1, 1] = 5
    torch.manual_seed(3)
    layer = copy.deepcopy(torch.nn.Linear(2, 2).to(on.type))
    return a, b, bview, layer.weight.detach()


@compare
def item_and_tolist(on: Target):
    t = on(torch.arange(6).reshape(2, 3))
    return t[1, 2].item(), t.tolist(), float(t.sum()), bool(t[0, 1] > 0), int(t.max()), f"{t[0, 2]}"


@compare
def numpy_of_a_cpu_copy(on: Target):
    return on(torch.arange(4.0)).cpu().numpy().tolist()


@compare
def printing(on: Target):
    t = on(torch.tensor([1.5, -2.0]))
    return repr(t).replace(", device='hpu:0'", ""), str(t.shape)


@compare
def empty_and_zero_dim_copies(on: Target):
    e = on(torch.empty(0, 4))
    z = on(torch.tensor(5))
    return e, OnHost(e.cpu()), z, OnHost(z.cpu())


@compare
def large_copy(on: Target):
    host = pattern(torch.uint8, 3 << 20)
    return OnHost(host.to(on.type, non_blocking=True).cpu())


@compare
def double_and_long_keep_their_range(on: Target):
    t = torch.tensor([2**31 - 1, -(2**31), 0, 5])
    return on(t), on(t) + 0, on(torch.tensor([0.1, 1e-300, 3.0], dtype=torch.float64))


@check
def numpy_of_a_device_tensor_raises():
    from ._case import raises

    message = raises(TypeError, lambda: torch.zeros(2, device="hpu").numpy())
    assert "hpu" in message


@check
def tensor_hpu_method_moves():
    t = torch.arange(3).hpu()
    assert t.device.type == "hpu"
    assert t.cpu().tolist() == [0, 1, 2]

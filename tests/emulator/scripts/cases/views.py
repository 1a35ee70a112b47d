"""Views alias: they share memory, have the CPU's strides and offsets, and see each other's writes."""

from __future__ import annotations

import torch

from ._case import Target, check, compare, normal, pattern


def _base(on: Target) -> torch.Tensor:
    return on(torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4))


@compare
def view_and_reshape(on: Target):
    t = _base(on)
    return t.view(6, 4), t.view(-1), t.reshape(4, 6), t.view(2, -1, 2)


@compare
def slices_and_selects(on: Target):
    t = _base(on)
    return t[1], t[:, 1:], t[..., ::2], t[1, 2, 3], t[-1, :, -2:], t[0:0]


@compare
def narrow_and_unfold(on: Target):
    t = _base(on)
    return t.narrow(1, 1, 2), t.unfold(2, 2, 1), t.flatten(), t.flatten(1)


@compare
def transpose_permute_and_t(on: Target):
    t = _base(on)
    return t.transpose(0, 2), t.permute(2, 0, 1), t[0].t(), t.mT, t.movedim(0, -1)


@compare
def expand_and_broadcast_to(on: Target):
    t = on(torch.arange(3.0).reshape(3, 1))
    return t.expand(3, 4), t.broadcast_to(2, 3, 1), t.expand(-1, 2)


@compare
def squeeze_and_unsqueeze(on: Target):
    t = on(torch.arange(6.0).reshape(1, 6, 1))
    return t.squeeze(), t.squeeze(0), t.unsqueeze(2), t[None, ..., None]


@compare
def split_chunk_and_unbind(on: Target):
    t = _base(on)
    return t.split(2, dim=2), t.chunk(3, dim=1), t.unbind(0), t.split([1, 3], dim=2), t.tensor_split(3, dim=2)


@compare
def as_strided_with_offset(on: Target):
    t = on(torch.arange(24.0))
    return t.as_strided((3, 4), (8, 1), 2), t[4:].as_strided((2, 2), (2, 1), 5)


@compare
def view_dtype_keeps_the_bits(on: Target):
    t = on(pattern(torch.float32, 4, 6))
    return t.view(torch.int32), t.view(torch.uint8), t.view(torch.bfloat16), t.view(torch.int64)


@compare
def real_imag_and_conj(on: Target):
    t = on(torch.view_as_complex(normal(4, 2)))
    return torch.view_as_real(t), t.real, t.imag, t.conj().resolve_conj()


@compare
def diagonal_and_triangles(on: Target):
    t = on(normal(4, 4))
    return t.diagonal(), t.diagonal(1), t.tril(), t.triu(1), torch.diag_embed(t[0])


@compare
def write_to_the_base_is_seen_in_views(on: Target):
    t = _base(on)
    row, column, flat = t[1], t[:, :, 2], t.view(-1)
    t.add_(100)
    return row, column, flat


@compare
def write_to_a_view_is_seen_in_the_base(on: Target):
    t = _base(on)
    t[1, 1:].mul_(-1)
    t.view(-1)[5] = 77
    t.transpose(0, 2)[3].fill_(9)
    return t


@compare
def view_of_view_of_view_writes_through(on: Target):
    t = _base(on)
    t.view(6, 4)[2:5][1:][:, 1:3].copy_(on(torch.full((2, 2), -5.0)))
    return t


@compare
def swapped_halves_keep_the_order_of_writes(on: Target):
    t = on(torch.arange(8.0))
    left, right = t[:4], t[4:]
    saved = left.clone()
    left.copy_(right)
    right.copy_(saved)
    left += right
    return t, saved


@compare
def detach_and_alias_share_memory(on: Target):
    t = on(torch.arange(4.0)).requires_grad_()
    plain = t.detach()
    plain[0] = 42
    return plain, t.data


@compare
def base_attribute_of_views(on: Target):
    t = _base(on)
    return t.view(-1)._base is t, t._base is None, t[1][2]._base is t, t.clone()._base is None


@compare
def data_ptr_differences_are_offsets(on: Target):
    t = _base(on)
    return t[1].data_ptr() - t.data_ptr(), t.view(-1)[7:].data_ptr() - t.data_ptr()


@compare
def set_data_replaces_the_memory(on: Target):
    a, b = on(torch.zeros(3)), on(torch.arange(3.0))
    a.data = b
    b[1] = 8
    return a, a.data_ptr() == b.data_ptr()


@compare
def contiguous_copies_only_when_needed(on: Target):
    t = _base(on)
    turned = t.transpose(0, 1)
    return turned.contiguous(), t.contiguous().data_ptr() == t.data_ptr(), turned.is_contiguous()


@compare
def channels_last_layout(on: Target):
    t = on(normal(2, 3, 4, 5)).to(memory_format=torch.channels_last)
    return t, t + 1, torch.empty_like(t).stride(), t.contiguous()


@compare
def paged_cache_views(on: Target):
    flat = on(pattern(torch.bfloat16, 5 * 8, 2, 4))
    cache = flat.view(-1, 8, 2, 4)[:4]
    cache[2, 3].fill_(1.5)
    return cache, cache.view(-1, 8)[3:5], flat[2 * 8 + 3], cache.storage_offset()


@check
def views_of_a_tensor_have_one_storage():
    t = torch.zeros(4, 4, device="hpu")
    assert t[2:].untyped_storage()._cdata == t.untyped_storage()._cdata
    assert t.untyped_storage().nbytes() == 64
    assert t.untyped_storage().device == torch.device("hpu", 0)

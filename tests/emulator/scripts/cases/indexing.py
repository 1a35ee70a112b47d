"""Index operators, including those that move KV blocks."""

from __future__ import annotations

import torch

from ._case import OnHost, Target, check, compare, compare_values, normal, pattern


@compare
def index_select_rows_and_columns(on: Target):
    t = on(normal(6, 5))
    index = on(torch.tensor([4, 0, 4]))
    return t.index_select(0, index), t.index_select(1, index), torch.index_select(t, 0, index.int())


@compare
def index_copy_rows(on: Target):
    t = on(torch.zeros(6, 3))
    t.index_copy_(0, on(torch.tensor([5, 1])), on(torch.arange(6.0).reshape(2, 3)))
    return t, t.index_copy(1, on(torch.tensor([2])), on(torch.full((6, 1), 9.0)))


@compare
def index_copy_through_a_view(on: Target):
    cache = on(torch.zeros(4, 8, 2))
    cache[:3].view(24, 2).index_copy_(0, on(torch.tensor([23, 0, 9])), on(torch.arange(6.0).reshape(3, 2)))
    return cache


@compare
def index_add_and_index_fill(on: Target):
    t = on(torch.zeros(5, 2))
    index = on(torch.tensor([1, 1, 4]))
    t.index_add_(0, index, on(torch.ones(3, 2)), alpha=2)
    return t, t.index_fill(0, on(torch.tensor([0])), -1)


@compare
def gather_and_take(on: Target):
    t = on(normal(3, 4))
    index = on(torch.tensor([[0, 3], [1, 1], [2, 0]]))
    return t.gather(1, index), t.take(on(torch.tensor([0, 11, 5]))), torch.take_along_dim(t, index, 1)


@compare
def scatter_variants(on: Target):
    index = on(torch.tensor([[0, 1, 1], [2, 0, 2]]))
    source = on(torch.arange(6.0).reshape(2, 3))
    t = torch.zeros(3, 3, device=on.type)
    return (
        t.scatter(0, index, source),
        t.scatter_add(0, index, source),
        t.scatter(1, index[:, :1], 7.0),
        t.scatter_reduce(0, index, source, "amax"),
    )


@compare
def advanced_indexing_reads(on: Target):
    t = on(normal(5, 6))
    rows = on(torch.tensor([3, 0]))
    columns = on(torch.tensor([5, 2]))
    return t[rows], t[rows, columns], t[:, columns], t[rows][:, 1], t[rows[:, None], columns]


@compare
def advanced_indexing_with_host_indices(on: Target):
    t = on(normal(5, 6))
    return t[torch.tensor([1, 3])], t[[0, 2]], t[torch.tensor([0]), torch.tensor([5])]


@compare
def advanced_indexing_writes(on: Target):
    t = on(torch.zeros(5, 4))
    rows = on(torch.tensor([4, 1]))
    t[rows] = 1
    t[rows, on(torch.tensor([0, 3]))] = on(torch.tensor([7.0, 8.0]))
    t[0] = on(torch.arange(4.0))
    t.index_put_((on(torch.tensor([2, 2])),), on(torch.ones(2, 4)), accumulate=True)
    return t


@compare
def boolean_masks(on: Target):
    t = on(torch.arange(8.0))
    mask = t > 4
    written = t.clone()
    written[mask] = -1
    return t[mask], torch.masked_select(t, mask), t.masked_fill(mask, 0), written


@compare
def nonzero_and_where(on: Target):
    t = on(torch.tensor([[0, 3], [5, 0]]))
    return t.nonzero(), t.nonzero(as_tuple=True), torch.where(t > 0), torch.where(t > 0, t, -t), torch.argwhere(t)


@compare
def sort_topk_argsort(on: Target):
    t = on(normal(4, 9))
    return t.sort(dim=1), t.topk(3), t.argsort(0), t.kthvalue(2), t.msort()


@compare
def unique_and_bincount(on: Target):
    t = on(torch.tensor([3, 1, 3, 0, 1]))
    return torch.unique(t, return_inverse=True, return_counts=True), torch.bincount(t), torch.unique_consecutive(t)


@compare
def searchsorted_and_bucketize(on: Target):
    edges = on(torch.tensor([1.0, 3.0, 5.0]))
    values = on(torch.tensor([0.5, 3.0, 9.0]))
    return torch.searchsorted(edges, values), torch.bucketize(values, edges, right=True)


@compare
def embedding_lookup(on: Target):
    table = on(normal(10, 4))
    return torch.nn.functional.embedding(on(torch.tensor([[1, 9], [0, 3]])), table)


@compare
def roll_flip_repeat(on: Target):
    t = on(torch.arange(6).reshape(2, 3))
    return t.roll(1, 1), t.flip(0), t.repeat(2, 2), t.repeat_interleave(2, dim=1), t.tile(1, 2), torch.rot90(t)


@compare_values
def paged_gather_for_all_cache_types(on: Target):
    """The store direction of a KV connector: rows of a paged cache, gathered and copied to one host object."""
    results = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.int8):
        caches = [on(pattern(dtype, 6, 8, 2, 4, seed=seed)) for seed in range(4)]
        slots = on(torch.tensor([13, 47, 0, 5, 21, 22]))
        rows = [cache.view(48, 8).index_select(0, slots) for cache in caches]
        host = torch.empty(4, 6, 8, dtype=dtype)
        host.copy_(torch.stack([r.view(torch.uint8) for r in rows]).view(dtype), non_blocking=True)
        on.sync()
        results.append(OnHost(host))
    return results


@compare
def paged_scatter_for_all_cache_types(on: Target):
    """The load direction: one host object copied to the device and scattered into paged caches."""
    results = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e5m2, torch.int8):
        host = pattern(dtype, 2, 6, 8, seed=9)
        staged = host.to(on.type, non_blocking=True)
        slots = on(torch.tensor([13, 47, 0, 5, 21, 22], dtype=torch.int64))
        for layer in range(2):
            cache = torch.zeros(48, 8, dtype=torch.uint8, device=on.type).repeat(1, host.element_size())
            cache.index_copy_(0, slots, staged[layer].view(torch.uint8))
            results.append(cache.view(dtype))
        on.sync()
    return results


@compare
def block_granular_copy(on: Target):
    cache = on(pattern(torch.bfloat16, 8, 4, 2, 3))
    blocks = on(torch.tensor([6, 1, 3]))
    staged = cache.index_select(0, blocks)
    cache.index_copy_(0, on(torch.tensor([0, 2, 4])), staged)
    return cache, staged


@check
def an_index_out_of_range_is_reported():
    from ._case import raises

    def select():
        t = torch.zeros(4, 2, device="hpu")
        return t.index_select(0, torch.tensor([1, 9], device="hpu"))

    message = raises((RuntimeError, IndexError), select)
    assert "range" in message or "index" in message
    # The device stays usable.
    torch.hpu.synchronize()
    assert torch.ones(2, device="hpu").cpu().tolist() == [1, 1]

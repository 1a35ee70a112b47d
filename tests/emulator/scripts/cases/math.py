"""Reductions, shape building, linear algebra, activations: the fallback must support every operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.nn.attention import SDPBackend, sdpa_kernel

from ._case import Target, compare, compare_values, normal


@compare
def sums_means_and_norms(on: Target):
    t = on(normal(4, 5, 6))
    return t.sum(), t.sum(1), t.mean((0, 2), keepdim=True), t.norm(), t.std(1), t.var(0, unbiased=False), t.prod(2)


@compare
def minima_and_maxima(on: Target):
    t = on(normal(4, 7))
    return t.max(), t.min(1), t.max(0), t.argmax(), t.argmin(1), t.amax(1), t.aminmax(dim=0), t.median(1)


@compare
def cumulative_operators(on: Target):
    t = on(normal(3, 6))
    return t.cumsum(1), t.cumprod(0), t.cummax(1), t.logcumsumexp(1), t.diff(dim=1)


@compare
def cat_and_stack(on: Target):
    a, b = on(normal(2, 3)), on(normal(2, 3, seed=1))
    return (
        torch.cat([a, b]),
        torch.cat([a, b], 1),
        torch.stack([a, b], 1),
        torch.hstack([a, b]),
        torch.vstack([a, b]),
        torch.cat([a, torch.empty(0, device=on.type)]),
    )


@compare
def stack_of_views(on: Target):
    t = on(normal(6, 4))
    return torch.stack([t[i] for i in (5, 0, 2)]), torch.cat([t[:2], t[4:].flip(0)]), torch.stack(list(t.unbind(1)))


@compare
def split_results_used_out_of_order(on: Target):
    parts = on(normal(9, 4)).split(3)
    return parts[2] - parts[0], torch.cat(parts[::-1])


@compare_values
def matmul_variants(on: Target):
    a, b = on(normal(2, 3, 4)), on(normal(2, 4, 5, seed=1))
    return (
        a @ b,
        torch.bmm(a, b),
        a[0] @ b[0],
        a[0, 0] @ b[0],
        torch.einsum("bij,bjk->bk", a, b),
        torch.outer(a[0, 0], a[0, 1]),
    )


@compare_values
def attention_and_softmax(on: Target):
    q, k, v = (on(normal(1, 2, 8, 16, seed=s)) for s in range(3))
    # Without this, device and release decide whether a fused kernel is used, whose last bits differ.
    with sdpa_kernel(SDPBackend.MATH):
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.softmax(q, -1), F.log_softmax(k, -1), attended


@compare_values
def convolution_and_pooling(on: Target):
    x, w = on(normal(1, 3, 8, 8)), on(normal(4, 3, 3, 3, seed=1))
    y = F.conv2d(x, w, padding=1)
    return y, F.max_pool2d(y, 2), F.avg_pool2d(y, 2), F.interpolate(x, scale_factor=2), F.pad(x, (1, 2))


@compare_values
def normalisation(on: Target):
    x = on(normal(4, 6))
    w, b = on(normal(6, seed=1)), on(normal(6, seed=2))
    return F.layer_norm(x, (6,), w, b), F.rms_norm(x, (6,), w), F.normalize(x), F.group_norm(x, 2, w, b)


@compare
def activations(on: Target):
    x = on(normal(40))
    return F.relu(x), F.gelu(x), F.silu(x), x.sigmoid(), x.tanh(), F.softplus(x), F.leaky_relu(x), F.hardtanh(x)


@compare
def elementwise_functions(on: Target):
    x = on(normal(30).abs() + 0.1)
    return (
        x.log(),
        x.rsqrt(),
        x.reciprocal(),
        x.floor(),
        x.ceil(),
        x.trunc(),
        x.frac(),
        x.erf(),
        x.sin(),
        x.atan2(x * 2),
    )


@compare
def losses(on: Target):
    x, y = on(normal(4, 5)), on(torch.tensor([0, 4, 2, 1]))
    return F.cross_entropy(x, y), F.mse_loss(x, x * 2), F.nll_loss(F.log_softmax(x, 1), y), F.l1_loss(x, -x)


@compare_values
def linear_algebra(on: Target):
    a = normal(4, 4)
    t = on(a @ a.t() + 4 * torch.eye(4))
    return torch.linalg.cholesky(t), torch.linalg.solve(t, on(normal(4))), torch.linalg.det(t), t.trace(), t.inverse()


@compare
def fft_and_complex(on: Target):
    t = on(normal(8))
    return torch.fft.fft(t), torch.fft.rfft(t).abs(), torch.complex(t, t * 2).conj() * 1j


@compare
def a_long_chain_of_operators(on: Target):
    t = on(normal(16))
    for step in range(200):
        t = t * 1.01 + step
        if step % 50 == 0:
            t = t - t.mean()
    return t


@compare
def results_of_different_shapes_in_a_loop(on: Target):
    return [(on(normal(n, n)) @ on(normal(n, 1, seed=1))).sum() for n in range(1, 20)]


@compare
def isfinite_allclose_equal(on: Target):
    a = on(torch.tensor([1.0, float("nan"), float("inf")]))
    b = on(normal(4))
    return a.isfinite(), a.isnan(), torch.allclose(b, b.clone()), torch.equal(b, b + 1), torch.equal(b, b.clone())


@compare
def vmap_and_functional(on: Target):
    t = on(normal(4, 3))
    return torch.vmap(lambda row: row * row.sum())(t), torch.func.grad(lambda x: (x**2).sum())(t)

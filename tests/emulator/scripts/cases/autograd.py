"""Gradients, optimizers, inference mode, autocast."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ._case import Target, check, compare, compare_values, normal


@compare
def backward_of_an_expression(on: Target):
    x = on(normal(5)).requires_grad_()
    y = (x.exp() * 2 + x**3).sum()
    y.backward()
    return x.grad, y.detach()


@compare
def gradients_through_views_and_index_ops(on: Target):
    x = on(normal(4, 6)).requires_grad_()
    index = on(torch.tensor([3, 1]))
    y = x.view(24)[3:9].sum() + x.index_select(0, index).mul(2).sum() + x[:, ::2].t().sum()
    (grad,) = torch.autograd.grad(y, x)
    return grad


@compare
def in_place_ops_under_autograd(on: Target):
    x = on(normal(3)).requires_grad_()
    y = x * 2
    y[1:].mul_(3)
    y.add_(1)
    y.sum().backward()
    return x.grad, y


@compare
def accumulation_and_zero_grad(on: Target):
    x = on(normal(3)).requires_grad_()
    for _ in range(3):
        (x * x).sum().backward()
    first = x.grad.clone()
    x.grad = None
    x.sum().backward()
    return first, x.grad


@compare
def double_backward_and_hooks(on: Target):
    x = on(normal(3)).requires_grad_()
    seen = []
    x.register_hook(lambda grad: seen.append(grad.detach().clone()))
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    g.sum().backward()
    return x.grad, seen, g


@compare_values
def training_steps_with_sgd_and_adam(on: Target):
    results = []
    for optimizer in (torch.optim.SGD, torch.optim.AdamW):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(on.type)
        opt = optimizer(model.parameters(), lr=0.05)
        x, y = on(normal(10, 6)), on(normal(10, 2, seed=1))
        for _ in range(4):
            opt.zero_grad()
            F.mse_loss(model(x), y).backward()
            opt.step()
            on.mark_step()
        results.append([p.detach() for p in model.parameters()])
    return results


@compare
def custom_autograd_function(on: Target):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * x

    x = on(normal(4)).requires_grad_()
    Twice.apply(x).sum().backward()
    return x.grad


@compare
def no_grad_and_detach(on: Target):
    x = on(normal(3)).requires_grad_()
    with torch.no_grad():
        y = x * 2
    return y, (x * 2).detach(), (x + 1).requires_grad


@compare
def inference_mode_results(on: Target):
    with torch.inference_mode():
        t = torch.zeros(4, 4, device=on.type)
        t[1:3].add_(1)
        u = t.view(16)[2:6].clone()
        t.index_copy_(0, on(torch.tensor([3])), on(torch.full((1, 4), 9.0)))
    return t, u, t.is_inference(), u.is_inference()


@compare
def inference_mode_writes_to_ordinary_tensors(on: Target):
    t = on(torch.zeros(3, 3))
    with torch.inference_mode():
        t[0].fill_(2)
        t.view(9).index_copy_(0, on(torch.tensor([8])), on(torch.tensor([5.0])))
        out = t.to("cpu", copy=True).to(on.type)
    t.add_(1)
    return t, out.clone()


@compare_values
def autocast_matmul(on: Target):
    a, b = on(normal(4, 8)), on(normal(8, 4, seed=1))
    with torch.autocast(on.type, dtype=torch.bfloat16):
        inside = a @ b
        chained = inside + 1
    outside = a.to(torch.bfloat16) @ b.to(torch.bfloat16)
    return inside.to(torch.bfloat16), outside, chained.to(torch.bfloat16)


@compare
def autocast_off(on: Target):
    a = on(normal(4, 4))
    with torch.autocast(on.type, enabled=False):
        return a @ a, torch.is_autocast_enabled(on.type)


@compare
def checkpointed_backward(on: Target):
    from torch.utils.checkpoint import checkpoint

    x = on(normal(4)).requires_grad_()
    checkpoint(lambda t: (t.sin() * t).sum(), x, use_reentrant=False).backward()
    return x.grad


@compare
def backward_hooks_of_modules(on: Target):
    torch.manual_seed(2)
    layer = torch.nn.Linear(3, 2).to(on.type)
    seen = []
    layer.register_full_backward_hook(lambda _m, _i, out: seen.append(out[0].detach().clone()))
    layer(on(normal(2, 3))).sum().backward()
    return seen, layer.weight.grad, layer.bias.grad


@check
def autocast_casts_matmul_on_the_device():
    a = torch.ones(2, 2, device="hpu")
    with torch.autocast("hpu", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("hpu")
        result = a @ a
    assert not torch.is_autocast_enabled("hpu")
    assert result.cpu().float().tolist() == [[2, 2], [2, 2]]

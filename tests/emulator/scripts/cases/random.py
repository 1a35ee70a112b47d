"""Random numbers: seeded runs repeat. The bits are those of the CPU's generator, which the device emulates."""

from __future__ import annotations

import torch

from ._case import OnHost, Target, check, compare


@compare
def seeding_repeats_the_sequence(on: Target):
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(torch.rand(5, device=on.type).cpu())
    return torch.equal(*results), tuple(results[0].shape)


@compare
def generators_repeat_and_differ(on: Target):
    first = torch.Generator(device=on.type)
    first.manual_seed(11)
    second = torch.Generator(device=on.type).manual_seed(11)
    a = torch.randn(8, device=on.type, generator=first).cpu()
    b = torch.randn(8, device=on.type, generator=second).cpu()
    c = torch.randn(8, device=on.type, generator=second).cpu()
    return torch.equal(a, b), torch.equal(b, c), first.initial_seed(), first.device.type == on.type


@compare
def generator_state_is_saved_and_restored(on: Target):
    generator = torch.Generator(device=on.type).manual_seed(3)
    state = generator.get_state()
    a = torch.rand(4, device=on.type, generator=generator).cpu()
    generator.set_state(state)
    b = torch.rand(4, device=on.type, generator=generator).cpu()
    return torch.equal(a, b)


@compare
def cpu_generator_values_move(on: Target):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, generator=generator).to(on.type), torch.randperm(5, generator=generator).to(on.type)


@compare
def random_integers_are_in_range(on: Target):
    t = torch.randint(3, 9, (500,), device=on.type)
    return bool((t >= 3).all()), bool((t < 9).all()), t.dtype == torch.int64, len(torch.unique(t))


@compare
def dropout_keeps_its_mean(on: Target):
    torch.manual_seed(2)
    t = torch.nn.functional.dropout(torch.ones(10_000, device=on.type), 0.25)
    kept = (t > 0).float().mean().item()
    return 0.72 < kept < 0.78, torch.equal(torch.nn.functional.dropout(t, 0.5, training=False), t)


@compare
def permutations_are_permutations(on: Target):
    t = torch.randperm(50, device=on.type)
    return OnHost(t.cpu().sort().values), t.dtype == torch.int64


@compare
def in_place_random_fills(on: Target):
    t = torch.empty(1000, device=on.type)
    t.uniform_(2, 3)
    inside = bool(((t >= 2) & (t <= 3)).all())
    t.bernoulli_(0.5)
    return inside, sorted(set(t.tolist()))


@check
def rng_state_of_the_device():
    torch.hpu.manual_seed(5)
    state = torch.hpu.get_rng_state()
    a = torch.rand(3, device="hpu").cpu()
    torch.hpu.set_rng_state(state)
    assert torch.equal(a, torch.rand(3, device="hpu").cpu())
    assert torch.hpu.initial_seed() == 5
    assert len(torch.hpu.get_rng_state_all()) == 1


@check
def torch_manual_seed_seeds_the_device():
    torch.manual_seed(123)
    a = torch.rand(4, device="hpu").cpu()
    torch.manual_seed(123)
    assert torch.equal(a, torch.rand(4, device="hpu").cpu())
    assert torch.hpu.initial_seed() == 123

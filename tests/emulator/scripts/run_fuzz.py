"""Random correct programs, on the CPU and on the device in parallel: ``run_fuzz.py REPORT MODE SEED PROGRAMS``.

A program is a few dozen steps over a pool of tensors: operators, in-place writes through views, gathers, scatters,
copies both ways, streams that wait for each other, tensors dropped while work is pending. Every step runs on both
devices. At its end, and at random steps, a program compares all its tensors bit for bit.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import device_process
import torch

DTYPES = (torch.float32, torch.bfloat16, torch.int32, torch.int8)
STEPS = 40


@dataclass
class Program:
    rng: random.Random
    #: Pairs of the same tensor on the CPU and on the device, including views of earlier pairs.
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    #: Pending copies to the host: the expected contents after a wait, and the host tensor.
    arrivals: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def pick(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.rng.choice(self.pairs)

    def add(self, host: torch.Tensor, device: torch.Tensor) -> None:
        self.pairs.append((host, device))
        if len(self.pairs) > 12:
            self.pairs.pop(self.rng.randrange(len(self.pairs)))

    def values(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.rng.getrandbits(32))
        return torch.randint(-50, 50, shape, generator=generator).to(dtype)


def upload(p: Program) -> None:
    host = p.values(p.rng.choice(DTYPES), p.rng.randint(1, 9), p.rng.randint(1, 9))
    source = host.pin_memory() if p.rng.random() < 0.5 else host.clone()
    p.add(host, source.to("hpu", non_blocking=p.rng.random() < 0.7))


def fresh(p: Program) -> None:
    shape, dtype = (p.rng.randint(1, 9), p.rng.randint(1, 9)), p.rng.choice(DTYPES)
    value = p.rng.randint(-9, 9)
    p.add(torch.full(shape, value, dtype=dtype), torch.full(shape, value, dtype=dtype, device="hpu"))


def view(p: Program) -> None:
    (host, device), kind = p.pick(), p.rng.randrange(4)
    if kind == 0:
        p.add(host.t(), device.t())
    elif kind == 1:
        start = p.rng.randrange(host.shape[0])
        p.add(host[start:], device[start:])
    elif kind == 2:
        step = p.rng.randint(1, 3)
        p.add(host[:, ::step], device[:, ::step])
    elif host.is_contiguous():
        p.add(host.view(1, -1), device.view(1, -1))


def write(p: Program) -> None:
    host, device = p.pick()
    kind, value = p.rng.randrange(4), p.rng.randint(-5, 5)
    row = p.rng.randrange(host.shape[0])
    if kind == 0:
        host.add_(value)
        device.add_(value)
    elif kind == 1:
        host[row].fill_(value)
        device[row].fill_(value)
    elif kind == 2:
        host[row] *= 3
        device[row] *= 3
    else:
        new = p.values(host.dtype, *host.shape)
        host.copy_(new)
        device.copy_(new.pin_memory() if p.rng.random() < 0.5 else new, non_blocking=True)


def compute(p: Program) -> None:
    (a, x), kind = p.pick(), p.rng.randrange(5)
    if kind == 0:
        p.add(a + 1, x + 1)
    elif kind == 1:
        p.add(torch.cat([a, a]), torch.cat([x, x]))
    elif kind == 2:
        p.add((a * 2).t().contiguous(), (x * 2).t().contiguous())
    elif kind == 3:
        p.add(a.clone(), x.clone())
    else:
        p.add(torch.where(a > 0, a, -a), torch.where(x > 0, x, -x))


def gather(p: Program) -> None:
    host, device = p.pick()
    index = torch.tensor([p.rng.randrange(host.shape[0]) for _ in range(p.rng.randint(1, 6))])
    p.add(host.index_select(0, index), device.index_select(0, index.to("hpu", non_blocking=True)))


def scatter(p: Program) -> None:
    host, device = p.pick()
    index = torch.randperm(host.shape[0], generator=torch.Generator().manual_seed(p.rng.getrandbits(32)))
    index = index[: p.rng.randint(1, host.shape[0])]
    rows = p.values(host.dtype, len(index), *host.shape[1:])
    host.index_copy_(0, index, rows)
    device.index_copy_(0, index.to("hpu"), rows.to("hpu", non_blocking=True))


def device_copy(p: Program) -> None:
    (a, x), (b, y) = p.pick(), p.pick()
    if a.shape == b.shape and a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        a.copy_(b)
        x.copy_(y)


def download(p: Program) -> None:
    host, device = p.pick()
    pinned = p.rng.random() < 0.5
    target = torch.empty(host.shape, dtype=host.dtype, pin_memory=pinned)
    target.copy_(device, non_blocking=pinned)  # no wait covers a non-blocking copy to unpinned memory
    p.arrivals.append((host.clone(), target))


def read(p: Program) -> None:
    host, device = p.pick()
    row, column = p.rng.randrange(host.shape[0]), p.rng.randrange(host.shape[1])
    assert host[row, column].item() == device[row, column].item(), "item"


def data_dependent(p: Program) -> None:
    host, device = p.pick()
    same(host.nonzero(), device.nonzero().cpu())
    same(host[host > 0], device[device > 0].cpu())


def switch_stream(p: Program) -> None:
    """Continue on another stream, which waits for this one."""
    stream, current = torch.hpu.Stream(), torch.hpu.current_stream()
    stream.wait_stream(current)
    torch.hpu.set_stream(stream)


def drop(p: Program) -> None:
    if len(p.pairs) > 2:
        p.pairs.pop(p.rng.randrange(len(p.pairs)))


def mark_step(p: Program) -> None:
    import habana_frameworks.torch.core as htcore

    htcore.mark_step()


def same(host: torch.Tensor, device: torch.Tensor) -> None:
    assert host.shape == device.shape, f"shape {tuple(device.shape)} instead of {tuple(host.shape)}"
    a, b = (torch.empty(t.shape, dtype=t.dtype).copy_(t).view(-1).view(torch.uint8) for t in (host, device))
    assert torch.equal(a, b), f"{device.flatten()[:8].tolist()} instead of {host.flatten()[:8].tolist()}"


def wait(p: Program) -> None:
    kind = p.rng.randrange(3)
    if kind == 0:
        torch.hpu.synchronize()
    elif kind == 1:
        # The current stream waits for every earlier stream.
        event = torch.hpu.Event()
        event.record()
        event.synchronize()
    else:
        torch.hpu.current_stream().synchronize()
    for expected, arrived in p.arrivals:
        same(expected, arrived)
    p.arrivals.clear()


def check(p: Program) -> None:
    for host, device in p.pairs:
        same(host, device.cpu())


KINDS: dict[Callable[[Program], None], int] = {
    upload: 6,
    fresh: 2,
    view: 8,
    write: 10,
    compute: 8,
    gather: 5,
    scatter: 5,
    device_copy: 4,
    download: 6,
    read: 2,
    data_dependent: 1,
    switch_stream: 3,
    drop: 4,
    mark_step: 3,
    wait: 3,
    check: 1,
}


def run(seed: int) -> str:
    """Return an empty string, or the error and the steps that led to it."""
    p = Program(random.Random(seed))
    try:
        upload(p)
        for _ in range(STEPS):
            (step,) = p.rng.choices(list(KINDS), weights=list(KINDS.values()))
            p.log.append(step.__name__)
            step(p)
        wait(p)
        check(p)
        failure = ""
    except Exception:
        failure = f"seed {seed}: {' '.join(p.log)}\n{traceback.format_exc()}"
    torch.hpu.synchronize()
    torch.hpu.set_stream(torch.hpu.default_stream())
    return failure


def main() -> None:
    path, mode, seed, programs = device_process.arguments()
    emulator = device_process.activate(mode)
    failures = [failure for number in range(int(programs)) if (failure := run(int(seed) + number))]
    result = {"programs": int(programs), "failures": failures[:3], "failed": len(failures)}
    device_process.report(path, {**result, "ops": emulator.counters.snapshot()["ops"], "pending": emulator.pending()})


if __name__ == "__main__":
    main()

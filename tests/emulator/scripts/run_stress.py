"""Several threads on one device: ``run_stress.py REPORT MODE SECONDS [THREADS]``.

Each thread has its own stream and loops over new shapes, pinned copies both ways, events, gathers, scatters,
device-wide waits and scalars, and compares every result with the CPU's. To run it by hand for a minute (``-`` prints):
``python tests/emulator/scripts/run_stress.py - eager 60`` with the repository on PYTHONPATH and PyTorch installed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
import threading
import time
import traceback
from typing import Any

import device_process
import torch

#: A thread that is still running this many seconds after the given time is stuck.
GRACE = 120.0
#: The minimum per thread, however slow the machine is.
ITERATIONS = 20


def _iteration(stream: Any, rng: random.Random) -> None:
    rows, width = rng.randint(2, 40), rng.randint(1, 24)
    dtype = rng.choice([torch.float32, torch.bfloat16, torch.int32, torch.int8])
    host = torch.randint(-100, 100, (rows, width)).to(dtype)
    index = torch.randperm(rows)[: rng.randint(1, rows)]
    source = host.pin_memory() if rng.random() < 0.7 else host.clone()
    pinned = rng.random() < 0.7
    target = torch.empty(len(index), width, dtype=dtype, pin_memory=pinned)
    with torch.hpu.stream(stream):
        cache = source.to("hpu", non_blocking=True)
        on_device = index.to("hpu", non_blocking=True)
        taken = cache.index_select(0, on_device) + 1
        cache.index_copy_(0, on_device, taken)
        cache[0].add_(1)
        target.copy_(taken, non_blocking=pinned)  # nothing covers a non-blocking copy to pageable memory
        event = torch.hpu.Event()
        event.record()
        total = int(cache.to(torch.int64).sum().item()) if rng.random() < 0.2 else None
    choice = rng.random()
    if choice < 0.6:
        event.synchronize()
    elif choice < 0.8:
        stream.synchronize()
    elif choice < 0.9:
        torch.hpu.synchronize()
    else:
        while not event.query():
            pass
    wanted = host.index_select(0, index) + 1
    if not torch.equal(target, wanted):
        raise AssertionError(f"rows differ: {target.flatten()[:4].tolist()} instead of {wanted.flatten()[:4].tolist()}")
    if total is not None:
        after = host.clone()
        after.index_copy_(0, index, wanted)
        after[0].add_(1)
        if total != int(after.to(torch.int64).sum()):
            raise AssertionError(f"the sum is {total}")


def main() -> None:
    path, mode, seconds, *rest = device_process.arguments()
    threads = int(rest[0]) if rest else 6
    emulator = device_process.activate(mode)
    torch.set_num_threads(1)
    counts, errors = [0] * threads, []
    end = time.monotonic() + float(seconds)

    def work(number: int) -> None:
        rng = random.Random(number)
        stream = torch.hpu.Stream()
        while (time.monotonic() < end or counts[number] < ITERATIONS) and len(errors) < 5:
            try:
                _iteration(stream, rng)
            except Exception:
                errors.append(f"thread {number}, iteration {counts[number]}\n{traceback.format_exc()}")
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()) + GRACE)
    stuck = sum(worker.is_alive() for worker in workers)
    result = {"iterations": counts, "errors": errors, "stuck": stuck, "pending": -1}
    if stuck:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    else:
        torch.hpu.synchronize()
        result["pending"] = emulator.pending()
    if path == "-":
        print(json.dumps(result, indent=2))
    else:
        device_process.report(path, result)
    sys.stdout.flush()
    if stuck:
        os._exit(0)  # the report is written; a stuck thread may hold what the interpreter needs to exit
    sys.exit(1 if path == "-" and errors else 0)


if __name__ == "__main__":
    main()

"""Memory freed while poison was off is poisoned for its next owner once poison is on."""

from __future__ import annotations

import textwrap

import pytest

from tests.emulator.support import ForkServer

pytestmark = pytest.mark.torch

PROGRAM = """
import gaudi_patch.emulator as e
emulator = e.activate(lazy=True)
import torch
def fill(count, byte):
    made = [torch.full(({size},), byte, dtype=torch.uint8, device="hpu") for _ in range(count)]
    torch.hpu.synchronize()
    del made
emulator.configure(poison={before})
fill(40, 7)  # more than the quarantine holds: most of them can be used again
emulator.configure(poison=True)
for _ in range(40):
    fresh = torch.empty({size}, dtype=torch.uint8, device="hpu").cpu()
    assert bool((fresh == 0xDB).all()), fresh.unique()
"""


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("size", [512 << 10, 3 << 20])
def test_fresh_memory_is_poison_whatever_was_set_when_it_was_freed(size: int, before: bool, forks: ForkServer) -> None:
    done = forks.run(textwrap.dedent(PROGRAM.format(size=size, before=before)))
    assert done.returncode == 0, done.stdout + done.stderr

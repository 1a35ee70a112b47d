"""Activation helpers of the tests in this directory."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., str]


SCRIPT = """
import json, sys
import hpu_emulator
import torch
import habana_frameworks.torch.core as htcore
t = torch.ones(4, device="hpu") + 1
htcore.mark_step()
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "sum": t.sum().item(), "file": __file__,
    "lazy": hpu_emulator.current().options.lazy, "helper": __import__("helper").VALUE,
    "gaudi_patch": "gaudi_patch" in sys.modules, "argv0": sys.argv[0],
}))
"""

# mypy: ignore-errors
"""Memory statistics."""

import os
import warnings

import torch

from ._utils import _get_device_index

# A Gaudi 2 has 96 GiB of HBM. The emulated device uses host memory and enforces no limit.
_LIMIT = int(os.getenv("HPU_EMULATOR_MEMORY_BYTES", str(96 << 30)))


def _check(device):
    index = _get_device_index(device, optional=True)
    if index != 0:
        raise AssertionError("Invalid device id")


def memory_stats(device=None):
    _check(device)
    live, peak, allocs, frees, largest, total_allocs, total_frees = torch.ops.hpu_emulator.memory_stats()
    return {
        "Limit": _LIMIT,
        "InUse": live,
        "MaxInUse": peak,
        "NumAllocs": allocs,
        "NumFrees": frees,
        "ActiveAllocs": allocs - frees,
        "MaxAllocSize": largest,
        "TotalSystemAllocs": total_allocs,
        "TotalSystemFrees": total_frees,
        "TotalActiveAllocs": total_allocs - total_frees,
    }


def memory_allocated(device=None):
    return memory_stats(device)["InUse"]


def max_memory_allocated(device=None):
    return memory_stats(device)["MaxInUse"]


def memory_reserved(device=None):
    return memory_stats(device)["Limit"]


def max_memory_reserved(device=None):
    return memory_stats(device)["Limit"]


def memory_cached(device=None):
    warnings.warn("torch.hpu.memory_cached has been renamed to torch.hpu.memory_reserved", FutureWarning)
    return memory_reserved(device)


def max_memory_cached(device=None):
    warnings.warn("torch.hpu.max_memory_cached has been renamed to torch.hpu.max_memory_reserved", FutureWarning)
    return max_memory_reserved(device)


def reset_peak_memory_stats(device=None):
    _check(device)
    torch.ops.hpu_emulator.reset_peak_memory()


def reset_accumulated_memory_stats(device=None):
    _check(device)
    torch.ops.hpu_emulator.reset_accumulated_memory()


def memory_summary(device=None):
    lines = [f"{name:<20}{value:>20}" for name, value in memory_stats(device).items()]
    return "\n".join(["PyTorch HPU memory summary (emulated)", *lines, ""])


def mem_get_info(device=None):
    stats = memory_stats(device)
    return (stats["Limit"] - stats["InUse"], stats["Limit"])

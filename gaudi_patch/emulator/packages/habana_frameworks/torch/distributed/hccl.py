# mypy: ignore-errors
"""The ``hccl`` process group, here gloo over host memory: results are correct, but HCCL itself is not emulated."""

import torch
import torch.distributed as dist


def _create(*args):
    # The arguments that PyTorch passes to a backend's constructor: prefix store, rank, world size, timeout.
    return dist.ProcessGroupGloo(*args)


if dist.is_available() and "hccl" not in dist.Backend.backend_list:
    dist.Backend.register_backend("hccl", _create, devices=["hpu", "cpu"])

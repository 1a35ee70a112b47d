# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch`` of the bridge."""

import os

# As in the bridge, to keep inductor from starting a process pool.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

import torch

import habana_frameworks.torch.core
import habana_frameworks.torch.core.fp8_operators
import habana_frameworks.torch.distributed.hccl
import habana_frameworks.torch.hpu
import habana_frameworks.torch.internal.bridge_config
import habana_frameworks.torch.utils

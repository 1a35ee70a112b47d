# mypy: ignore-errors
"""The changes that the bridge makes to PyTorch itself, as far as programs can see them."""

import itertools
from functools import wraps

import torch

from habana_frameworks.torch import hpu
from habana_frameworks.torch.utils.internal import is_lazy


def _hide_storage_pointers():
    """Make ``data_ptr`` of a storage on the device return a new number at every call.

    A lazy tensor starts with a storage without memory (habana_lazy/aten_lazy_bridge.cpp:28-40), so its pointer does
    not show which tensors share memory.
    """
    original = torch.UntypedStorage.data_ptr
    numbers = itertools.count(0x1000, 0x1000)

    @wraps(original)
    def data_ptr(self):
        return next(numbers) if self.device.type == "hpu" else original(self)

    torch.UntypedStorage.data_ptr = data_ptr


def overwrite_torch_functions():
    if is_lazy():
        _hide_storage_pointers()
    torch.Tensor.is_hpu = property(lambda self: self.device.type == "hpu")

    def to_hpu(self, device=None, non_blocking=False):
        return self.to("hpu" if device is None else device, non_blocking=non_blocking)

    torch.Tensor.hpu = to_hpu

    original = torch.Tensor.record_stream

    @wraps(original)
    def record_stream(self, stream):
        return hpu.record_stream(self, stream) if self.device.type == "hpu" else original(self, stream)

    torch.Tensor.record_stream = record_stream

    # PyTorch seeds only the devices it knows; add the HPU.
    seed_everything = torch.manual_seed

    @wraps(seed_everything)
    def manual_seed(seed):
        hpu.manual_seed_all(int(seed))
        return seed_everything(seed)

    torch.manual_seed = torch.random.manual_seed = manual_seed

    draw_seed = torch.seed

    @wraps(draw_seed)
    def seed():
        drawn = draw_seed()
        hpu.manual_seed_all(drawn)
        return drawn

    torch.seed = torch.random.seed = seed

# mypy: ignore-errors
"""What the bridge changes in PyTorch itself, as far as programs see it."""

from functools import wraps

import torch

from habana_frameworks.torch import hpu


def overwrite_torch_functions():
    torch.Tensor.is_hpu = property(lambda self: self.device.type == "hpu")

    def to_hpu(self, device=None, non_blocking=False):
        return self.to("hpu" if device is None else device, non_blocking=non_blocking)

    torch.Tensor.hpu = to_hpu

    original = torch.Tensor.record_stream

    @wraps(original)
    def record_stream(self, stream):
        return hpu.record_stream(self, stream) if self.device.type == "hpu" else original(self, stream)

    torch.Tensor.record_stream = record_stream

    # PyTorch seeds the devices that it knows; these add the HPU.
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

# mypy: ignore-errors
"""RMS norm in plain operators."""

import torch


class FusedRMSNorm:
    """``FusedRMSNorm.apply(data_in, gamma, eps)``."""

    @staticmethod
    def apply(data_in, gamma, eps, use_stages=True, bwd_mode=0, fast_math=False):
        wide = data_in.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return (normal * gamma.float()).to(data_in.dtype)

# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.hpex.normalization``, as far as vllm-gaudi uses it."""

from .FusedRMSNorm import FusedRMSNorm

"""Mirrors ``habana_frameworks.torch.utils``."""

from . import experimental, internal

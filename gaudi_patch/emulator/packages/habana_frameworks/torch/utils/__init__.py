# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.utils``."""

from . import experimental, internal

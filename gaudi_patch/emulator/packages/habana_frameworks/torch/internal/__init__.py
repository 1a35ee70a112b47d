# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.internal``."""

# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.hpex``: Habana's own kernels, here in plain PyTorch."""

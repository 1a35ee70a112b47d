# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.hpex``: kernels of Habana's own, here in plain PyTorch."""

"""Mirrors ``habana_frameworks.torch.internal``."""

"""Mirrors ``habana_frameworks.torch.distributed``."""

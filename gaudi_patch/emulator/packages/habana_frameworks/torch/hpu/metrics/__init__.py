# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.hpu.metrics``."""

from .metrics import MetricNotFound, metric_global, metric_localcontext, metrics_dump

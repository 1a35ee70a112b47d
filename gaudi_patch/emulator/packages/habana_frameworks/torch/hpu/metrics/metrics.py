# mypy: ignore-errors
"""The bridge's metrics, computed from the emulated device's counters. Times are 0: nothing is compiled."""

import json
import os
from contextlib import contextmanager

import torch


class MetricNotFound(Exception):
    """There is no metric of this name."""


def _graph_compilation(counts):
    return {"TotalNumber": counts["graph_compilation"], "TotalTime": 0, "AvgTime": 0}


def _cpu_fallback(counts):
    return {"TotalNumber": counts["cpu_fallback"], "FallbackOps": counts["cpu_fallback_ops"]}


def _memory_defragmentation(counts):
    return {"TotalNumber": 0, "TotalSuccessful": 0, "AvgTime": 0, "MaxTime": 0}


def _recipe_cache(counts):
    return {
        "TotalHit": counts["recipe_cache_hits"],
        "RecipeHit": {},
        "TotalMiss": counts["recipe_cache_misses"],
        "RecipeMiss": {},
    }


_SOURCES = {
    "graph_compilation": _graph_compilation,
    "cpu_fallback": _cpu_fallback,
    "memory_defragmentation": _memory_defragmentation,
}
if os.getenv("PT_HPU_ENABLE_CACHE_METRICS", "").lower() in {"y", "yes", "t", "true", "on", "1"}:
    _SOURCES["recipe_cache"] = _recipe_cache


def _difference(now, before):
    if isinstance(now, dict):
        rest = {name: _difference(value, before.get(name, 0)) for name, value in now.items()}
        return {name: value for name, value in rest.items() if value}
    return now - before


class Metric:
    """One metric, counted from its creation or last reset until now, or until it was stopped."""

    def __init__(self, name):
        self._name = name
        self._before = self._read()
        self._after = None

    def _read(self):
        return _SOURCES[self._name](json.loads(torch.ops.hpu_emulator.counters()))

    def name(self):
        return self._name

    def stats(self):
        after = self._read() if self._after is None else self._after
        return [(tag, _difference(value, self._before[tag])) for tag, value in after.items()]

    def reset(self):
        self._before = self._read()

    def start(self):
        self._after = None

    def stop(self):
        if self._after is None:
            self._after = self._read()


_global_metrics = {name: Metric(name) for name in _SOURCES}


def metric_global(name):
    return _global_metrics.get(name)


@contextmanager
def metric_localcontext(name):
    if name not in _SOURCES:
        raise MetricNotFound(f"Metric with given name ({name}) doesn't exist.")
    metric = Metric(name)
    try:
        yield metric
    finally:
        metric.stop()


def metrics_dump(file_name, format="json"):
    if str(format) not in {"json", "MetricDumpFormat.json"}:
        raise ValueError("only the json format is emulated")
    with open(file_name, "w", encoding="utf-8") as file:
        json.dump({name: dict(metric.stats()) for name, metric in _global_metrics.items()}, file)

# mypy: ignore-errors
"""mark_step and step closures. In eager mode they do nothing; importing this module then logs one warning each."""

import threading

import torch

from habana_frameworks.torch.utils.internal import is_lazy, lazy_only

_closures = []
_closures_lock = threading.Lock()


@lazy_only
def add_step_closure(closure, args=()):
    with _closures_lock:
        _closures.append((closure, args))


def _run_step_closures():
    with _closures_lock:
        ready, _closures[:] = list(_closures), []
    for closure, args in ready:
        closure(*args)


def _mark_step_if_lazy(device_str=""):
    if is_lazy():
        mark_step(device_str)


@lazy_only
def mark_step(device_str="", sync=False):
    torch.ops.hpu_emulator.mark_step(sync)
    _run_step_closures()


@lazy_only
def iter_mark_step(device_str=""):
    _run_step_closures()

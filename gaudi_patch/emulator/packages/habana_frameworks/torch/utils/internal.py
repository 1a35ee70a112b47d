# mypy: ignore-errors
"""The process's mode: lazy or eager."""

import logging
import os
from time import perf_counter

logger = logging.getLogger(__name__)


def is_lazy():
    if is_lazy._is_lazy is None:
        is_lazy._is_lazy = os.getenv("PT_HPU_LAZY_MODE", "1") != "0"
    return is_lazy._is_lazy


is_lazy._is_lazy = None


def lazy_only(func):
    """Make ``func`` do nothing in eager mode. The result returns None in both modes, regardless of ``func``."""

    def in_lazy_mode(*args, **kwargs):
        func(*args, **kwargs)

    def in_eager_mode(*args, **kwargs):
        pass

    if is_lazy():
        return in_lazy_mode
    logger.warning(
        "Calling %s function does not have any effect. It's lazy mode only functionality. (warning logged once)",
        func.__name__,
    )
    return in_eager_mode


class Timer:
    """A context manager that measures wall time in seconds."""

    def __init__(self):
        self.start_t = None
        self.end_t = None

    def __enter__(self):
        self.start_t = perf_counter()
        return self

    def __exit__(self, type, value, traceback):
        self.end_t = perf_counter()

    @property
    def elapsed(self):
        return self.end_t - self.start_t

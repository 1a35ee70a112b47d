# mypy: ignore-errors
"""The bridge's environment flags."""

import contextlib
import os


def get_pt_hpu_gpu_migration():
    return os.getenv("PT_HPU_GPU_MIGRATION", "0").lower() in {"1", "true"}


def get_pt_compile_only_mode():
    return os.getenv("PT_COMPILE_ONLY_MODE", "0").lower() in {"1", "true"}


def get_pt_hpu_lazy_mode():
    return int(os.getenv("PT_HPU_LAZY_MODE", "1"))


@contextlib.contextmanager
def env_setting(name, value):
    """Set an environment flag for the duration of a with block."""
    before = os.environ.get(name)
    os.environ[name] = str(value)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

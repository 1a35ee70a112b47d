# SPDX-License-Identifier: Apache-2.0
"""Make LMCache's copies to the host wait if nothing else would cover them.

In multiprocess mode LMCache gathers KV into shared memory with ``copy_(..., non_blocking=True)`` and then waits for
the device. Shared memory cannot be pinned for an HPU, and the bridge copies to what is not pinned in a callback that
no wait covers (see :mod:`.pinning`): the server could be told of chunks that are not there yet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .device import DEVICE, is_available
from .pinning import is_pinned

__all__ = ["waiting_for_host_copies"]

P = ParamSpec("P")
R = TypeVar("R")


def waiting_for_host_copies(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` with its copies from an HPU to memory that is not pinned blocking; itself without an HPU."""
    if not is_available():
        return function

    @functools.wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _WaitForHostCopies():  # type: ignore[no-untyped-call]
            return function(*args, **kwargs)

    return waiting


class _WaitForHostCopies(TorchDispatchMode):  # type: ignore[misc,no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 -- an operator of PyTorch and its arguments
        types: Any,  # noqa: ANN401 -- likewise
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 -- what the operator returns
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten.copy_.default and args[0].device.type == "cpu" and args[1].device.type == DEVICE:
            return func(args[0], args[1], non_blocking=is_pinned(args[0]))
        if func is torch.ops.aten._to_copy.default and args[0].device.type == DEVICE:
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cpu":
                kwargs["non_blocking"] = False
        return func(*args, **kwargs)

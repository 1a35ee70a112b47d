# SPDX-License-Identifier: Apache-2.0
"""Host memory that is pinned for the HPU, known by its address.

The bridge asks one thing of host memory before a copy: is its address the first byte of a pinned allocation that is
in use (backend/synapse_helpers/host_memory.cpp, ``is_host_memory``; backend/helpers/tensor_utils.cpp:372,483)? No
``is_pinned()`` answers that. PyTorch's own looks at the storage and says True for a slice; the bridge's says False for
everything unless it is given the device (habana_kernels/kernels_register.cpp:66-76). So what was pinned here is
remembered by address, for as long as it lives.

Memory that is not pinned must not be copied without waiting. The bridge copies it through a buffer of its own: to the
host in a callback that neither an event nor a device-wide wait covers (backend/synapse_helpers/device.cpp:1484-1504),
from the host in a thread that reads the source later (device.cpp:1282-1297). A blocking copy waits for both.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["DEVICE", "PinningError", "allocate", "is_pinned", "pin"]

DEVICE = "hpu"

#: Re-entrant: the garbage collector may free a block while the same thread holds it.
_lock = threading.RLock()
#: Size in bytes of every live pinned block, by address.
_blocks: dict[int, int] = {}


class PinningError(RuntimeError):
    """No host memory could be pinned for the HPU; the text is what PyTorch or the driver said."""


def pin(nbytes: int) -> torch.Tensor:
    """Allocate one pinned block, uint8 ``[nbytes]``; its content is undefined.

    The block is known to :func:`is_pinned` until the returned tensor, and every view of it, is gone.

    Raises:
        PinningError: There is no pinned memory to be had (RLIMIT_MEMLOCK, cgroup, a PyTorch without hooks for the HPU).
    """
    block = _pinned_tensor(nbytes)
    if not _known_to_the_bridge(block):
        raise PinningError("PyTorch returned memory that the HPU's driver does not recognise as pinned")
    address = block.data_ptr()
    with _lock:
        _blocks[address] = nbytes
    # At process exit nothing needs to be forgotten.
    weakref.finalize(block, _forget, address).atexit = False
    return block


def allocate(nbytes: int) -> torch.Tensor:
    """Allocate uint8 ``[nbytes]``, zero-filled: pinned where that is possible, pageable otherwise.

    Zero-filled so that the padding rows of a first transfer hold numbers and not NaN patterns.
    """
    import torch

    try:
        block = pin(nbytes)
    except PinningError:
        block = torch.empty(nbytes, dtype=torch.uint8)
    return block.zero_()


def is_pinned(tensor: torch.Tensor) -> bool:
    """Return whether the HPU's driver copies to and from ``tensor`` itself, and not through a buffer of the bridge.

    True for a contiguous tensor that starts a block of :func:`pin` and ends within it. False for a slice further in,
    for what others have pinned, and for int64 and float64, which the bridge converts on the host
    (habana_eager/ops/copy_from.cpp:376-384, habana_kernels/lazy_kernels.cpp:310-331).
    """
    import torch

    if tensor.dtype in (torch.int64, torch.float64) or not tensor.is_contiguous():
        return False
    with _lock:
        return tensor.nbytes <= _blocks.get(tensor.data_ptr(), -1)


def _forget(address: int) -> None:
    with _lock:
        _blocks.pop(address, None)


def _pinned_tensor(nbytes: int) -> torch.Tensor:
    import torch

    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        # For torch builds whose hooks do not know the HPU; the bridge's own tests use this form.
        try:
            return torch.empty(nbytes, dtype=torch.uint8).pin_memory(DEVICE)
        except RuntimeError as error:
            raise PinningError(str(error).splitlines()[0]) from error


def _known_to_the_bridge(block: torch.Tensor) -> bool:
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch deprecates the argument; the bridge answers False without it
        try:
            return bool(block.is_pinned(DEVICE)) or bool(block.is_pinned())
        except (RuntimeError, TypeError):
            return False

# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""Refuse host memory of LMCache that is too small for the longest request, at start-up.

All that is loaded or stored goes through this pool, whatever the storage behind it. Where it is smaller than one
prompt, LMCache evicts the first chunks of a prompt to store its last ones, and finds nothing again; from a disk or a
remote store it can load only part of what is there.
"""

from __future__ import annotations

import math
from typing import Any

from . import compat
from .guards import GaudiError
from .layout import Layout

__all__ = ["refuse_small_pool", "refuse_small_server"]

_GB = 1 << 30
# LMCache's allocators place objects at multiples of this, unless it is told otherwise.
_ALIGNMENT = 4096
_RESERVE = "reserve_local_cpu_size"
_SIZE = "max_local_cpu_size"
#: Of ``extra_config``: the first rank's, where it alone stores, as with MLA.
_SIZE_OF_FIRST = "first_rank_max_local_cpu_size"


def refuse_small_pool(
    config: Any,
    layout: Layout,
    *,
    chunk: int,
    longest: int,
    ranks: int,
    metadata: Any = None,
    there: int | None = None,
) -> None:
    """Refuse a pool that cannot hold all chunks of the longest request.

    Args:
        config: LMCache's engine configuration.
        layout: The registered caches of this rank.
        chunk: LMCache's chunk size in tokens.
        longest: vLLM's ``max_model_len``, in tokens.
        ranks: Processes on this host that have such a pool each.
        metadata: LMCache's engine metadata; None: a rank like any other.
        there: Bytes of the pool, if LMCache has made it already; None: as it will make it.

    Raises:
        GaudiError: With the arithmetic, and the settings to change.
    """
    name = _SIZE
    size = getattr(config, name, None)
    if size is None or getattr(config, "enable_pd", False):  # it has a different buffer
        return
    extra = getattr(config, "extra_config", None) or {}
    if metadata is not None and metadata.use_mla and extra.get("save_only_first_rank", True):
        if not metadata.is_first_rank():  # it gets what the first one loads, on the device
            return
        ranks = 1
        if _SIZE_OF_FIRST in extra:  # LMCache then gives the first rank this, and not the other
            name, size = _SIZE_OF_FIRST, extra[_SIZE_OF_FIRST]
    wanted = float(size)
    real = compat.pool_gigabytes(config, metadata, wanted) if there is None else there / _GB
    chunk_bytes = _object_bytes(layout.token_bytes * chunk, compat.pool_alignment(config) or _ALIGNMENT)
    needed = longest // chunk + bool(longest % chunk and getattr(config, "save_unfull_chunk", False))
    fitting = int(real * _GB) // chunk_bytes
    if fitting >= needed:
        return
    enough = _enough(needed * chunk_bytes)
    cut, reserved = "", ""
    if real < wanted:
        reserve = getattr(config, _RESERVE, 0.0)
        cut = f", cut to {real:.2f} GB by what the host has left less {_RESERVE} {reserve} GB,"
        reserved = f", leave the host that much and the {_RESERVE}"
    raise GaudiError(
        f"LMCache's host memory is smaller than one prompt: {name} {size} GB{cut} holds {fitting} chunks of "
        f"{chunk} tokens ({layout.token_bytes:,} bytes per token on this rank), {fitting * chunk:,} tokens; "
        f"max_model_len is {longest:,} tokens, {needed} chunks. Set {name} to {enough} or more "
        f"({enough * ranks:.2f} GB for {ranks} rank{'s' if ranks > 1 else ''}){reserved}, or --max-model-len to "
        f"{max(fitting * chunk, 1)} or less"
    )


def refuse_small_server(size: int, token_bytes: int, *, chunk: int, longest: int, ranks: int) -> float:
    """Refuse a server of multiprocess mode whose memory cannot hold all chunks of the longest request.

    Args:
        size: Bytes of the server's memory, as it says when a worker registers; 0: it has not said.
        token_bytes: KV of one token on one rank.
        chunk: LMCache's chunk size in tokens.
        longest: vLLM's ``max_model_len``, in tokens.
        ranks: Ranks whose KV this server holds.

    Returns:
        The gigabytes that are enough, for ``--l1-size-gb``.

    Raises:
        GaudiError: With the arithmetic, and the settings to change.
    """
    chunk_bytes = _object_bytes(token_bytes * chunk, _ALIGNMENT) * ranks
    needed = longest // chunk
    enough = _enough(needed * chunk_bytes)
    if size > 0 and size // chunk_bytes < needed:
        fitting = size // chunk_bytes
        raise GaudiError(
            f"the memory of LMCache's server is smaller than one prompt: {size / _GB:.2f} GB hold {fitting} chunks of "
            f"{chunk} tokens ({token_bytes:,} bytes per token on each of {ranks} rank{'s' if ranks > 1 else ''}), "
            f"{fitting * chunk:,} tokens; max_model_len is {longest:,} tokens, {needed} chunks. Start the server with "
            f"--l1-size-gb {enough} or more, or vLLM with --max-model-len {max(fitting * chunk, 1)} or less"
        )
    return enough


def _object_bytes(size: int, alignment: int) -> int:
    return math.ceil(size / alignment) * alignment


def _enough(size: int) -> float:
    """Gigabytes, in hundredths, that are not less than ``size``."""
    return math.ceil(size / _GB * 100) / 100

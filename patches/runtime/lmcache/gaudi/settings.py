# SPDX-License-Identifier: Apache-2.0
"""Sizes of the transfer, and the environment variables that set them."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Settings"]

_MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Sizes of the transfer.

    Attributes:
        largest_group: Most chunks a graph moves, a power of two.
        staging_bytes: Device memory for the chunks under way; reduces the largest group if it must.
        ring_bytes: Pinned host memory.
        threads: Threads of the host copies; None: the processors of this process, at most 4.
        warm_up: Compile every graph when the caches are registered.
    """

    largest_group: int = 8
    staging_bytes: int = 288 * _MIB
    ring_bytes: int = 256 * _MIB
    threads: int | None = None
    warm_up: bool = True

    @classmethod
    def from_environment(cls) -> Settings:
        """Read LMCACHE_GAUDI_{GROUP,STAGING_MIB,RING_MIB,COPY_THREADS,WARMUP}.

        Raises:
            ValueError: A value is not a positive integer, that of WARMUP no integer.
        """

        def number(name: str, default: int) -> int:
            text = os.environ.get(f"LMCACHE_GAUDI_{name}")
            if text is None:
                return default
            if not text.isdecimal() or int(text) < 1:
                raise ValueError(f"LMCACHE_GAUDI_{name}={text!r} is not a positive integer")
            return int(text)

        warm_up = os.environ.get("LMCACHE_GAUDI_WARMUP", "1")
        if not warm_up.isdecimal():
            raise ValueError(f"LMCACHE_GAUDI_WARMUP={warm_up!r} is not a number; 0 turns it off")
        return cls(
            largest_group=number("GROUP", cls.largest_group),
            staging_bytes=number("STAGING_MIB", cls.staging_bytes // _MIB) * _MIB,
            ring_bytes=number("RING_MIB", cls.ring_bytes // _MIB) * _MIB,
            threads=number("COPY_THREADS", 0) or None,
            warm_up=int(warm_up) != 0,
        )

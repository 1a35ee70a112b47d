# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN401 -- LMCache's objects differ between releases and have no types here
"""``numa_mode: manual``: which entry of the mapping is this process's."""

from __future__ import annotations

from typing import Any

from .guards import GaudiError

__all__ = ["choose_node"]

_MAPPING = "gpu_to_numa_mapping"
#: Where the mapping of all ranks is kept, so that a second connector of the process chooses from it again.
_OF_ALL_RANKS = "gaudi_numa_mapping_of_ranks"


def choose_node(config: Any, metadata: Any) -> None:
    """Give LMCache the NUMA node of this process's rank, under the only device index that it knows on Gaudi.

    LMCache looks its node up by the current device. A Gaudi process has one device, index 0, whatever its rank
    (gaudi-pytorch-bridge: backend/habana_device/HPUGuardImpl.h), so all ranks would take entry 0.

    Args:
        config: LMCache's engine configuration; its ``extra_config`` is replaced.
        metadata: LMCache's engine metadata.

    Raises:
        GaudiError: ``numa_mode`` is manual, and the mapping has no entry for this rank.
    """
    extra = getattr(config, "extra_config", None) or {}
    if getattr(config, "numa_mode", None) != "manual" or not extra.get(_MAPPING):
        return  # without a mapping LMCache itself reports what is missing
    mapping = {int(rank): node for rank, node in extra.get(_OF_ALL_RANKS, extra[_MAPPING]).items()}
    rank = _local_rank(metadata, len(mapping))
    if rank not in mapping:
        raise GaudiError(
            f"numa_mode is manual, and {_MAPPING} has no entry for local rank {rank} of this host (it has "
            f"{sorted(mapping)}); on Gaudi the mapping is by local rank"
        )
    config.extra_config = {**extra, _MAPPING: {0: mapping[rank]}, _OF_ALL_RANKS: mapping}


def _local_rank(metadata: Any, entries: int) -> int:
    """The rank within this host; up to 0.3.12 only that of all hosts is known, which have as many ranks as entries."""
    local = getattr(metadata, "local_worker_id", None)
    return int(metadata.worker_id % entries if local is None else local)

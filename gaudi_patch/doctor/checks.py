"""All checks in display order: from the bus up to the store."""

from __future__ import annotations

from gaudi_patch.doctor import (
    devices,
    environment,
    imports,
    internal_api,
    keys,
    kv_blocks,
    lmcache_config,
    pairing,
    patch,
    refused_features,
    software,
    storage,
    vllm_args,
    vllm_config,
)
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Check, Finding

CHECKS: tuple[Check, ...] = (
    *devices.CHECKS,
    *software.CHECKS,
    *imports.CHECKS,
    *pairing.CHECKS,
    *patch.CHECKS,
    *environment.CHECKS,
    *kv_blocks.CHECKS,
    *vllm_args.CHECKS,
    *vllm_config.CHECKS,
    *lmcache_config.CHECKS,
    *internal_api.CHECKS,
    *keys.CHECKS,
    *refused_features.CHECKS,
    *storage.CHECKS,
)


def run(case: Case) -> list[Finding]:
    """Run every check once, and return one finding for each identifier."""
    return [check(case) for check in CHECKS]

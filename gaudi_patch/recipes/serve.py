"""vLLM as a process of a recipe: its arguments and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gaudi_patch.recipes.process import HERE, Process, Variable
from gaudi_patch.recipes.release import Release
from gaudi_patch.recipes.settings import EVERYWHERE, Settings, usage
from gaudi_patch.recipes.stores import Store
from gaudi_patch.recipes.text import BLOCK, CONFIG

#: `vllm serve` as a module, so that a chosen interpreter runs it (vllm/entrypoints/cli/main.py).
VLLM = ("-m", "vllm.entrypoints.cli.main", "serve")


def engine(
    release: Release,
    settings: Settings,
    *,
    store: Store | None = None,
    role: str = "kv_both",
    gaudi: bool = True,
    connector: str = "LMCacheConnectorV1",
    extra: Mapping[str, object] | None = None,
) -> Process:
    """Return the vLLM process that serves the model with LMCache, on Gaudi or on ROCm.

    ``extra`` is for the connector of multiprocess mode, which reads no configuration file.
    """
    transfer: dict[str, object] = {"kv_connector": connector, "kv_role": role}
    if extra:
        transfer["kv_connector_extra_config"] = extra
        transfer["kv_load_failure_policy"] = "recompute"  # vLLM's default fails a request whose KV could not be loaded
    arguments = [*VLLM, *settings.arguments]
    # vllm-gaudi answers wrongly if vLLM resumes a preempted request from its own prefix cache; LMCache serves prefixes.
    arguments += ["--no-enable-prefix-caching", "--block-size", str(BLOCK)] if gaudi else ["--enable-prefix-caching"]
    arguments += ["--kv-transfer-config", json.dumps(transfer)]
    variables = [] if extra else [Variable("LMCACHE_CONFIG_FILE", f"{HERE}/{CONFIG}")]
    variables += [
        Variable("PYTHONHASHSEED", "0", "the same wherever this cache is used"),
        Variable("LMCACHE_TRACK_USAGE", "false", "else LMCache reports its use to stats.lmcache.ai"),
        *(store.variables if store else ()),
        *(_gaudi(release, settings) if gaudi else ()),
    ]
    # These releases pair with vllm-gaudi 0.13 to 0.17, where any non-empty value selects a path through the model that
    # calls no KV connector.
    unified = ("VLLM_UNIFIED_ATTN",) if gaudi and release.before("0.4.3") else ()
    return Process(
        name="serve",
        what=f"vllm-gaudi {release.vllm_gaudi}" if gaudi else "vLLM for ROCm, where LMCache needs no patch",
        python=settings.python if gaudi else "python3",
        arguments=tuple(arguments),
        variables=tuple(variables),
        unset=unified,
        secrets=store.secrets if store else {},
        ports={"http": settings.port},
        bind=settings.bind or EVERYWHERE,
        health="/health",
        cards=settings.ranks,
        patched=gaudi,
        metrics=not extra,  # in multiprocess mode LMCache counts in its own server
    )


def _gaudi(release: Release, settings: Settings) -> tuple[Variable, ...]:
    still = "vllm-gaudi must not move KV blocks: LMCache would load into, and store from, blocks of other requests"
    found = [Variable("VLLM_CONTIGUOUS_PA", "false", still), Variable("VLLM_DEFRAG", "false")]
    if settings.is_long:
        why = "for long requests, by vllm-gaudi's guide to long contexts; buckets grow by powers by themselves"
        found.append(Variable("VLLM_ENGINE_ITERATION_TIMEOUT_S", "3600", why))
        if release.before("0.5.0"):
            # For pairs with vLLM up to 0.21; later vLLM warns of an unknown name (vllm/envs.py, validate_environ).
            found.append(Variable("VLLM_RPC_TIMEOUT", "100000"))
    return tuple(found)


def prefill_port(port: int) -> int:
    """Return the prefill engine's port, behind a proxy on ``port``; the decode engine's is 100 higher."""
    if port + 200 > 65535:
        raise usage(f"--port {port}: prefill and decode would listen 100 and 200 above it, beyond 65535")
    return port + 100


def notes(settings: Settings) -> tuple[str, ...]:
    """Return notes for readers on vLLM as it is started here."""
    if (settings.bind or EVERYWHERE) != EVERYWHERE:
        return ()
    return (
        "vLLM listens on every interface and requires no key: set VLLM_API_KEY in its environment, or use --bind "
        "127.0.0.1 behind a proxy.",
    )

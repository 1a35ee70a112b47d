"""The text of a recipe's files: LMCache's YAML, and shell scripts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from gaudi_patch.recipes.release import Release

CONFIG = "lmcache.yaml"
#: vllm-gaudi's block of KV cache, in tokens (vllm_gaudi/platform.py).
BLOCK = 128

#: Key, value, and why it is there.
Entry = tuple[str, object, str]


def yaml(release: Release, entries: Sequence[Entry]) -> str:
    """LMCache's configuration file. JSON scalars are YAML, and nothing else is needed."""
    lines = [_written_for(release)]
    for key, value, why in entries:
        line = f"{key}: {json.dumps(value)}"
        lines.append(f"{line}  # {why}" if why else line)
    return "\n".join(lines) + "\n"


def serve(
    release: Release,
    arguments: Sequence[str],
    role: str,
    *,
    gaudi: bool = True,
    environment: Sequence[str] = (),
    connector: str = "LMCacheConnectorV1",
    extra: Mapping[str, object] | None = None,
) -> str:
    """Return a script that serves a model by vLLM with LMCache, on Gaudi or on ROCm."""
    transfer: dict[str, object] = {"kv_connector": connector, "kv_role": role}
    if extra:
        transfer["kv_connector_extra_config"] = extra
        transfer["kv_load_failure_policy"] = "recompute"  # vLLM's default ends a request whose KV could not be loaded
    command = ["vllm", "serve", *arguments, "--enable-prefix-caching"]
    command += ["--block-size", str(BLOCK)] if gaudi else []
    command += ["--kv-transfer-config", json.dumps(transfer)]
    setup = [] if extra else [f'export LMCACHE_CONFIG_FILE="$here/{CONFIG}"']
    setup.append("export PYTHONHASHSEED=0  # the same wherever this cache is used")
    setup += environment
    if gaudi:
        setup += [
            "# vllm-gaudi must not move KV blocks: LMCache would load into, and store from, blocks of others.",
            "export VLLM_CONTIGUOUS_PA=false VLLM_DEFRAG=false",
        ]
        if release.before("0.4.3"):  # pairs with vllm-gaudi 0.13 to 0.17, where any value but an empty one turns it on
            setup.append("unset VLLM_UNIFIED_ATTN  # its way through the model calls no KV connector")
    what = f"vllm-gaudi {release.vllm_gaudi}" if gaudi else "vLLM for ROCm, where LMCache needs no patch"
    return script(release, what, setup, command)


def script(release: Release, what: str, setup: Sequence[str], command: Sequence[str]) -> str:
    """Return a shell script that sets up the environment and becomes ``command``; more arguments are passed on."""
    lines = ["#!/bin/sh", _written_for(release), f"# {what}", "set -eu"]
    if any("$here" in line for line in setup):
        lines.append('here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)')
    return "\n".join([*lines, *setup, _command(command)]) + "\n"


def _command(command: Sequence[str]) -> str:
    """``exec COMMAND "$@"``, one option a line."""
    lines = ["exec"]
    for word in command:
        if word.startswith("--"):
            lines.append(" ")
        lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join([*lines, '  "$@"'])


def _written_for(release: Release) -> str:
    return f"# For LMCache {release.version}; written by gaudi-patch recipe."

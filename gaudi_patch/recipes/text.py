"""The text of a recipe's files: LMCache's YAML, and a shell script for each process."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence

from gaudi_patch.recipes import cleaner, preflight
from gaudi_patch.recipes.process import DISK_CHUNKS, HERE, HOST, Process, Variable
from gaudi_patch.recipes.release import Release

CONFIG = "lmcache.yaml"
#: vllm-gaudi's block of KV cache, in tokens (vllm_gaudi/platform.py).
BLOCK = 128

#: Key, value, and the reason for it.
Entry = tuple[str, object, str]

_SECRET = re.compile(r"@SECRET:(\w+)@")
#: Prints an environment variable, escaped for a URL.
_QUOTE = 'import os, sys, urllib.parse; print(urllib.parse.quote(os.environ[sys.argv[1]], safe=""))'


def yaml(release: Release, entries: Sequence[Entry]) -> str:
    """Return LMCache's configuration file, with values in JSON, which is valid YAML."""
    lines = [_written_for(release)]
    for key, value, why in entries:
        line = f"{key}: {json.dumps(value)}"
        lines.append(f"{line}  # {why}" if why else line)
    return "\n".join(lines) + "\n"


def scripts(release: Release, apply: str, processes: Sequence[Process]) -> dict[str, str]:
    """Return a script for each process, and what these run; ``apply`` is the command line that patches LMCache."""
    files = {f"{process.name}.sh": script(release, process) for process in processes}
    files[preflight.NAME] = preflight.script(release, apply)
    if any(process.trims or cleaner.NAME in "".join(process.arguments) for process in processes):
        files[cleaner.NAME] = cleaner.SCRIPT
    return files


def script(release: Release, process: Process) -> str:
    """Return a shell script that sets up the environment and executes the process, with any extra arguments."""
    lines = ["#!/bin/sh", _written_for(release), f"# {process.what}", "set -eu"]
    lines.append('here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)')
    lines.append(f"python={shlex.quote(process.python)}")
    release_only = "" if process.patched else " --release"
    if process.runs_lmcache:
        lines.append(f'"$python" -B "$here/{preflight.NAME}"{release_only}  # an upgrade may have undone the patch')
    lines.append("export PYTHONSAFEPATH=1  # python -m would import from the current directory first")
    lines += _secrets(process)
    lines += _variables(process.variables)
    if process.unset:
        lines.append(f"unset {' '.join(process.unset)}")
    lines += _scratch(process.scratch)
    lines += _segment(process.segment)
    lines += _trims(*process.trims) if process.trims else ()
    lines += _metrics(process) if process.metrics else ()
    return "\n".join([*lines, _command(process.arguments)]) + "\n"


def _secrets(process: Process) -> Iterator[str]:
    for name, what in process.secrets.items():
        yield f': "${{{name}:?{what}: set it in the environment, no file contains it}}"'
    used = {name for variable in process.variables for name in _SECRET.findall(variable.value)}
    for name in sorted(used):
        yield f"export {name}"
        yield f'{name.lower()}=$("$python" -c {shlex.quote(_QUOTE)} {name})'


def _variables(variables: Sequence[Variable]) -> Iterator[str]:
    for name, value, why in variables:
        if why:
            yield f"# {why}"
        yield f"export {name}={_quoted(value)}"


def _quoted(value: str) -> str:
    """Quote a value as a shell word; its placeholders are replaced when the script runs."""
    if "@" not in value:
        return shlex.quote(value)
    text = re.sub(r'([\\"$`])', r"\\\1", value)
    text = text.replace(HERE, "$here").replace(HOST, "$(uname -n)")
    return f'"{_SECRET.sub(lambda match: "${" + match[1].lower() + "}", text)}"'


def _scratch(folder: str) -> Iterator[str]:
    if not folder:
        return
    yield "# LMCache keeps the index in memory: what an earlier process left here is neither found nor counted."
    yield f"mkdir -p {shlex.quote(folder)}"
    yield f"exec 9>{shlex.quote(folder + '/.lock')}"
    yield "flock -n 9 || { echo " + shlex.quote(f"another engine uses {folder}") + " >&2; exit 1; }"
    yield f"find {shlex.quote(folder)} -maxdepth 1 -type f -name '{DISK_CHUNKS}' -delete"


def _segment(name: str) -> Iterator[str]:
    if not name:
        return
    path = shlex.quote(f"/dev/shm/{name}")  # noqa: S108 -- where shared memory is
    yield "# A killed server leaves its memory behind. It counts as used, and the next one would use sockets."
    yield f"exec 9>{path}.lock"
    yield "flock -n 9 || { echo " + shlex.quote(f"another server uses /dev/shm/{name}") + " >&2; exit 1; }"
    yield f"rm -f {path}"


def _trims(folder: str, keep: float) -> Iterator[str]:
    path = shlex.quote(folder)
    yield "# The server finds what earlier servers left here, but counts and evicts only what it writes itself."
    yield f'[ ! -d {path} ] || "$python" -B "$here/{cleaner.NAME}" {path} --keep-gb {keep:g}'


def _metrics(process: Process) -> Iterator[str]:
    """Yield the lines that give the processes of one start their own directory for counters.

    prometheus_client reads PROMETHEUS_MULTIPROC_DIR when it is imported. LMCache's own default comes too late for the
    page, and is a directory that all engines of the host share and nobody empties (lmcache/observability.py). vLLM adds
    up whatever is in the directory (vllm/v1/metrics/prometheus.py).
    """
    port = process.ports["http"]
    yield "# LMCache counts in vLLM's engine process, and another process serves the metrics: these files connect them."
    yield f'metrics="${{TMPDIR:-/tmp}}/vllm-metrics-$(id -u)-{port}"'
    yield 'mkdir -m 700 "$metrics" 2>/dev/null || { [ -d "$metrics" ] && [ ! -L "$metrics" ] && [ -O "$metrics" ]; } ||'
    yield '  { echo "$metrics is not a directory of this user: remove it, or set TMPDIR" >&2; exit 1; }'
    yield 'exec 8>"$metrics/.lock"'
    yield 'flock -n 8 || { echo "another engine counts in $metrics" >&2; exit 1; }'
    yield "find \"$metrics\" -maxdepth 1 -type f -name '*.db' -delete  # from an earlier start: they would be added up"
    yield 'export PROMETHEUS_MULTIPROC_DIR="$metrics"'


def _command(arguments: Sequence[str]) -> str:
    """Return ``exec "$python" ARGUMENTS "$@"``, with one option per line."""
    lines = ['exec "$python"']
    for word in arguments:
        if word.startswith("--"):
            lines.append(" ")
        lines[-1] += f" {_quoted(word) if HERE in word else shlex.quote(word)}"
    return " \\\n".join([*lines, '  "$@"'])


def _written_for(release: Release) -> str:
    return f"# For LMCache {release.version}; written by gaudi-patch recipe."

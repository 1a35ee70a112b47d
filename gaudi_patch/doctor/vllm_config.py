"""Check of vLLM's own ``--config FILE``: YAML options that vLLM puts before the command line, which overrides them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.arguments import ConfigFile, parse
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown, warning

#: Options that are on by default, so that false in a file means to turn them off. All others are off anyway.
_ON_BY_DEFAULT = ("enable-prefix-caching", "enable-chunked-prefill")


def with_file(case: Case) -> Case:
    """Return the case with the file's options in its arguments; unchanged if the command line names no file."""
    given = case.arguments
    if given is None or given.problem or not given.files:
        return case
    file = _read(case, given.files)
    if not file.read:
        return replace(case, arguments=replace(given, file=file))
    return replace(case, arguments=replace(parse(given.line, file.words), file=file))


def _read(case: Case, names: tuple[str, ...]) -> ConfigFile:
    """Return the file, read by the target's own YAML library."""
    name = names[0]
    if len(names) > 1:
        return ConfigFile(name, fault=f"--config is given {len(names)} times, and vLLM takes one file")
    if not name:
        return ConfigFile(name, fault="--config names no file")
    if not name.endswith((".yaml", ".yml")):
        return ConfigFile(name, fault=f"{name}: vLLM takes files named *.yaml or *.yml only")
    loaded = case.yaml(Path(name).absolute())
    if loaded.refused:
        return ConfigFile(name, fault=f"{name} cannot be read: {loaded.problem}")
    if loaded.problem:
        return ConfigFile(name, unread=loaded.problem)
    engine = case.version("vllm")
    false = (key.replace("_", "-") for key, value in loaded.values.items() if value is False)
    off = tuple(key for key in false if key in _ON_BY_DEFAULT)
    return ConfigFile(name, tuple(words(loaded.values, engine)), off)


def words(values: Mapping[str, Any], engine: Version | None) -> Iterator[str]:
    """Yield the file's options as words of a command line (vllm/utils/argparse_utils.py, load_config_file)."""
    for key, value in values.items():
        if isinstance(value, bool):
            # `vllm serve` omits false, also in 0.32: it looks for --no-KEY among the options of `vllm` itself.
            yield from [f"--{key}"] if value else []
        elif isinstance(value, list):
            yield from [f"--{key}", *map(str, value)] if value else []
        elif isinstance(value, dict) and not (engine is not None and engine.release < (0, 14)):
            yield from (f"--{key}", json.dumps(value))
        else:  # in vLLM 0.13 also a nested table, which it then does not parse as JSON
            yield from (f"--{key}", str(value))


@check(
    "vllm.config-file",
    "vLLM's --config file",
    why="connector, block size and ranks may be in it; vLLM does not start with one that it cannot read",
    source=sources.vllm("utils/argparse_utils.py"),
    needs=("arguments",),
)
def config_file(case: Case) -> Answer:
    assert case.arguments is not None
    file = case.arguments.file
    if file is None and "config" in case.arguments.options:
        return warning("vLLM silently ignores the file of --config=FILE", "write it as two words: --config FILE")
    if file is None:
        return ok("none")
    if file.fault:
        return failure(file.fault, "correct the file or its path, which is relative to the directory where vLLM starts")
    if file.unread:
        return unknown(f"{file.name} is not read: {file.unread}", "give its options with --vllm-args")
    if file.off:
        ignored = ", ".join(f"{key}: false" for key in file.off)
        fixes = ", ".join(f"no-{key}: true" for key in file.off)
        return warning(f"{file.name}: vllm serve ignores {ignored}", f"write {fixes}, or leave it out")
    return ok(f"{file.name}: {sum(word.startswith('--') for word in file.words)} option(s); the command line wins")


CHECKS = (config_file,)

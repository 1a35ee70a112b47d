"""The options of vLLM's command line that LMCache and the checks depend on; pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Short forms, from vLLM's own help.
_SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-dpl": "data-parallel-size-local",
    "-dpr": "data-parallel-start-rank",
    "-dpa": "data-parallel-address",
    "-dpp": "data-parallel-rpc-port",
    "-n": "nnodes",
    "-r": "node-rank",
}
_OPTION = re.compile(r"--[A-Za-z]|-(tp|pp|dp[lrap]?|n|r)(=|$)")
_KV = "kv-transfer-config"


@dataclass(frozen=True)
class ConfigFile:
    """vLLM's own file of options: its ``words``, the ``fault`` that vLLM finds, or why it is ``unread`` here.

    ``off`` names the options that the file tries to turn off but this vLLM leaves on.
    """

    name: str
    words: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    fault: str = ""
    unread: str = ""

    @property
    def read(self) -> bool:
        return not self.fault and not self.unread


@dataclass(frozen=True)
class Arguments:
    """Options by name without dashes (``True`` for one without a value), and the KV transfer configuration.

    ``line`` is the line as given, ``files`` are the names after its ``--config``, ``file`` is what was found there.
    ``problem`` says why the line cannot be read; the other fields are then empty.
    """

    options: Mapping[str, str | bool] = field(default_factory=dict)
    kv: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    line: str = ""
    files: tuple[str, ...] = ()
    file: ConfigFile | None = None

    @property
    def unread_file(self) -> bool:
        """Return whether vLLM reads further options from a file that could not be read here."""
        return bool(self.files) and (self.file is None or not self.file.read)

    @property
    def connector(self) -> str:
        return str(self.kv.get("kv_connector") or "")

    @property
    def parts(self) -> list[str]:
        """Return the names of the connectors within a MultiConnector."""
        parts = self.extra.get("connectors")
        return [str(part.get("kv_connector")) for part in parts or () if isinstance(part, dict)]

    @property
    def extra(self) -> Mapping[str, Any]:
        """Return the connector's own settings; those named ``lmcache.*`` override LMCache's configuration."""
        extra = self.kv.get("kv_connector_extra_config")
        return extra if isinstance(extra, dict) else {}

    @property
    def lmcache_settings(self) -> dict[str, Any]:
        return {name[8:]: value for name, value in self.extra.items() if name.startswith("lmcache.")}

    def number(self, name: str, default: int) -> int:
        """Return the integer given for an option; ``default``, vLLM's own value, if there is none."""
        value = self.options.get(name)
        try:
            return int(value) if isinstance(value, str) else default
        except ValueError:
            return default

    @property
    def ranks(self) -> int:
        """Return how many ranks run on this host, one of ``--nnodes``; each rank owns one card."""
        data = self.number("data-parallel-size-local", self.number("data-parallel-size", 1))
        world = self.number("tensor-parallel-size", 1) * self.number("pipeline-parallel-size", 1) * data
        return -(-world // max(1, self.number("nnodes", 1)))


def parse(line: str, before: Sequence[str] = ()) -> Arguments:
    """Parse a vLLM command line, with or without ``vllm serve MODEL`` before its options.

    ``before`` are the words of vLLM's own file. As in vLLM, the last of repeated options wins. Dotted parts of the KV
    transfer configuration are joined, and replace a configuration that is given whole.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        return Arguments(problem=f"the quotes do not match: {error}")
    files = tuple((*words, "")[at + 1] for at, word in enumerate(words) if word == "--config")
    words = [*before, *words]
    options: dict[str, str | bool] = {}
    whole: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if not _OPTION.match(word):
            continue  # vllm, serve, the model
        name, equals, value = word.partition("=")
        if not equals and words and not _OPTION.match(words[0]):
            value, equals = words.pop(0), "="
        head, dot, rest = (_SHORT.get(name) or name.lstrip("-")).partition(".")
        key = head.replace("_", "-")
        if key != _KV:
            options.pop(key[3:] if key.startswith("no-") else f"no-{key}", None)  # the last of the two wins
            options[key] = value if equals else True
        elif dot:
            _put(dotted, rest, _value(value))
        else:
            given = _value(value)
            if not isinstance(given, dict):
                return Arguments(problem=f"--{_KV} must be a JSON object, not {value!r}")
            whole = given
    return Arguments(options, dotted or whole, "", line, files)


def _put(table: dict[str, Any], path: str, value: object) -> None:
    """Set ``path`` in ``table``, as for ``--kv-transfer-config.kv_connector_extra_config.use_native true``.

    The first dot of ``path`` nests; later dots belong to the name.
    """
    first, dot, rest = path.partition(".")
    if not dot:
        table[path] = value
        return
    inner = table.setdefault(first, {})
    if isinstance(inner, dict):
        inner[rest] = value


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text

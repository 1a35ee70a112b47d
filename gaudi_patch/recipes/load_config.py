"""Run by the target's interpreter: let its LMCache load a configuration, and write down what it made of it.

``load_config.py ANSWER file PATH KEY...`` for an engine's configuration, ``load_config.py ANSWER server ARGUMENT...``
for the command line of the multiprocess server. Imports nothing of gaudi_patch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any, NoReturn

#: For its metrics; the wheel asks for them, and an installation without dependencies lacks them.
SERVER_NEEDS = ("opentelemetry.sdk.metrics", "opentelemetry.exporter.prometheus")


class _Collect(logging.Handler):
    """What LMCache warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def load_file(path: str, keys: list[str]) -> dict[str, Any]:
    """The values that LMCache loads for ``keys``, those that it does not know or has renamed, and its warnings."""
    from lmcache.v1 import config as module  # type: ignore[import-not-found, unused-ignore]

    # LMCache's loggers do not propagate, so that each one is listened to.
    collect = _Collect()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("lmcache"):
            logging.getLogger(name).addHandler(collect)
    renamed = set(module._CONFIG_ALIASES) | set(module._DEPRECATED_CONFIGS)
    config = module.LMCacheEngineConfig.from_file(path)
    config.validate()
    return {
        "values": {key: getattr(config, key, None) for key in keys},
        "unknown": [key for key in keys if key not in module._CONFIG_DEFINITIONS and key not in renamed],
        "renamed": [key for key in keys if key in renamed],
        "warnings": collect.messages,
        "guard": _guard(config),
    }


def _guard(config: Any) -> str | None:  # noqa: ANN401 - LMCache's object, which differs between releases
    """What the patched LMCache refuses of it: "" for nothing, None where it is not patched."""
    if importlib.util.find_spec("lmcache.gaudi") is None:
        return None
    from lmcache.gaudi import guards  # type: ignore[import-not-found, unused-ignore]

    try:
        guards.refuse_config(config, "VLLM")
    except guards.GaudiError as error:
        return str(error)
    return ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def load_server(arguments: list[str]) -> dict[str, Any]:
    """What the server's own parsers make of its arguments."""
    from lmcache.cli.commands.server import ServerCommand  # type: ignore[import-not-found, unused-ignore]

    parser = _Parser()
    ServerCommand().add_arguments(parser)
    # After the parser is filled: where these cannot be imported, it has said so, and is empty.
    from lmcache.v1.distributed.config import (  # type: ignore[import-not-found, unused-ignore]
        parse_args_to_config,
    )
    from lmcache.v1.multiprocess.config import (  # type: ignore[import-not-found, unused-ignore]
        parse_args_to_http_frontend_config,
        parse_args_to_mp_server_config,
    )

    parsed = parser.parse_args(arguments)
    server = parse_args_to_mp_server_config(parsed)
    parse_args_to_config(parsed)
    parse_args_to_http_frontend_config(parsed)
    # What it imports when it starts, and would only then say that it misses.
    for name in ("lmcache.v1.multiprocess.http_server", *SERVER_NEEDS):
        importlib.import_module(name)
    return {"values": {"chunk_size": server.chunk_size, "port": server.port}}


def main() -> None:
    """Answer, or end with the traceback of what LMCache raised."""
    answer, kind, *rest = sys.argv[1:]
    found = load_file(rest[0], rest[1:]) if kind == "file" else load_server(rest)
    Path(answer).write_text(json.dumps(found, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()

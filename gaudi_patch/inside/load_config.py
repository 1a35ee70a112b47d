"""Run by answer.py: let the target's LMCache load a configuration, and report the result.

The question is a JSON object. For an engine, ``file`` is its configuration or null. If ``environment`` is true,
LMCACHE_* variables take precedence over the file, as in LMCache's vLLM adapter. ``overrides`` are the connector's own
settings, and ``guard`` also reports what the patched LMCache refuses. For a multiprocess server, the only key is
``server``, its command line. Imports nothing of gaudi_patch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import logging
import os
import stat
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NoReturn

#: Size limit of a configuration in bytes, far more than any has.
FILE_LIMIT = 4 * 1024 * 1024

#: Modules for the server's metrics; the wheel requires them, and an installation without dependencies lacks them.
SERVER_NEEDS = ("opentelemetry.sdk.metrics", "opentelemetry.exporter.prometheus")
#: Modules for a store, by adapter type. Without awscrt, LMCache does not know the type. Without boto3, which the wheel
#: does not require, it has no credentials (lmcache/v1/distributed/l2_adapters/s3_l2_adapter.py).
ADAPTER_NEEDS = {"s3": ("awscrt", "boto3")}


class _Kept(logging.Handler):
    """Collects LMCache's warnings; its loggers do not propagate to their parents."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def listen(self) -> None:
        """Attach this handler to every existing logger of LMCache."""
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("lmcache"):
                logging.getLogger(name).addHandler(self)


class _Importing:
    """Collects LMCache's warnings during its import: missing parts that make it fail later."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def __enter__(self) -> _Importing:
        self._factory = logging.getLogRecordFactory()
        logging.setLogRecordFactory(self._record)  # the import creates its loggers and their handlers
        return self

    def __exit__(self, *exception: object) -> None:
        logging.setLogRecordFactory(self._factory)

    def _record(self, *arguments: Any, **options: Any) -> logging.LogRecord:  # noqa: ANN401 - as logging calls it
        record = self._factory(*arguments, **options)
        if record.name.startswith("lmcache") and record.levelno >= logging.WARNING:
            self.warned.append(record.getMessage())
        return record


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def engine(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's values, the names that LMCache knows, and its warnings."""
    try:
        with _Importing() as importing:
            module = importlib.import_module("lmcache.v1.config")
    except Exception as error:  # a broken build may raise any error of its libraries
        return {"stage": "import", "problem": _told(error)}
    kept = _Kept()
    kept.listen()
    try:
        config = _load(module, question)
    except Exception as error:  # yaml's, LMCache's own, or an assertion of its validation
        return {"stage": "load", "problem": _told(error), "warnings": kept.messages}
    return {
        "values": {name: value for name, value in vars(config).items() if not name.startswith("_")},
        "warnings": kept.messages,
        "importing": importing.warned,
        "aliases": dict(getattr(module, "_CONFIG_ALIASES", {})),
        "known": sorted(getattr(module, "_CONFIG_DEFINITIONS", {})),
        "deprecated": sorted(getattr(module, "_DEPRECATED_CONFIGS", {})),
        "guard": _guard(config) if question["guard"] else None,
    }


def _load(module: ModuleType, question: Mapping[str, Any]) -> Any:  # noqa: ANN401 - it differs between releases
    kind, file = module.LMCacheEngineConfig, question["file"]
    if file:
        _require_file(file)
    config = kind.from_file(file) if file else kind.from_env()
    if file and question["environment"] and hasattr(config, "update_config_from_env"):
        config.update_config_from_env()
    setter = getattr(sys.modules.get("lmcache.v1.config_base"), "validate_and_set_config_value", None)
    for name, value in question["overrides"].items():
        if setter is not None:
            setter(config, name, value)
        elif hasattr(config, name):
            setattr(config, name, value)
    if hasattr(config, "validate"):
        config.validate()
    return config


def _require_file(path: str) -> None:
    """Refuse a file that LMCache would wait for or read endlessly."""
    info = os.stat(path)  # noqa: PTH116 - as it was written
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if info.st_size > FILE_LIMIT:
        raise ValueError(f"{path} is larger than {FILE_LIMIT // 1024**2} MiB")


def _guard(config: Any) -> str | None:  # noqa: ANN401 - LMCache's object
    """Return why the patched LMCache refuses ``config``: "" if it does not, None if LMCache is not patched."""
    if importlib.util.find_spec("lmcache.gaudi") is None:
        return None
    guards = importlib.import_module("lmcache.gaudi.guards")
    try:
        guards.refuse_config(config, "VLLM")
    except guards.GaudiError as error:
        return str(error)
    return ""


def server(arguments: list[str]) -> dict[str, Any]:
    """Return the result of the server's own parsers for its arguments."""
    try:
        parser = _Parser()
        with _Importing() as importing:
            server = importlib.import_module("lmcache.cli.commands.server")
        server.ServerCommand().add_arguments(parser)
        for name in _adapter_needs(arguments):
            importlib.import_module(name)
        # Import these after filling the parser: if that fails, the parser has said so and is empty.
        distributed = importlib.import_module("lmcache.v1.distributed.config")
        multiprocess = importlib.import_module("lmcache.v1.multiprocess.config")
        parsed = parser.parse_args(arguments)
        server_config = multiprocess.parse_args_to_mp_server_config(parsed)
        distributed.parse_args_to_config(parsed)
        multiprocess.parse_args_to_http_frontend_config(parsed)
        # The server imports these at its start, and would report a missing one only then.
        for name in ("lmcache.v1.multiprocess.http_server", *SERVER_NEEDS):
            importlib.import_module(name)
    except Exception as error:  # an error of its parsers, or a missing import
        return {"stage": "import" if isinstance(error, ImportError) else "load", "problem": _told(error)}
    values = {"chunk_size": server_config.chunk_size, "port": server_config.port}
    return {"values": values, "importing": importing.warned}


def _adapter_needs(arguments: list[str]) -> list[str]:
    """Return the modules that a server's stores import at its start."""
    given = [after for before, after in itertools.pairwise(arguments) if before == "--l2-adapter"]
    return [name for adapter in given for name in ADAPTER_NEEDS.get(json.loads(adapter).get("type"), ())]


def _told(error: BaseException) -> str:
    """Return an error in one line; for an assertion without a message, quote its source line."""
    if isinstance(error, AssertionError) and not str(error):
        line = traceback.extract_tb(error.__traceback__)[-1].line
        return f"it requires: {str(line).replace('assert ', '', 1)}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Load the configuration described by the question."""
    return server(question["server"]) if "server" in question else engine(question)

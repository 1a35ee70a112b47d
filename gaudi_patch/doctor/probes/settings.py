"""Run under the target interpreter: LMCache's configuration, loaded by LMCache itself as its vLLM adapter loads it.

Usage: ``settings.py {"file": "lmcache.yaml" or null, "overrides": {...}}``; what LMCache logs meanwhile is kept.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import traceback
from types import ModuleType
from typing import Any


class Kept(logging.Handler):
    """Collects messages; LMCache's loggers pass nothing on to their parents."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def told(error: BaseException) -> str:
    """An error in one line; an assertion without a text by the line that failed."""
    if isinstance(error, AssertionError) and not str(error):
        line = traceback.extract_tb(error.__traceback__)[-1].line
        return f"it requires: {str(line).removeprefix('assert ')}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def load(module: ModuleType, file: str | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """The values of the configuration: file, then LMCACHE_* variables, then the connector's own settings."""
    kind = module.LMCacheEngineConfig
    config = kind.from_file(file) if file else kind.from_env()
    if file and hasattr(config, "update_config_from_env"):
        config.update_config_from_env()
    setter = getattr(sys.modules.get("lmcache.v1.config_base"), "validate_and_set_config_value", None)
    for name, value in overrides.items():
        if setter is not None:
            setter(config, name, value)
        elif hasattr(config, name):
            setattr(config, name, value)
    if hasattr(config, "validate"):
        config.validate()
    return {name: value for name, value in vars(config).items() if not name.startswith("_")}


def main() -> dict[str, Any]:
    """The answer."""
    question = json.loads(sys.argv[1])
    try:
        module = importlib.import_module("lmcache.v1.config")
    except Exception as error:  # a broken build raises whatever its libraries raise
        return {"stage": "import", "problem": f"LMCache cannot be imported: {told(error)}"}
    kept = Kept()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("lmcache"):
            logging.getLogger(name).addHandler(kept)
    try:
        values = load(module, question["file"], question["overrides"])
    except Exception as error:  # yaml's, LMCache's own, or an assertion of its validation
        return {"stage": "load", "problem": told(error), "warnings": kept.messages}
    aliases = getattr(module, "_CONFIG_ALIASES", {})
    return {"values": values, "warnings": kept.messages, "aliases": dict(aliases)}


sys.stdout.write("\ngaudi-patch-doctor: " + json.dumps(main(), default=str) + "\n")

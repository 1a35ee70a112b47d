"""Run by the target's interpreter: the YAML file that ``read_yaml.py '{"file": PATH}'`` names, as vLLM reads one."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def answer(path: str) -> dict[str, Any]:
    """The file's table; or the problem, and whether it is the file's (stage load) or the target's (stage import)."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        return {"stage": "import", "problem": f"{type(error).__name__}: {error}"}
    try:
        with open(path) as stream:  # noqa: PLW1514, RUF100 - in the encoding of the locale, as vLLM does
            found = yaml.safe_load(stream)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: bytes that are no text
        return {"stage": "load", "problem": " ".join(f"{type(error).__name__}: {error}".split())}
    if not isinstance(found, dict):
        return {"stage": "load", "problem": f"it holds no table of options, but {type(found).__name__}"}
    return {"values": {str(name): value for name, value in found.items()}}


sys.stdout.write(f"\ngaudi-patch-answer: {json.dumps(answer(json.loads(sys.argv[1])['file']), default=str)}\n")

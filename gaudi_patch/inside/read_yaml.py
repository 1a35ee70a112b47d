"""Run by answer.py: read the YAML file ``question["file"]`` as vLLM reads its ``--config FILE``."""

from __future__ import annotations

import importlib
import os
import stat
from typing import Any

#: Far more than any configuration; bounds the memory for a device or an endless file.
LIMIT = 4 * 1024 * 1024


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return the file's table, or the problem and its stage: ``load`` (the file) or ``import`` (the target)."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        return {"stage": "import", "problem": f"{type(error).__name__}: {error}"}
    try:
        document = yaml.safe_load(_read(question["file"]))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: bytes that are not text
        return {"stage": "load", "problem": " ".join(f"{type(error).__name__}: {error}".split())}
    if not isinstance(document, dict):
        return {"stage": "load", "problem": f"it must contain a table of options, not {type(document).__name__}"}
    return {"values": {str(name): value for name, value in document.items()}}


def _read(path: str) -> str:
    """Return the text of a regular file in the locale's encoding, as vLLM does; never block on a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor) as stream:  # noqa: PLW1514, RUF100 - the locale's encoding is meant
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        text = stream.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT // 1024**2} MiB")
    return text

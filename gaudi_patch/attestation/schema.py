"""Hold a JSON value against ``schema.json``."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("schema.json")


@cache
def load() -> dict[str, Any]:
    """Return the schema."""
    schema: dict[str, Any] = json.loads(FILE.read_bytes())
    return schema


#: Faults that are looked for; a document of another kind may have one per line.
MOST_FAULTS = 50


def faults(value: object) -> list[str]:
    """Return what is wrong with ``value``, each with its place, in the document's order; nothing for a valid one."""
    # 100 ms: only attestations need it.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    # Of several alternatives the fault is that of the one that fits best.
    faults = islice(Draft202012Validator(load()).iter_errors(value), MOST_FAULTS)
    errors = [best_match([error]) for error in faults]
    return [
        f"{error.json_path.removeprefix('$').removeprefix('.') or 'the document'}: {error.message}" for error in errors
    ]

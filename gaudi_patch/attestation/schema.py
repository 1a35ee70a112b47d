"""Validate a JSON value against ``schema.json``."""

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


#: Limit of reported faults; an unrelated document may have one per line.
MOST_FAULTS = 50


def faults(value: object) -> list[str]:
    """Return the faults of ``value``, each with its place, in document order; empty if it is valid."""
    # The import takes 100 ms, and only attestations need it.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    # Of several alternatives, report the fault of the best match.
    faults = islice(Draft202012Validator(load()).iter_errors(value), MOST_FAULTS)
    errors = [best_match([error]) for error in faults]
    return [
        f"{error.json_path.removeprefix('$').removeprefix('.') or 'the document'}: {error.message}" for error in errors
    ]

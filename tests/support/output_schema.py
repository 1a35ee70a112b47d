"""Validate the object of --json against the published schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from gaudi_patch.output import schema


@cache
def validator() -> Draft202012Validator:
    """Return the validator of the shipped schema, which is itself checked for validity."""
    loaded: dict[str, Any] = json.loads(schema.text())
    Draft202012Validator.check_schema(loaded)
    return Draft202012Validator(loaded)


def faults(document: object) -> list[str]:
    """Return the schema's errors in ``document``; for a command's data, those of its own definition."""
    found = [f"{error.json_path}: {error.message}"[:600] for error in validator().iter_errors(document)]
    command = document.get("command") if isinstance(document, dict) else None
    if found and isinstance(document, dict) and isinstance(command, str):
        name = command.replace(" ", "-")
        if name in validator().schema["$defs"]:
            only = {"$schema": validator().schema["$schema"], "$defs": validator().schema["$defs"]}
            part = Draft202012Validator({**only, "$ref": f"#/$defs/{name}"})
            found += [
                f"data{error.json_path[1:]}: {error.message}"[:600] for error in part.iter_errors(document["data"])
            ]
    return found


def hold(text: str) -> None:
    """Assert that a command printed one object that conforms to the schema."""
    document = json.loads(text)
    assert faults(document) == [], f"{document.get('command')}: the object of --json is not as published"

"""Hold a JSON value against ``schema.json``: the few words of JSON Schema (2020-12) that it uses, and no others.

A validator of the whole language is a dependency of 4 MB for one file. That this one agrees with it is tested.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("schema.json")

#: They say nothing about a value.
_NOTES = frozenset({"$schema", "$id", "$defs", "title", "description"})
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "null": (type(None),),
}


@cache
def load() -> Mapping[str, Any]:
    """The schema."""
    found: Mapping[str, Any] = json.loads(FILE.read_bytes())
    return found


def faults(value: object) -> Iterator[str]:
    """What is wrong with ``value``, each with its place; nothing for a valid one."""
    yield from _faults(value, load(), "")


def _faults(value: object, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    for word, wanted in schema.items():
        if word in _NOTES:
            continue
        if word == "$ref":
            yield from _faults(value, load()["$defs"][wanted.removeprefix("#/$defs/")], place)
        elif word == "anyOf":
            if not any(next(_faults(value, one, place), None) is None for one in wanted):
                # The last alternative is the telling one: the others say null.
                yield from _faults(value, wanted[-1], place)
        else:
            yield from _keyword(value, word, schema, place)


def _keyword(value: object, word: str, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    wanted, here = schema[word], place or "the document"
    if word == "type":
        whole = not isinstance(value, float) or value.is_integer()  # in JSON 1.0 is an integer
        if not isinstance(value, _TYPES[wanted]) or isinstance(value, bool) or (wanted == "integer" and not whole):
            yield f"{here} is no {wanted}"
    elif word in ("const", "enum"):
        allowed = wanted if word == "enum" else [wanted]
        if not any(isinstance(value, bool) == isinstance(one, bool) and value == one for one in allowed):
            yield f"{here} must be {' or '.join(map(json.dumps, allowed))}"
    elif word in ("pattern", "minLength"):
        if isinstance(value, str):
            yield from _text(value, word, wanted, here)
    elif word == "minimum":
        if isinstance(value, int | float) and not value >= wanted:
            yield f"{here} is less than {wanted}"
    elif word == "items":
        for number, one in enumerate(value if isinstance(value, list) else []):
            yield from _faults(one, wanted, f"{place}[{number}]")
    elif word in ("required", "properties", "additionalProperties"):
        if isinstance(value, dict):
            yield from _members(value, word, schema, place)
    else:
        raise NotImplementedError(f"schema.json uses {word}, which this module does not know")


def _text(value: str, word: str, wanted: Any, here: str) -> Iterator[str]:  # noqa: ANN401 - text or number, by word
    if word == "minLength" and len(value) < wanted:
        yield f"{here} is empty"
    # JSON Schema's $ is the end of the text; Python's also stands before a line end there.
    if word == "pattern" and (re.search(wanted, value) is None or value.endswith("\n")):
        yield f"{here} does not have the form {wanted}"


def _members(value: Mapping[str, object], word: str, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    prefix = f"{place}." if place else ""
    known = schema.get("properties", {})
    if word == "required":
        yield from (f"{prefix}{name} is missing" for name in schema["required"] if name not in value)
    elif word == "properties":
        for name, one in known.items():
            if name in value:
                yield from _faults(value[name], one, f"{prefix}{name}")
    else:
        rule = schema["additionalProperties"]
        for name, one in value.items():
            if name in known:
                continue
            if rule is False:
                yield f"{prefix}{name} is not known"
            else:
                yield from _faults(one, rule, f"{prefix}{name}")

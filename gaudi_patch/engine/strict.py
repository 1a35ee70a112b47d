"""Read an untrusted JSON document: raise ValueError unless every value has its expected type.

A ValueError says what is wrong and where. No document makes these functions fail in another way, or take
more time than its size justifies.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"[0-7]{4}")
#: The range of os.utime, with some margin.
TIME_LIMIT = 2**62
OWNER_LIMIT = 2**32 - 2


def document(data: bytes) -> dict[str, Any]:
    """Parse ``data`` as a JSON object."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number, parse_float=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return mapping(value, "the document")


def mapping(value: object, what: str, most: int | None = None) -> dict[str, Any]:
    """Return an object with string keys and at most ``most`` values, if given."""
    if not isinstance(value, dict):
        _wrong(what, "an object", value)
    if most is not None and len(value) > most:
        raise ValueError(f"{what} has {len(value)} entries, more than any document of this kind")
    return value


def items(value: object, what: str, length: int | None = None) -> list[Any]:
    """Return an array, of ``length`` values if given."""
    if not isinstance(value, list) or length not in (None, len(value)):
        _wrong(what, f"an array{f' of {length}' if length is not None else ''}", value)
    return value


def text(value: object, what: str, limit: int = 1000) -> str:
    """Return a string of at most ``limit`` characters, without NUL or lone surrogates other than for undecodable
    bytes.
    """
    if (
        not isinstance(value, str)
        or "\0" in value
        or len(value) > limit
        or re.search("[\ud800-\udc7f\udd00-\udfff]", value)
    ):
        _wrong(what, "a text", value)
    return value


def digest(value: object, what: str) -> str:
    """Return a sha256 as 64 hex digits."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        _wrong(what, "a sha256", value)
    return value


def mode(value: object, what: str) -> int:
    """Return a mode given as four octal digits."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        _wrong(what, "a mode", value)
    return int(value, 8)


def integer(value: object, what: str, low: int, high: int) -> int:
    """Return an integer from ``low`` to ``high``; refuse true and false."""
    if type(value) is not int or not low <= value <= high:
        _wrong(what, f"a number from {low} to {high}", value)
    return value


def boolean(value: object, what: str) -> bool:
    """Return a Boolean."""
    if not isinstance(value, bool):
        _wrong(what, "true or false", value)
    return value


def _wrong(what: str, wanted: str, value: object) -> NoReturn:
    shown = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    raise ValueError(f"{what} is {shown if len(shown) < 80 else shown[:60] + '...'}, not {wanted}")


def _no_number(literal: str) -> NoReturn:
    raise ValueError(f"{literal[:40]} is not a whole number")

"""Answers of the scripts that doctor runs in the target: untrusted, so the type of each value is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gaudi_patch.target.ask import AskError, Fields, Problem


@dataclass(frozen=True)
class Library:
    """torch.hpu or pyhlml in a process of the target; ``reason`` says why it is missing or unusable."""

    installed: bool
    reason: str = ""
    available: bool = False
    count: int = 0


@dataclass(frozen=True)
class Devices:
    """The cards as the target sees them; ``problem`` says why the target could not be asked, "" if it could."""

    torch: Library = Library(False)
    hlml: Library = Library(False)
    problem: str = ""


@dataclass(frozen=True)
class Loaded:
    """A file as the target loaded it.

    ``warnings`` were logged meanwhile, ``aliases`` is LMCache's own table of old names. ``problem`` says why there are
    no values; ``refused`` tells whether the file was read but rejected, or nothing could be asked.
    """

    values: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    aliases: Mapping[str, str] | None = None
    problem: str = ""
    refused: bool = False


@dataclass(frozen=True)
class FirstCause:
    """The failure that LMCache swallowed on import, "" for none, and what to do about it.

    ``missing`` names the module if it is not installed. ``problem`` says why the target could not be asked.
    """

    what: str = ""
    advice: str = ""
    missing: str = ""
    problem: str = ""


def first_cause(answer: object) -> FirstCause:
    """Parse the answer of first_cause.py; raise AskError if it is malformed."""
    fields = Fields(answer)
    return FirstCause(fields.text("what"), fields.text("advice"), fields.text("missing"))


def devices(answer: object) -> Devices:
    """Parse the answer of hpu.py; raise AskError if it is malformed."""
    fields = Fields(answer)
    return Devices(_torch(fields.fields("torch")), _hlml(fields.fields("hlml")))


def _torch(fields: Fields) -> Library:
    installed, reason = fields.flag("installed"), _reason(fields)
    if not installed and not reason:
        raise AskError(Problem.INVALID, "its answer says of no reason why there is no torch.hpu")
    if not installed:
        return Library(False, reason)
    return Library(True, reason, fields.flag("available"), fields.number("count"))


def _hlml(fields: Fields) -> Library:
    installed, reason = fields.flag("installed"), _reason(fields)
    return Library(installed, reason, count=fields.number("count") if installed and not reason else 0)


def _reason(fields: Fields) -> str:
    return fields.text("reason") if "reason" in fields else ""


def loaded(answer: object) -> Loaded:
    """Parse the answer of load_config.py or read_yaml.py; raise AskError if it is malformed."""
    fields = Fields(answer)
    warnings = fields.texts("warnings") if "warnings" in fields else ()
    if "problem" not in fields:
        aliases = fields.table("aliases") if "aliases" in fields else None
        names = None if aliases is None else {name: fields.fields("aliases").text(name) for name in aliases}
        return Loaded(fields.table("values"), warnings, names)
    stage, problem = fields.text("stage"), fields.text("problem")
    if stage not in ("import", "load"):
        raise AskError(Problem.INVALID, "its answer.stage is not one of import and load")
    return Loaded({}, warnings, problem=problem, refused=stage == "load")

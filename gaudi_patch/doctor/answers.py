"""The answers of the scripts that doctor has the target run, each value held to its type: they are not trusted."""

from __future__ import annotations

from typing import Any

from gaudi_patch.target.ask import AskError, Fields, Problem


def checked(script: str, answer: object) -> dict[str, Any]:
    """Return the answer of ``script`` if it has the form that its checks rely on; raises AskError otherwise."""
    fields = Fields(answer)
    if script == "hpu.py":
        return {name: _library(fields.fields(name), device=name == "torch") for name in ("torch", "hlml")}
    if "problem" in fields:
        stage = fields.text("stage")
        if stage not in ("import", "load"):
            raise AskError(Problem.INVALID, "its answer.stage is not one of import and load")
        return {"stage": stage, "problem": fields.text("problem"), "warnings": _warnings(fields)}
    found: dict[str, Any] = {"values": fields.table("values"), "warnings": _warnings(fields)}
    if "aliases" in fields:
        found["aliases"] = {name: fields.fields("aliases").text(name) for name in fields.table("aliases")}
    return found


def _warnings(fields: Fields) -> tuple[str, ...]:
    return fields.texts("warnings") if "warnings" in fields else ()


def _library(fields: Fields, *, device: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"installed": fields.flag("installed")}
    if "reason" in fields:
        found["reason"] = fields.text("reason")
    elif not found["installed"] and device:
        raise AskError(Problem.INVALID, "its answer says of no reason why there is no torch.hpu")
    if found["installed"]:
        if device:
            found["available"] = fields.flag("available")
        if device or "reason" not in found:
            found["count"] = fields.number("count")
    return found

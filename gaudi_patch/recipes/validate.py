"""Have the target's own LMCache load a recipe, in a process of the target's interpreter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.recipes.compose import Recipe
from gaudi_patch.recipes.text import CONFIG
from gaudi_patch.smoke.target import probe_environment
from gaudi_patch.target.ask import AskError, Fields, ask

TIMEOUT = 120.0


def validate(recipe: Recipe, python: Path) -> bool:
    """Raise unless LMCache loads every value as it was written, without a warning.

    Returns whether the refusals of the patched runtime were asked too: they are not there before `apply`.
    """
    if not recipe.config:
        _ask(python, {"server": list(recipe.server)})
        return False
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-") as folder:
        file = Path(folder, CONFIG)
        file.write_text(recipe.files[CONFIG], encoding="utf-8")
        answer = _ask(python, {"file": str(file), "environment": False, "overrides": {}, "guard": True})
    renamed = {*answer["aliases"], *answer["deprecated"]}
    faults = [f"it does not know {key}" for key in recipe.config if key not in {*answer["known"], *renamed}]
    faults += [f"it has another name for {key}" for key in recipe.config if key in renamed]
    for key, value in recipe.config.items():
        expected = value.removeprefix("file://") if key == "local_disk" and isinstance(value, str) else value
        loaded = answer["values"].get(key)
        if loaded != expected:
            faults.append(f"it loads {key} as {loaded!r}, not as {expected!r}")
    faults += answer["warnings"]
    if answer["guard"]:
        faults.append(answer["guard"])
    if faults:
        raise _rejected(faults)
    return answer["guard"] is not None


def _ask(python: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        environ = probe_environment(os.environ, rules="lazy", scratch=scratch)
        try:
            found = ask(
                python, "load_config.py", timeout=TIMEOUT, environ=environ, flags=(), question=question, cwd=scratch
            )
            answer = _checked(found, server="server" in question)
        except AskError as error:
            answer = {"stage": "import", "problem": str(error)}
    if answer.get("stage") == "import":
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "cannot-validate",
            f"LMCache, or what it needs for this mode, could not be imported by {python}; nothing was written",
            "install what is missing, or write the recipe unchecked: --lmcache VERSION",
            details=[answer["problem"]],
        )
    if "problem" in answer:
        raise _rejected([answer["problem"]])
    return answer


def _checked(found: object, *, server: bool) -> dict[str, Any]:
    """Hold an answer of load_config.py to its form: it is the target's, and not trusted."""
    fields = Fields(found)
    if "problem" in fields:
        return {"stage": fields.text("stage"), "problem": fields.text("problem")}
    values = {"values": fields.table("values")}
    if server:
        return values
    return {
        **values,
        "warnings": fields.texts("warnings"),
        "aliases": fields.table("aliases"),
        "known": fields.texts("known"),
        "deprecated": fields.texts("deprecated"),
        "guard": None if fields.is_null("guard") else fields.text("guard"),
    }


def _rejected(details: list[str]) -> GaudiPatchError:
    fault = refused(
        "recipe-rejected",
        "the installed LMCache does not take this configuration as it is meant; nothing was written",
        "please report it, with `gaudi-patch --version`",
    )
    fault.details = details
    return fault

"""Have the target's own LMCache load a recipe, in a process of the target's interpreter."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.recipes.compose import Recipe
from gaudi_patch.recipes.text import CONFIG
from gaudi_patch.smoke.target import probe_environment
from gaudi_patch.target import process

SCRIPT = Path(__file__).resolve().parent.parent / "inside" / "load_config.py"
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
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-") as folder:
        scratch = Path(folder)
        done = process.run(
            [str(python), str(SCRIPT), json.dumps(question)],
            timeout=TIMEOUT,
            environ=probe_environment(os.environ, rules="lazy", scratch=scratch),
            cwd=scratch,
        )
    ending = "no answer in time" if done.timed_out else f"no answer ({done.ending}) {done.last_line}".rstrip()
    answer = done.answer or {"stage": "import", "problem": ending}
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


def _rejected(details: list[str]) -> GaudiPatchError:
    fault = refused(
        "recipe-rejected",
        "the installed LMCache does not take this configuration as it is meant; nothing was written",
        "please report it, with `gaudi-patch --version`",
    )
    fault.details = details
    return fault

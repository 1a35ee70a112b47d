"""Validation of a recipe: the target's own LMCache loads it, in a process of the target's interpreter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.recipes.compose import Recipe
from gaudi_patch.recipes.text import CONFIG
from gaudi_patch.smoke.target import probe_environment
from gaudi_patch.target.ask import AskError, Fields, ask

TIMEOUT = 120.0


@dataclass(frozen=True)
class Loaded:
    """A configuration as LMCache loaded it.

    ``warnings`` were logged meanwhile; ``renamed`` are keys that now have another name. ``guard`` is what the patched
    runtime refuses, "" for nothing, None if the runtime was not asked.
    """

    values: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()
    guard: str | None = None


def validate(recipe: Recipe, python: Path) -> bool:
    """Raise unless LMCache loads every value as it was written, without a warning.

    Returns whether the patched runtime was asked for refusals too: it does not exist before `apply`.
    """
    if not recipe.config:
        _ask(python, {"server": list(recipe.server)}, _server)
        return False
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-") as folder:
        file = Path(folder, CONFIG)
        file.write_text(recipe.files[CONFIG], encoding="utf-8")
        loaded = _ask(python, {"file": str(file), "environment": False, "overrides": {}, "guard": True}, _config)
    known = loaded.known | loaded.renamed
    faults = [f"it does not know {key}" for key in recipe.config if key not in known]
    faults += [f"it has another name for {key}" for key in recipe.config if key in loaded.renamed]
    for key, value in recipe.config.items():
        expected = value.removeprefix("file://") if key == "local_disk" and isinstance(value, str) else value
        if loaded.values.get(key) != expected:
            faults.append(f"it loads {key} as {loaded.values.get(key)!r}, not as {expected!r}")
    faults += loaded.warnings
    if loaded.guard:
        faults.append(loaded.guard)
    if faults:
        raise _rejected(faults)
    return loaded.guard is not None


def _ask(python: Path, question: Mapping[str, Any], read: Callable[[Fields], Loaded]) -> Loaded:
    """Ask LMCache in its own process; ``read`` checks the form of the answer, which is untrusted."""
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        environ = probe_environment(os.environ, rules="lazy", scratch=scratch)
        try:
            answer = ask(
                python, "load_config.py", timeout=TIMEOUT, environ=environ, flags=(), question=question, cwd=scratch
            )
            fields = Fields(answer)
            failed = "problem" in fields
            # The cause of an import warning, or of any failure, may be an import error that LMCache ignored.
            cause = _first_cause(python, environ, scratch) if failed or fields.texts("importing") else ""
            if not failed and not cause:
                return read(fields)
            problem = cause or fields.text("problem")
            imported = not cause and fields.text("stage") != "import"
        except AskError as error:
            imported, problem = False, str(error)
    if imported:
        raise _rejected([problem])
    raise GaudiPatchError(
        Exit.ENVIRONMENT,
        "cannot-validate",
        f"LMCache, or a package that it needs for this mode, could not be imported by {python}; nothing was written",
        "install what is missing, or write the recipe unchecked: --lmcache VERSION",
        details=[problem],
    )


def _first_cause(python: Path, environ: Mapping[str, str], scratch: Path) -> str:
    """Return the failure that LMCache swallows on import, and what to do; "" for none. Raises AskError."""
    fields = Fields(ask(python, "first_cause.py", timeout=TIMEOUT, environ=environ, flags=(), cwd=scratch))
    return "; ".join(part for part in (fields.text("what"), fields.text("advice")) if part)


def _server(fields: Fields) -> Loaded:
    return Loaded(fields.table("values"))


def _config(fields: Fields) -> Loaded:
    return Loaded(
        fields.table("values"),
        fields.texts("warnings"),
        frozenset(fields.texts("known")),
        frozenset({*fields.table("aliases"), *fields.texts("deprecated")}),
        None if fields.is_null("guard") else fields.text("guard"),
    )


def _rejected(details: list[str]) -> GaudiPatchError:
    fault = refused(
        "recipe-rejected",
        "the installed LMCache does not load this configuration as intended; nothing was written",
        "please report it, with `gaudi-patch --version`",
    )
    fault.details = details
    return fault

"""The steps of `recipe`: compose it for a release, validate it with the installed LMCache, and write its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gaudi_patch.engine.plan import State
from gaudi_patch.engine.situation import given, look
from gaudi_patch.engine.verdicts import fault_of, port_hint
from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean
from gaudi_patch.recipes.compose import MODES, Mode, Recipe, Settings, compose
from gaudi_patch.recipes.release import Release, known
from gaudi_patch.recipes.validate import validate
from gaudi_patch.series.manifest import Kind, Manifest
from gaudi_patch.target import none_hash
from gaudi_patch.target.installation import Installation, Target
from gaudi_patch.target.invocation import command_line


@dataclass(frozen=True)
class Composed:
    """A recipe, its release, and how it was validated.

    ``checked``: the installed LMCache loaded every value. ``guarded``: the patched runtime was asked for refusals too;
    None if no LMCache was asked. ``patch`` is the command line that patches LMCache, "" if none is needed.
    """

    mode: str
    release: Release
    recipe: Recipe
    checked: bool = False
    guarded: bool | None = None
    patch: str = ""


def for_installation(manifest: Manifest, installation: Installation, mode: str, settings: Settings) -> Composed:
    """Return the recipe for the installed LMCache; raise if that LMCache does not load it."""
    situation = look(manifest, installation)
    if fault := fault_of(situation):
        raise fault
    if installation.python is None:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "no-interpreter",
            "no interpreter of the target can be run, so LMCache cannot check the recipe; nothing was written",
            "name the interpreter with --python, or write the recipe unchecked: --lmcache VERSION",
            str(installation.root),
        )
    version = installation.version or (situation.series.id if situation.series else "")
    python = installation.python
    release = known(manifest, situation.series, version, lambda: none_hash.agrees(python, os.environ))
    known_ = replace(settings, python=str(python), apply=situation.command("apply"))
    recipe = compose(mode_of(mode), release, known_)
    guarded = validate(recipe, installation.python)
    unpatched = situation.state is not None and situation.state is not State.PATCHED
    patch = situation.command("apply") if unpatched else ""
    return Composed(mode, release, recipe, checked=True, guarded=guarded, patch=patch)


def for_version(manifest: Manifest, version: str, mode: str, settings: Settings) -> Composed:
    """Return the recipe for a release that is not installed here; no LMCache has loaded it."""
    verdict = manifest.named(version)
    if verdict.kind in (Kind.REFUSED, Kind.UNKNOWN):
        nearest = f"; the nearest series is {verdict.nearest.id}" if verdict.nearest else ""
        message = verdict.reason or f"the manifest has no series for it{nearest}"
        supported = command_line("list", target=Target(), manifest=given(manifest))
        hint = verdict.advice or f"see `{supported}` for the supported releases{port_hint(verdict, manifest)}"
        raise GaudiPatchError(Exit.NOT_FOUND, f"{verdict.kind.value}-version", f"LMCache {version}: {message}", hint)
    # The spelling of its metadata, which preflight compares: "v0.5.6" is the same release.
    written = verdict.series.id if verdict.series is not None else version
    release = known(manifest, verdict.series, written, lambda: None)
    return Composed(mode, release, compose(mode_of(mode), release, settings))


def mode_of(name: str) -> Mode:
    """Return the mode called ``name``. Raises ``unknown-mode`` (exit 2)."""
    if name not in MODES:
        what = f"no mode is called {name!r}{did_you_mean(name, MODES)}"
        raise GaudiPatchError(Exit.USAGE, "unknown-mode", what, f"modes: {', '.join(MODES)}")
    return MODES[name]


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the files of a recipe; raise, and write nothing, if an existing file differs."""
    other = [
        name
        for name, content in files.items()
        if (file := folder / name).exists() and file.read_bytes() != content.encode()
    ]
    if other:
        raise GaudiPatchError(
            Exit.REFUSED,
            "would-overwrite",
            f"{', '.join(other)} already exists with other content; nothing was written",
            "choose another directory with --out, or remove the file",
            str(folder),
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.write_text(content, encoding="utf-8")
        if name.endswith(".sh"):
            file.chmod(0o755)

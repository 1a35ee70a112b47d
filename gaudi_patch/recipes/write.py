"""`recipe`: a configuration of LMCache for one way to deploy it, and how vLLM is started with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gaudi_patch.engine.describe import port_hint
from gaudi_patch.engine.plan import State
from gaudi_patch.engine.situation import look
from gaudi_patch.engine.verdicts import fault_of
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Result, Table, Text
from gaudi_patch.recipes.compose import MODES, Mode, Recipe, Settings, compose
from gaudi_patch.recipes.release import Release, known
from gaudi_patch.series.manifest import Kind, Manifest
from gaudi_patch.target.locate import Installation


def list_modes() -> Result:
    """The modes, and what each is for."""
    rows = [(mode.name, mode.summary) for mode in MODES.values()]
    return Result(
        "recipe",
        data={"modes": [{"mode": name, "summary": summary} for name, summary in rows]},
        blocks=[Table(("mode", "LMCache keeps KV in"), rows), Text("next: gaudi-patch recipe MODE --out DIR", "next")],
    )


def for_installation(
    manifest: Manifest, installation: Installation, mode: str, settings: Settings, out: Path | None
) -> Result:
    """The recipe for the installed LMCache, which has to load it before anything is written."""
    from gaudi_patch.recipes.validate import validate

    found = look(manifest, installation)
    if fault := fault_of(found):
        raise fault
    if installation.python is None:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "no-interpreter",
            "no interpreter of the target can be run, so that LMCache cannot check the recipe; nothing was written",
            "name the interpreter with --python, or write the recipe unchecked: --lmcache VERSION",
            str(installation.root),
        )
    version = installation.version or (found.series.id if found.series else "")
    release = known(manifest, found.series, version, installation.python_version)
    recipe = compose(_mode(mode), release, settings)
    guarded = validate(recipe, installation.python)
    result = _result(mode, release, recipe, out, checked=True)
    if found.state is not None and found.state is not State.PATCHED:
        result.warnings.append("this LMCache is not patched, and will not serve an HPU: gaudi-patch apply")
    result.data["guarded"] = guarded
    return result


def for_version(manifest: Manifest, version: str, mode: str, settings: Settings, out: Path | None) -> Result:
    """The recipe for a release that is not installed here; nothing has loaded it, and the result says so."""
    verdict = manifest.verdict(version)
    if verdict.kind in (Kind.REFUSED, Kind.UNKNOWN):
        nearest = f"; the nearest series is {verdict.nearest.id}" if verdict.nearest else ""
        message = verdict.reason or f"the manifest has no series for it{nearest}"
        hint = verdict.advice or f"see `gaudi-patch list` for the supported releases{port_hint(verdict)}"
        raise GaudiPatchError(Exit.NOT_FOUND, f"{verdict.kind.value}-version", f"LMCache {version}: {message}", hint)
    release = known(manifest, verdict.series, version, None)
    recipe = compose(_mode(mode), release, settings)
    result = _result(mode, release, recipe, out, checked=False)
    result.warnings.append("no LMCache has loaded this: without --lmcache, the installed one checks it")
    return result


def _mode(name: str) -> Mode:
    if name not in MODES:
        raise GaudiPatchError(Exit.USAGE, "unknown-mode", f"there is no mode {name!r}", f"modes: {', '.join(MODES)}")
    return MODES[name]


def _result(mode: str, release: Release, recipe: Recipe, out: Path | None, *, checked: bool) -> Result:
    data = {
        "mode": mode,
        "lmcache": release.version,
        "checked": checked,
        "files": dict(recipe.files),
        "notes": list(recipe.notes),
        "folder": None,
    }
    blocks: list[Block] = []
    if out is not None:
        write(recipe.files, out)
        data["folder"] = str(out.resolve())
        blocks += [Text(f"{out / name}", "good", verbatim=True) for name in recipe.files]
    else:
        for name, content in recipe.files.items():
            blocks += [Text(f"==> {name} <==", "next"), Text(content + "\n", verbatim=True)]
    blocks += [Text(note) for note in recipe.notes]
    if checked:
        blocks.append(Text(f"LMCache {release.version} takes it as it is written", "good"))
    return Result("recipe", data=data, blocks=blocks)


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the files of a recipe; a file that is there and says something else is left, and nothing is written."""
    other = [
        name
        for name, content in files.items()
        if (file := folder / name).exists() and file.read_bytes() != content.encode()
    ]
    if other:
        raise GaudiPatchError(
            Exit.REFUSED,
            "would-overwrite",
            f"{', '.join(other)} is there already, and differs; nothing was written",
            "name another folder with --out, or remove it",
            str(folder),
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.write_text(content, encoding="utf-8")
        if name.endswith(".sh"):
            file.chmod(0o755)

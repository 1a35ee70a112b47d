"""A site's own patches in its own directory, on top of the built-in ones: lint, apply, wheel, port."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from gaudi_patch.authoring import lint, port, source, wheels
from gaudi_patch.commands.apply import applied
from gaudi_patch.commands.check import checked
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.engine.rollback import RollbackOptions, rollback
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.report import plain
from gaudi_patch.series import manifest as manifests
from gaudi_patch.wheel.build import BuildOptions, build
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel
from tests.support.tiny import Tiny

#: A worktree has only the Python files.
PRISTINE = {path: data for path, data in tiny.PRISTINE.items() if path.endswith(".py")}
PATCHED = {path: data for path, data in tiny.PATCHED.items() if path.endswith(".py")}
NEXT = "0.5.7"
#: The next release: a line above the code that both patches change.
NEWER = {**PRISTINE, "lmcache/engine.py": b"import os\n\n\n" + PRISTINE["lmcache/engine.py"]}
NEWER_PATCHED = {**PATCHED, "lmcache/engine.py": b"import os\n\n\n" + (PATCHED["lmcache/engine.py"] or b"")}
#: The patched release with the site's change.
SITE = b"def device():\n    return 'hpu'\n\n\nSITE = 'example'\n"

TEXT = """\
schema = 2
extends = "built-in"

[[series]]
versions = "==0.5.6"
patches = ["site/0.5.6.patch"]

[patch."site/0.5.6.patch"]
title = "Name the site"
why = "our support asks for it"
upstream = "none"
remove_when = "never"
"""


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Return a tiny LMCache 0.5.6; the built-in manifest has it and the next release."""
    target = tiny.make(tmp_path / "t", PRISTINE, PATCHED)
    folder = tmp_path / "built-in"
    releases = {"0.5.6": (PRISTINE, PATCHED), NEXT: (NEWER, NEWER_PATCHED)}
    made = {version: fake_wheel(tmp_path / "wheels", version, dict(files)) for version, (files, _) in releases.items()}
    patches = {
        version: {f"base/{version}.patch": tiny.patch(files, after)} for version, (files, after) in releases.items()
    }
    tiny.write_manifest(folder, patches, made)
    for module in (manifests, port, lint):
        monkeypatch.setattr(module, "default_directory", lambda: folder)
    monkeypatch.setattr(wheels, "fetch", lambda _, version, python="": made[version])
    return target


@pytest.fixture
def site(built_in: Tiny, tmp_path: Path) -> Path:
    """Return the site's directory, with its lock."""
    folder = tmp_path / "site" / "patches"
    (folder / "site").mkdir(parents=True)
    (folder / "manifest.toml").write_text(TEXT)
    engine = "lmcache/engine.py"
    diff = tiny.patch({engine: PATCHED[engine] or b""}, {engine: SITE})
    (folder / "site" / "0.5.6.patch").write_bytes(diff)
    lint.lint(folder, write=True)
    return folder


def at(target: Tiny, folder: Path) -> Tiny:
    return Tiny(target.site, manifests.load(folder))


def test_a_series_is_the_built_in_one_and_then_the_sites(site: Path, built_in: Tiny) -> None:
    manifest = manifests.load(site)
    (series,) = manifest.series
    assert (series.id, series.patches) == ("0.5.6", ("base/0.5.6.patch", "site/0.5.6.patch"))
    assert [path.name for path in site.rglob("*.patch")] == ["0.5.6.patch"], "the built-in ones are not copied"
    assert lint.lint(site, write=False).fault is None
    assert set(json.loads((site / "manifest.lock").read_bytes())["patches"]) == set(series.patches)


def test_both_are_applied_as_one_transaction_and_rolled_back(site: Path, built_in: Tiny) -> None:
    target = at(built_in, site)
    before = tiny.tree(target.site)
    result = applied(target.manifest, target.installation, ApplyOptions())
    assert int(result.exit) == 0
    assert (target.site / "lmcache/engine.py").read_bytes() == SITE
    assert (target.site / "lmcache/gaudi/kernels.py").read_bytes() == PATCHED["lmcache/gaudi/kernels.py"]
    assert int(checked(target.manifest, target.installation).exit) == 0
    ours = manifests.load(manifests.default_directory())
    outdated = checked(ours, target.installation)
    assert outdated.data["state"] == "outdated", "not what the built-in series gives"
    said = "".join(map(plain, outdated.blocks))
    assert "patched with different patches than series 0.5.6 has here" in said
    assert "that removes site/0.5.6.patch: if the patch is your own, give its manifest with --manifest" in said
    rollback(target.manifest, target.installation, RollbackOptions())
    assert tiny.tree(target.site) == before


def test_the_wheel_has_both(site: Path, built_in: Tiny, tmp_path: Path) -> None:
    out = io.BytesIO()
    built = build(manifests.load(site), wheels.fetch("lmcache", "0.5.6"), out, BuildOptions())
    assert [one["name"] for one in built.attestation["patches"]] == ["base/0.5.6.patch", "site/0.5.6.patch"]
    with zipfile.ZipFile(out) as archive:
        assert archive.read("lmcache/engine.py") == SITE


def test_a_release_that_the_site_does_not_name_has_no_series(site: Path, built_in: Tiny, tmp_path: Path) -> None:
    """A release without the private patch must not pass for one with it."""
    assert manifests.load(site).verdict(NEXT).series is None
    assert manifests.load(manifests.default_directory()).verdict(NEXT).series is not None


def test_the_private_patch_is_ported_onto_the_built_in_series_of_the_next_release(
    site: Path, built_in: Tiny, tmp_path: Path
) -> None:
    done = port.port("0.5.6", NEXT, tmp_path / "work", site, port.PortOptions(smoke=False))
    assert int(done.exit) == 0
    manifest = manifests.load(site)
    series = manifest.by_id(NEXT)
    assert series is not None
    assert series.patches == (f"base/{NEXT}.patch", f"site/{NEXT}.patch")
    assert sorted(path.name for path in site.rglob("*.patch")) == ["0.5.6.patch", f"{NEXT}.patch"]
    assert manifest.patches[f"site/{NEXT}.patch"].why == "our support asks for it"
    assert lint.lint(site, write=False).fault is None
    out = io.BytesIO()
    build(manifest, wheels.fetch("lmcache", NEXT), out, BuildOptions())
    with zipfile.ZipFile(out) as archive:
        assert archive.read("lmcache/engine.py") == b"import os\n\n\n" + SITE


def test_a_release_that_gaudi_patch_does_not_have_yet_is_refused_before_anything_is_done(
    site: Path, built_in: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(GaudiPatchError) as refused:
        port.port("0.5.6", "0.6.0", tmp_path / "work", site, port.PortOptions(smoke=False))
    assert refused.value.code == "unknown-version"
    assert not (tmp_path / "work").exists()


def test_a_built_in_patch_that_has_changed_since_makes_the_lock_stale(site: Path, built_in: Tiny) -> None:
    folder = manifests.default_directory()
    other = {**PATCHED, "lmcache/gaudi/kernels.py": b"BLOCK = 256\n"}
    patch = tiny.patch(PRISTINE, other)
    tiny.write_manifest(folder, {"0.5.6": {"base/0.5.6.patch": patch}}, {"0.5.6": wheels.fetch("lmcache", "0.5.6")})
    target = at(built_in, site)
    with pytest.raises(GaudiPatchError) as refused:
        applied(target.manifest, target.installation, ApplyOptions())
    assert refused.value.code == "bad-manifest"
    assert refused.value.hint == f"gaudi-patch now has a different one: gaudi-patch dev lint --write --manifest {site}"
    lint.lint(site, write=True)
    target = at(built_in, site)
    assert int(applied(target.manifest, target.installation, ApplyOptions()).exit) == 0


WRONG = {
    "another base": (('"built-in"', '"other"'), "must be 'built-in'"),
    "a release without a series": (('"==0.5.6"', '"==0.6.0"'), "gaudi-patch has no series for ==0.6.0"),
    "more than one release": (('"==0.5.6"', '">=0.5.6"'), "no series for >=0.5.6"),
    "the name of a built-in patch": (("site/0.5.6.patch", "base/0.5.6.patch"), "a built-in patch has this name"),
    "a key that it cannot have": (("schema = 2\n", 'schema = 2\npackage = "lmcache"\n'), "unknown key"),
    "a patch that is not listed": (('patches = ["site/0.5.6.patch"]', "patches = []"), "lists no patch"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_an_overlay_cannot_say_is_named_with_its_line(what: str, site: Path) -> None:
    (old, new), words = WRONG[what]
    (site / "manifest.toml").write_text(TEXT.replace(old, new))
    with pytest.raises(GaudiPatchError, match=words) as refused:
        source.load(site)
    assert refused.value.code == "bad-manifest"
    assert refused.value.line > 0


def test_a_file_that_shadows_a_built_in_patch_is_a_stray(site: Path) -> None:
    (site / "base").mkdir()
    (site / "base" / "0.5.6.patch").write_bytes(b"")
    with pytest.raises(GaudiPatchError, match=r"base/0\.5\.6\.patch|no patch of the manifest"):
        lint.lint(site, write=True)

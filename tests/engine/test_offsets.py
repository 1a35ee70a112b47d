"""Hunks at other lines than in the patch: not reported if the lock knows the result."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.errors import Exit
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.scenarios import FEW
from tests.support.tiny import Tiny


def shared(folder: Path) -> Tiny:
    """Return the second of two releases that share a patch: its hunks are one line lower there."""
    body = b"".join(b"# line %d\n" % number for number in range(20))
    path = "lmcache/engine.py"
    before, moved = {**FEW, path: body}, {**FEW, path: b"# a new line\n" + body}
    patched = {path: moved[path].replace(b"line 9\n", b"LINE 9\n")}
    patch = tiny.patch(before, {path: body.replace(b"line 9\n", b"LINE 9\n")})
    wheels = {
        "0.5.6": fake_wheel(folder / "wheels", "0.5.6", dict(before)),
        "0.5.7": fake_wheel(folder / "wheels", "0.5.7", dict(moved)),
    }
    manifest = tiny.write_manifest(folder / "patches", {version: {"one.patch": patch} for version in wheels}, wheels)
    site = (folder / "site").resolve()
    unpack(wheels["0.5.7"], site)
    return Tiny(site, manifest, "0.5.7", moved, patched)


def test_a_series_of_the_manifest_is_applied_without_a_word_about_lines(tmp_path: Path) -> None:
    target = shared(tmp_path)
    planned = target.apply(dry_run=True)
    assert (planned.exit, planned.warnings, planned.data["changed"]) == (Exit.OK, [], False)
    done = target.apply()
    assert (done.exit, done.warnings) == (Exit.OK, [])
    assert target.sides() == {"lmcache/engine.py": "patched"}

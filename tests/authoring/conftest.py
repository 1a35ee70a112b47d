"""A small release of a fake LMCache, its patches as text, and the wheels of the releases that follow it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from gaudi_patch.authoring import lint, wheels
from tests.support.fake_wheel import fake_wheel

ENGINE = "".join(f"line_{number} = {number}\n" for number in range(1, 31))
BASE = {"lmcache/__init__.py": "VERSION = 1\n", "lmcache/engine.py": ENGINE}


def changed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def diff_of(folder: Path, before: Mapping[str, str], after: Mapping[str, str]) -> bytes:
    """Return git's diff from one tree to another, in the form of the kept patches."""
    for name, files in (("a", before), ("b", after)):
        for path, text in files.items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    command = ["git", "diff", "--no-index", "--no-prefix", "--full-index", "--no-renames", "a", "b"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 1
    lines = []
    for line in done.stdout.split(b"\n"):
        if line.startswith(b"diff --git "):
            path = line.split()[2].split(b"/", 1)[1]
            line = b"diff --git a/%s b/%s" % (path, path)
        lines.append(line)
    return b"\n".join(lines)


class Shelf(NamedTuple):
    """A patches directory and its releases."""

    directory: Path
    releases: Path

    def wheel(self, version: str) -> Path:
        return self.releases / f"lmcache-{version}-py3-none-any.whl"

    def release(self, version: str, files: Mapping[str, str]) -> Path:
        self.releases.mkdir(exist_ok=True)
        return fake_wheel(self.releases, version, files)


ENTRY = """
[patch."{name}"]
title = "{title}"
why = "because"
upstream = "https://example.org/pull/1"
remove_when = "upstream has it"
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Return series 1.0.0 of two patches: a new module, shared, and a route of two hunks."""
    made = Shelf(tmp_path / "patches", tmp_path / "releases")
    made.release("1.0.0", BASE)
    monkeypatch.setattr(wheels, "fetch", lambda package, version, python="3.11": made.wheel(version))
    (made.directory / "runtime").mkdir(parents=True)
    (made.directory / "route").mkdir()
    runtime = {**BASE, "lmcache/gaudi.py": "DEVICE = 'hpu'\n"}
    routed = {
        **runtime,
        "lmcache/engine.py": changed(ENGINE, ("line_5 = 5\n", "line_5 = 'hpu'\n"), ("line_25 = 25\n", "")),
    }
    (made.directory / "runtime/1.0.0.patch").write_bytes(diff_of(tmp_path / "d1", BASE, runtime))
    (made.directory / "route/1.0.0.patch").write_bytes(diff_of(tmp_path / "d2", runtime, routed))
    text = 'schema = 2\npackage = "lmcache"\n\n# kept\n[[series]]\nversions = "==1.0.0"\n'
    text += 'patches = ["runtime/1.0.0.patch", "route/1.0.0.patch"]\n'
    (made.directory / "manifest.toml").write_text(
        text
        + ENTRY.format(name="runtime/1.0.0.patch", title="The runtime")
        + ENTRY.format(name="route/1.0.0.patch", title="The route")
    )
    assert lint.lint(made.directory, write=True).written
    return made

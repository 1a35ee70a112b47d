"""Helpers of this directory's tests: installations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.locate import Target, locate
from tests.support.fake_wheel import fake_project, fake_wheel, unpack

Python = Callable[..., Path]


def install(site: Path, version: str = "0.5.6", *, installer: str = "pip", name: str = "lmcache") -> Path:
    """Unpack a wheel in ``site``; return its dist-info."""
    return unpack(fake_wheel(site.parent / "wheels", version, name=name), site, installer)


def error(target: Target, environ: Mapping[str, str] | None = None) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        locate(target, environ={} if environ is None else environ)
    assert caught.value.hint, "every refusal says what to do next"
    return caught.value


def find(target: Target, environ: Mapping[str, str] | None = None) -> Installation:
    return locate(target, environ={} if environ is None else environ)


def tree(root: Path) -> dict[str, object]:
    """Return every path below ``root`` with its content and modification time."""
    return {
        str(path.relative_to(root)): (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


def checkout(folder: Path, files: Mapping[str, str | bytes] | None = None) -> Path:
    """Create a source tree with a recognizable git directory; return the tree."""
    fake_project(folder, files=files)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/dev\n")
    return folder


def install_editable(site: Path, project: Path, *, pth: str = "") -> Path:
    """Create the files that pip leaves in site-packages for an editable install of ``project``."""
    site.mkdir(parents=True, exist_ok=True)
    info = site / "lmcache-0.5.7.dev3+g123.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: lmcache\nVersion: 0.5.7.dev3+g123\n")
    (info / "RECORD").write_text("__editable__.lmcache.pth,,\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    if pth:
        (site / "__editable__.lmcache.pth").write_text(pth)
    return info


def poisoned(program: Path, mark: Path) -> Path:
    """Create a program that leaves a mark if it is run."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    return program

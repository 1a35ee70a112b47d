"""A tiny LMCache, a tiny series of patches for it, and both installed in milliseconds.

The diffs are made by difflib and hashed here, not by the code under test.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from gaudi_patch.authoring import lint, lock
from gaudi_patch.commands import apply as applying
from gaudi_patch.commands import check as checking
from gaudi_patch.commands import rollback as rolling
from gaudi_patch.disk import Disk
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.engine.guard import Ground
from gaudi_patch.engine.rollback import RollbackOptions
from gaudi_patch.output.report import Result
from gaudi_patch.series import manifest as manifests
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.installation import Installation, Layout
from tests.support.fake_wheel import fake_wheel, unpack

VERSION = "0.5.6"

#: The release's files: text, no newline at the end, CRLF, latin-1, a script, a module to be deleted.
PRISTINE: Mapping[str, bytes] = {
    "lmcache/__init__.py": b"# SPDX-License-Identifier: Apache-2.0\n",
    "lmcache/engine.py": b"def device():\n    return 'cuda'\n",
    "lmcache/v1/__init__.py": b"",
    "lmcache/v1/memory.py": b"PINNED = True\n\n\ndef copy(src, dst):\n    dst[:] = src",
    "lmcache/v1/crlf.py": b"A = 1\r\nB = 2\r\nC = 3\r\nD = 4\r\n",
    "lmcache/v1/old.py": b"import torch.cuda\n",
    "lmcache/notes.txt": b"caf\xe9 \x0c \x00\nline\rwith a lone CR\n",
    "lmcache/tool.sh": b"#!/bin/sh\necho cuda\n",
    "lmcache/untouched.py": b"ANSWER = 42\n",
}

#: The files after the series; None: deleted.
PATCHED: Mapping[str, bytes | None] = {
    "lmcache/engine.py": b"def device():\n    return 'hpu'\n",
    "lmcache/v1/memory.py": b"PINNED = False\n\n\ndef copy(src, dst):\n    dst[:] = src\n",
    "lmcache/v1/crlf.py": b"A = 1\r\nB = 2\r\nC = 30\r\nD = 4\r\n",
    "lmcache/v1/old.py": None,
    "lmcache/notes.txt": b"caf\xe9 \x0c \x00\nline\rwith a lone CR, and more\n",
    "lmcache/tool.sh": b"#!/bin/sh\necho hpu\n",
    "lmcache/gaudi/__init__.py": b"",
    "lmcache/gaudi/kernels.py": b"BLOCK = 128\n",
}

#: Files that are executable after the series.
EXECUTABLE = frozenset({"lmcache/tool.sh"})


def blob_id(data: bytes | None) -> str:
    """Return git's id of a blob; zeros for none."""
    return "0" * 40 if data is None else hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def diff(path: str, before: bytes | None, after: bytes | None, old_mode: int = 0o644, new_mode: int = 0o644) -> bytes:
    """Return one section as ``git diff --full-index`` writes it; b"" if nothing changes."""
    if before == after and old_mode == new_mode:
        return b""
    out = [b"diff --git a/%b b/%b\n" % (path.encode(), path.encode())]
    mode = b""
    if before is None:
        out.append(b"new file mode 100%03o\n" % new_mode)
    elif after is None:
        out.append(b"deleted file mode 100%03o\n" % old_mode)
    elif old_mode != new_mode:
        out.append(b"old mode 100%03o\nnew mode 100%03o\n" % (old_mode, new_mode))
    else:
        mode = b" 100%03o" % old_mode
    if before == after:
        return b"".join(out)
    out.append(b"index %b..%b%b\n" % (blob_id(before).encode(), blob_id(after).encode(), mode))
    if not (before or after):
        return b"".join(out)  # an empty file that is created or deleted
    old = b"/dev/null" if before is None else b"a/" + path.encode()
    new = b"/dev/null" if after is None else b"b/" + path.encode()
    lines = difflib.diff_bytes(difflib.unified_diff, _lines(before), _lines(after), old, new, lineterm=b"\n")
    for line in lines:
        out.append(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n")
    return b"".join(out)


def _lines(data: bytes | None) -> list[bytes]:
    pieces = (data or b"").split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def patch(
    before: Mapping[str, bytes], after: Mapping[str, bytes | None], executable: frozenset[str] = frozenset()
) -> bytes:
    """Return a patch that turns the files ``before`` into ``after`` (files not named in ``after`` stay)."""
    return b"".join(
        diff(path, before.get(path), data, 0o644, 0o755 if path in executable else 0o644)
        for path, data in sorted(after.items())
    )


def manifest_text(series: Mapping[str, Mapping[str, bytes]]) -> str:
    """Return manifest.toml for ``series``: {version: {name of the patch: its bytes}}."""
    out = ['schema = 2\npackage = "lmcache"\n']
    for version, patches in series.items():
        out.append(f'[[series]]\nversions = "=={version}"\npatches = {json.dumps(sorted(patches))}\n')
    for name in sorted({name for patches in series.values() for name in patches}):
        out.append(f'[patch."{name}"]\ntitle = "A test"\nwhy = "a test"\nupstream = "none"\nremove_when = "never"\n')
    return "\n".join(out)


def write_manifest(directory: Path, series: Mapping[str, Mapping[str, bytes]], wheels: Mapping[str, Path]) -> Manifest:
    """Write manifest, patches and lock into ``directory``; ``wheels`` maps a version to its wheel."""
    directory.mkdir(parents=True, exist_ok=True)
    for patches in series.values():
        for name, data in patches.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
    (directory / "manifest.toml").write_text(manifest_text(series))
    (directory / "manifest.lock").write_bytes(lock.generate(directory, wheels.__getitem__))
    return manifests.load(directory)


def add_rules(directory: Path, text: str) -> None:
    """Add tables to manifest.toml and renew the lock, without reading a wheel."""
    file = directory / "manifest.toml"
    file.write_text(file.read_text() + text)
    lint.lint(directory, write=True)


#: One path of a tree: "file", "link" or "directory"; its bytes or the link's target; its mode; its mtime in ns.
Node = tuple[str, bytes, int, int]


def tree(folder: Path, *, times: bool = False) -> dict[str, Node]:
    """Return everything below ``folder``; the mtime is 0 unless ``times``. Byte-equal trees compare equal."""
    found: dict[str, Node] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        mtime = info.st_mtime_ns if times else 0
        name = path.relative_to(folder).as_posix()
        if stat.S_ISLNK(info.st_mode):
            found[name] = ("link", os.fsencode(os.readlink(path)), 0, mtime)
        elif stat.S_ISDIR(info.st_mode):
            found[name] = ("folder", b"", stat.S_IMODE(info.st_mode), mtime)
        else:
            found[name] = ("file", path.read_bytes(), stat.S_IMODE(info.st_mode), mtime)
    return found


@dataclass(frozen=True)
class Tiny:
    """A tiny LMCache in ``site``, and the manifest with a series for it.

    ``python`` None stands for an image: nothing in it may be run.
    """

    site: Path
    manifest: Manifest
    version: str = VERSION
    pristine: Mapping[str, bytes] = field(default_factory=lambda: PRISTINE)
    patched: Mapping[str, bytes | None] = field(default_factory=lambda: PATCHED)
    python: Path | None = Path(sys.executable)
    pycache_prefix: str | None = None

    @cached_property
    def dist_info(self) -> Path:
        return self.site / f"lmcache-{self.version}.dist-info"

    @property
    def record(self) -> Path:
        return self.dist_info / "RECORD"

    @property
    def state_dir(self) -> Path:
        return self.dist_info / "gaudi-patch"

    @property
    def home(self) -> Path:
        """Return the journal's directory."""
        return self.dist_info / "gaudi-patch.journal"

    @property
    def installation(self) -> Installation:
        return Installation(
            package="lmcache",
            version=self.version,
            root=self.site,
            layout=Layout.WHEEL,
            dist_info=self.dist_info,
            record=self.record if self.record.exists() else None,
            state_dir=self.state_dir,
            python=self.python,
            python_version=sys.version_info[:2],
            cache_tag=sys.implementation.cache_tag,
            pycache_prefix=self.pycache_prefix,
            own_interpreter=self.python is not None,
            prefix=None,
            how="a test",
            warnings=(),
        )

    @property
    def ground(self) -> Ground:
        return Ground.of(self.installation)

    def at(self, site: Path) -> Tiny:
        """Return the same at a copy of ``site``."""
        from dataclasses import replace

        return replace(self, site=site)

    def check(self) -> Result:
        return checking.checked(self.manifest, self.installation)

    def apply(self, disk: Disk | None = None, *, diff: bool = False, **options: bool | float) -> Result:
        chosen = ApplyOptions(disk=disk or Disk(), **options)  # type: ignore[arg-type]
        return applying.applied(self.manifest, self.installation, chosen, diff=diff)

    def rollback(self, disk: Disk | None = None, **options: bool | Path | float) -> Result:
        chosen = RollbackOptions(disk=disk or Disk(), **options)  # type: ignore[arg-type]
        return rolling.rolled_back(self.manifest, self.installation, chosen)

    def sides(self) -> dict[str, str]:
        """Return the state of each target by its bytes: "pristine", "patched", or "third" for anything else."""
        found = {}
        for path, after in self.patched.items():
            file = self.site / path
            now = file.read_bytes() if file.exists() else None
            found[path] = "patched" if now == after else "pristine" if now == self.pristine.get(path) else "third"
        return found


def make(
    folder: Path,
    pristine: Mapping[str, bytes] = PRISTINE,
    patched: Mapping[str, bytes | None] = PATCHED,
    *,
    version: str = VERSION,
    installer: str = "pip",
    executable: frozenset[str] = EXECUTABLE,
) -> Tiny:
    """Unpack the package in ``folder/site`` and write its manifest into ``folder/patches``."""
    wheel = fake_wheel(folder / "wheels", version, dict(pristine))
    site = (folder / "site").resolve()
    unpack(wheel, site, installer)
    data = patch(pristine, patched, executable & set(patched))
    manifest = write_manifest(folder / "patches", {version: {"tiny.patch": data}}, {version: wheel})
    return Tiny(site, manifest, version, pristine, patched)

"""Unified diffs for tests: difflib makes them fast, real git makes the reference."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gaudi_patch.series.diff import FileDiff, Kind
from gaudi_patch.series.hunks import Hunk, split

GIT = shutil.which("git")
SWAP = {b" ": b" ", b"-": b"+", b"+": b"-"}


def make_hunks(old: bytes, new: bytes, context: int = 3) -> tuple[Hunk, ...]:
    """Return the hunks that turn ``old`` into ``new``, as ``git diff`` would group them."""
    before, after = split(old), split(new)
    hunks = []
    for group in difflib.SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(context):
        lines: list[tuple[bytes, bytes]] = []
        for code, i1, i2, j1, j2 in group:
            if code == "equal":
                lines += [(b" ", line) for line in before[i1:i2]]
            else:
                lines += [(b"-", line) for line in before[i1:i2]]
                lines += [(b"+", line) for line in after[j1:j2]]
        i1, i2, j1, j2 = group[0][1], group[-1][2], group[0][3], group[-1][4]
        hunks.append(Hunk(i1 + (i2 > i1), i2 - i1, j1 + (j2 > j1), j2 - j1, tuple(lines)))
    return tuple(hunks)


def reverse(hunks: Sequence[Hunk]) -> tuple[Hunk, ...]:
    """Return the hunks that undo ``hunks``."""
    return tuple(
        Hunk(
            hunk.new_start,
            hunk.new_count,
            hunk.old_start,
            hunk.old_count,
            tuple((SWAP[tag], line) for tag, line in hunk.lines),
            hunk.section,
        )
        for hunk in hunks
    )


def moved(hunk: Hunk, by: int) -> Hunk:
    return replace(hunk, old_start=hunk.old_start + by, new_start=hunk.new_start + by)


def modify(path: str, hunks: Sequence[Hunk]) -> FileDiff:
    return FileDiff(path, Kind.MODIFY, None, None, "", "", tuple(hunks))


def _environment(ceiling: Path) -> dict[str, str]:
    # No configuration, and no repository except the named one.
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(ceiling),
    }


def git_diff(
    folder: Path,
    old: Mapping[str, tuple[bytes, int]],
    new: Mapping[str, tuple[bytes, int]],
    *,
    quote_path: bool = True,
) -> bytes:
    """Return the output of ``git diff --full-index`` between two trees of path -> (content, mode)."""
    assert GIT is not None
    environment = _environment(folder)
    for side, files in (("old", old), ("new", new)):
        (folder / side).mkdir()
        for path, (content, mode) in files.items():
            (folder / side / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / side / path).write_bytes(content)
            (folder / side / path).chmod(mode)

    def git(side: str, *command: str) -> bytes:
        where = ["--git-dir", str(folder / "repository"), "--work-tree", str(folder / side)]
        return subprocess.run(
            [GIT, *where, *command], cwd=folder / side, env=environment, check=True, stdout=subprocess.PIPE
        ).stdout

    git("old", "init", "--quiet")
    git("old", "config", "core.bare", "false")
    git("old", "add", "--all")
    git("new", "add", "--intent-to-add", "--ignore-removal", ".")
    quoting = f"core.quotePath={str(quote_path).lower()}"
    return git("new", "-c", quoting, "diff", "--full-index", "--text", "--no-renames")


def git_apply(folder: Path, path: str, original: bytes, patch: bytes) -> bytes | None:
    """Return the result of ``git apply`` on one file, without a repository; None if it refuses."""
    assert GIT is not None
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(original)
    run = subprocess.run(
        [GIT, "apply", "--whitespace=nowarn", "-"],
        cwd=folder,
        env=_environment(folder) | {"GIT_DIR": os.devnull},
        input=patch,
        capture_output=True,
        check=False,
    )
    if run.returncode:
        return None
    return target.read_bytes() if target.exists() else b""

"""A patch kept as sources: its diff is what git would write, and yields the same sources again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaudi_patch.disk import sha256
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.series import patch_files
from gaudi_patch.series.manifest import default_directory, load

BUILT_IN = default_directory()


CONTENT = st.binary(max_size=60) | st.sampled_from([b"", b"\n", b"x", b"a\nb", b"a\r\nb\r\n", b"\x0c\xe9\n"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["p/__init__.py", "p/a.py", "p/a_b.py", "p/B.py", "p/q/z.py"]), CONTENT))
def test_the_diff_comes_back_as_the_same_sources(files: dict[str, bytes]) -> None:
    if not files:
        return
    data = patch_files.creating(files)
    assert patch_files.created(data, "runtime") == files
    assert patch_files.creating(dict(reversed(files.items()))) == data


def test_the_diff_is_what_git_writes(tmp_path: Path) -> None:
    files = {
        "p/b.py": b"one\ntwo\n",
        "p/B.py": b"no newline",
        "p/__init__.py": b"",
        "p/q/crlf.py": b"a\r\n\n",
        "p/q.py": b"q\n",
    }
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    git = ["git", "-c", "core.autocrlf=false", "-c", "user.name=x", "-c", "user.email=x"]

    def run(*arguments: str) -> bytes:
        return subprocess.run([*git, *arguments], cwd=tmp_path, capture_output=True, check=True).stdout

    run("init", "--quiet")
    run("add", "--all")
    written = run("diff", "--cached", "--full-index", "--no-color")
    assert patch_files.creating(patch_files.sources(tmp_path)) == written


def test_the_sources_are_what_the_patch_of_the_runtime_creates() -> None:
    """Source and diff agree, and the lock has the hashes of both."""
    manifest = load()
    data = manifest.patch_bytes("runtime")
    files = patch_files.sources(BUILT_IN / "runtime")
    assert patch_files.created(data, "runtime") == files
    assert len(files) > 10
    for series in manifest.series:
        locked = {path: one for path, one in series.files.items() if path.startswith("lmcache/gaudi/")}
        assert {path: one.after for path, one in locked.items()} == {path: sha256(one) for path, one in files.items()}
        assert {one.before for one in locked.values()} == {None}


def test_what_tools_leave_beside_the_sources_is_no_part_of_the_patch(tmp_path: Path) -> None:
    (tmp_path / "runtime/p/__pycache__").mkdir(parents=True)
    (tmp_path / "runtime/p/a.py").write_bytes(b"x\n")
    before = patch_files.read(tmp_path, "runtime")
    (tmp_path / "runtime/p/__pycache__/a.cpython-311.pyc").write_bytes(b"\0")
    (tmp_path / "runtime/p/a.py~").write_bytes(b"old\n")
    assert patch_files.read(tmp_path, "runtime") == before


def test_a_missing_directory_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(GaudiPatchError, match="cannot be read: No such directory"):
        patch_files.read(tmp_path, "runtime")


@pytest.mark.parametrize("path", ["lmcache/a.py", "lmcache/data.txt"])
def test_a_diff_that_does_more_than_create_modules_cannot_be_kept_as_sources(path: str) -> None:
    data = patch_files.creating({path: b"x\n"})
    if path.endswith(".py"):
        modified = data.replace(b"new file mode 100644\n", b"").replace(b"--- /dev/null", b"--- a/lmcache/a.py")
        data = modified.replace(b"@@ -0,0 +1 @@", b"@@ -1 +1,2 @@\n y")
        data = data.replace(b"index " + b"0" * 40, b"index " + b"1" * 40)
    with pytest.raises(GaudiPatchError, match=r"may only create \.py files"):
        patch_files.created(data, "runtime")

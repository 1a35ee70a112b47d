"""A target that is itself a mount, as ``docker run -v FILE:FILE`` makes it: reported before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.engine import guard
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import tiny
from tests.support.cli import command, environment
from tests.support.tiny import Tiny, tree

#: gaudi-patch where /proc is not mounted, or hides the mounts of a container.
WITHOUT_THE_TABLE = """
import pathlib, sys
from gaudi_patch.cli import main
from gaudi_patch.engine import guard
guard.mount_points.__defaults__ = (pathlib.Path("/nonexistent/mountinfo"),)
sys.exit(main())
"""


def can_mount() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return os.geteuid() == 0 and done.returncode == 0


def arguments(target: Tiny) -> list[str]:
    manifest = target.manifest.directory
    return ["apply", "--path", str(target.site), "--manifest", str(manifest), "--json", "--no-smoke"]


def mounted(source: Path, file: Path, run: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a mount namespace in which ``source`` is mounted on ``file``."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(source), str(file), *run],
        capture_output=True,
        env=environment(),
        check=False,
    )


def test_the_table_of_mounts_is_read_with_its_escapes(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n"
        b"99 22 254:0 /host/a\\040b.py /site/a\\040b\\134c.py rw - overlay over\\040lay rw\n"
        b"damaged line\n"
    )
    assert guard.mount_points(table) == {
        "/": "/ of /dev/vda, ext4",
        "/site/a b\\c.py": "/host/a b.py of over lay, overlay",
    }
    assert guard.mount_points(tmp_path / "none") == {}


@pytest.mark.parametrize("where", ["lmcache/engine.py", "lmcache/gaudi"])
def test_a_mount_is_refused_before_anything_is_written(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file to replace, or a directory to remove."""
    target = tiny.make(tmp_path)
    if where == "lmcache/gaudi":
        target.apply()
    before = tree(target.site, times=True)
    monkeypatch.setattr(guard, "mount_points", lambda: {str(target.site / where): "/x of /dev/vda, ext4"})
    verbs = [target.rollback] if where == "lmcache/gaudi" else [target.apply, lambda: target.apply(dry_run=True)]
    for verb in verbs:
        with pytest.raises(GaudiPatchError) as caught:
            verb()
        assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "mounted-file")
        assert caught.value.file == str(target.site / where)
        assert caught.value.message.startswith("is a separate mount (/x of /dev/vda, ext4), ")
        assert caught.value.message.endswith("; nothing was changed")
        assert "start the container without this mount (-v FILE:FILE)" in caught.value.hint
    assert tree(target.site, times=True) == before


@pytest.mark.skipif(not can_mount(), reason="only root, where it may make a mount namespace, can mount a file")
@pytest.mark.parametrize("option", [["--dry-run"], []])
def test_a_real_mount_is_named_by_dry_run_and_apply(option: list[str], tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    engine = target.site / "lmcache/engine.py"
    source = tmp_path / "engine.py"
    source.write_bytes(engine.read_bytes())
    before = tree(target.site)
    done = mounted(source, engine, command(*arguments(target), *option))
    assert done.returncode == Exit.ENVIRONMENT, done
    (error,) = json.loads(done.stdout)["errors"]
    assert (error["code"], error["file"]) == ("mounted-file", str(engine))
    assert tree(target.site) == before


@pytest.mark.skipif(not can_mount(), reason="only root, where it may make a mount namespace, can mount a file")
def test_without_a_table_of_mounts_the_error_names_the_mount_and_everything_is_restored(tmp_path: Path) -> None:
    """The replacement then fails: the error is about the target, not about the temporary file beside it."""
    target = tiny.make(tmp_path)
    engine = target.site / "lmcache/engine.py"
    source = tmp_path / "engine.py"
    source.write_bytes(engine.read_bytes())
    before = tree(target.site)
    done = mounted(source, engine, [sys.executable, "-c", WITHOUT_THE_TABLE, *arguments(target)])
    assert done.returncode == Exit.ENVIRONMENT, done
    (error,) = json.loads(done.stdout)["errors"]
    assert (error["code"], error["file"]) == ("ebusy", str(engine))
    assert error["message"].endswith("; all changes were undone")
    assert "a file that is itself a mount" in error["hint"]
    assert tree(target.site) == before

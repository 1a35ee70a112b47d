"""A target that is itself a mount, as ``docker run -v FILE:FILE`` makes it: reported before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.engine import guard
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import tiny
from tests.support.cli import command, environment
from tests.support.tiny import tree


def can_mount() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return os.geteuid() == 0 and done.returncode == 0


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
        assert "/x of /dev/vda" in caught.value.message
    assert tree(target.site, times=True) == before


@pytest.mark.skipif(not can_mount(), reason="only root, where it may make a mount namespace, can mount a file")
@pytest.mark.parametrize("option", [["--dry-run"], []])
def test_a_real_mount_is_named_by_dry_run_and_apply(option: list[str], tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    engine = target.site / "lmcache/engine.py"
    source = tmp_path / "engine.py"
    source.write_bytes(engine.read_bytes())
    before = tree(target.site)
    run = command(
        "apply", "--path", target.site, "--manifest", target.manifest.directory, "--json", "--no-smoke", *option
    )
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(source), str(engine), *run],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == Exit.ENVIRONMENT, done
    (error,) = json.loads(done.stdout)["errors"]
    assert (error["code"], error["file"]) == ("mounted-file", str(engine))
    assert tree(target.site) == before

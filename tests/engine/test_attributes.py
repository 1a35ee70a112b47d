"""ACL and extended attributes: a file keeps the original's before and after, and inherits none from its directory."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from gaudi_patch.attributes import ACL
from gaudi_patch.disk import Disk, FileImage, read_image
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.transactions import Hook, _raise, at
from tests.support import tiny
from tests.support.faults import KILLED, KillAt, Recorder, in_child
from tests.support.tiny import Tiny

DEFAULT = "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
NOBODY = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL in the kernel's format: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def named_user(user: int, bits: int, others: int = 0) -> bytes:
    return acl(
        (USER_OBJ, 6, NOBODY), (USER, bits, user), (GROUP_OBJ, 4, NOBODY), (MASK, 4, NOBODY), (OTHER, others, NOBODY)
    )


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    made = tiny.make(tmp_path)
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    try:
        os.setxattr(probe, ACL, named_user(1234, 4))
        os.setxattr(probe, "user.probe", b"x")
    except OSError as error:
        pytest.skip(f"this file system keeps no ACL or no extended attributes: {error}")
    return made


def attributes(site: Path) -> dict[str, dict[str, bytes]]:
    """Return the attributes of each path below ``site``, except those of SELinux."""
    return {
        path.relative_to(site).as_posix(): {
            name: os.getxattr(path, name)
            for name in os.listxattr(path)
            if name.startswith("user.") or "posix_acl" in name
        }
        for path in sorted(site.rglob("*"))
    }


def test_a_default_acl_adds_nothing_to_replaced_files(target: Tiny) -> None:
    """A 0640 file stays unreadable to the user named in the directory's default ACL."""
    for directory in [target.site, *(path for path in target.site.rglob("*") if path.is_dir())]:
        os.setxattr(directory, DEFAULT, named_user(1234, 7, 5))
    engine = target.site / "lmcache/engine.py"
    engine.chmod(0o640)
    before = attributes(target.site)
    assert target.apply().exit is Exit.OK
    applied = attributes(target.site)
    assert [name for name in applied if ACL in applied[name] and (target.site / name).is_file()] == []
    assert stat.S_IMODE(engine.stat().st_mode) == 0o640
    assert target.rollback().exit is Exit.OK
    assert attributes(target.site) == before
    assert stat.S_IMODE(engine.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["lmcache/engine.py", "lmcache/v1/old.py"])
def test_acl_and_attributes_of_a_file_are_those_before_after_a_rollback(name: str, target: Tiny) -> None:
    """A changed file also keeps them while patched; the series deletes old.py."""
    file = target.site / name
    os.setxattr(file, ACL, named_user(1234, 4))
    os.setxattr(file, "user.label", b"\x00gaudi")
    before, mode = attributes(target.site), file.stat().st_mode
    assert target.apply().exit is Exit.OK
    if file.exists():
        assert attributes(target.site)[name] == before[name]
    assert target.rollback().exit is Exit.OK
    assert attributes(target.site) == before
    assert file.stat().st_mode == mode


@pytest.mark.parametrize("killed", [False, True])
def test_acl_and_attributes_come_back_with_an_undo(killed: bool, target: Tiny) -> None:
    """Both after an error in this process, and after a kill that leaves only the journal."""
    for name in ("lmcache/engine.py", "lmcache/v1/old.py"):
        os.setxattr(target.site / name, ACL, named_user(1234, 4))
        os.setxattr(target.site / name, "user.label", b"gaudi")
    before = attributes(target.site)
    if killed:
        recorder = Recorder()
        target.apply(recorder)
        target.rollback()
        commit = recorder.calls.index(("unlink", target.home / "journal.json"))
        assert in_child(lambda: target.apply(KillAt(commit))) == KILLED
        target.rollback()
    else:
        with pytest.raises((OSError, GaudiPatchError)):
            target.apply(Hook("fsync-dir", at(target.site / "lmcache"), _raise(OSError(5, "I/O"))))
    assert attributes(target.site) == before


def test_a_read_only_file_keeps_its_attributes(target: Tiny) -> None:
    file = target.site / "lmcache/engine.py"
    os.setxattr(file, "user.label", b"gaudi")
    file.chmod(0o444)
    target.apply()
    assert os.getxattr(file, "user.label") == b"gaudi"
    assert stat.S_IMODE(file.stat().st_mode) == 0o444


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file capabilities")
def test_capabilities_are_not_handed_to_new_content(target: Tiny) -> None:
    """Capabilities were granted to the old bytes only."""
    file = target.site / "lmcache/tool.sh"
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    try:
        os.setxattr(file, "security.capability", capability)
    except OSError as error:
        pytest.skip(f"no file capabilities here: {error}")
    target.apply()
    assert "security.capability" not in os.listxattr(file)


def test_a_new_file_has_the_mode_and_attributes_of_its_image_alone(target: Tiny, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    os.setxattr(directory, DEFAULT, named_user(1234, 7, 7))
    image = FileImage(b"x", 0o640, attributes=(("user.a", b"1"),))
    Disk().write_new(directory / "plain", image)
    assert (read_image(directory / "plain") or image)._replace(mtime_ns=None, owner=None) == image
    listed = image._replace(attributes=((ACL, named_user(1, 4)), ("user.a", b"1")))
    Disk().write_new(directory / "listed", listed)
    assert (read_image(directory / "listed") or image)._replace(mtime_ns=None, owner=None) == listed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_copy_of_a_private_file_is_no_less_private(tmp_path: Path) -> None:
    """The package's owner can read neither its backup nor the undo file of a killed run."""
    target = tiny.make(tmp_path)
    for path in [target.site, *target.site.rglob("*")]:
        os.chown(path, 1234, 1234)
    engine = target.site / "lmcache/engine.py"
    os.chown(engine, 0, 0)
    engine.chmod(0o600)
    content = engine.read_bytes()
    recorder = Recorder()
    target.apply(recorder)
    copies = [path for path in target.state_dir.rglob("*") if path.is_file() and path.read_bytes() == content]
    assert [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in copies] == [(0, 0o600)]
    target.rollback()
    commit = recorder.calls.index(("unlink", target.home / "journal.json"))
    assert in_child(lambda: target.apply(KillAt(commit))) == KILLED
    undo = (target.home / "undo").stat()
    assert (undo.st_uid, stat.S_IMODE(undo.st_mode)) == (0, 0o600)
    target.rollback()
    assert (engine.stat().st_uid, stat.S_IMODE(engine.stat().st_mode)) == (0, 0o600)

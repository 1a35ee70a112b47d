"""Targets whose owner means harm: links, forged files, FIFOs, devices, huge and deep files, odd names.

Each case is a function that spoils a target. ``victim`` is what nothing may touch; ``SECRET`` what nothing may copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.tiny import Tiny

#: Stands in files that the target's owner may not read.
SECRET = b"the-secret-of-the-victim"
#: What the owner of the target puts in its place.
EVIL = b"evil\n"

Spoil = Callable[[Tiny, Path], None]


class Case(NamedTuple):
    """``applied``: the series is applied before; ``exits`` are those that apply and rollback may have, None for any."""

    name: str
    spoil: Spoil
    applied: bool
    exits: frozenset[int] | None


CASES: list[Case] = []


def case(*exits: int, applied: bool = False) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        CASES.append(Case(spoil.__name__, spoil, applied, frozenset(exits) or None))
        return spoil

    return add


def make_victim(folder: Path) -> Path:
    """Return what lies beside the target, and belongs to somebody else."""
    victim = folder / "victim"
    (victim / "emptydir").mkdir(parents=True)
    (victim / "cache").mkdir()
    for name, data in {
        "passwd": b"root:x:0:0\n",
        "secret": SECRET,
        "deleteme": b"keep me\n",
        "journal.json": b"{}",
        "state.json": b"{}",
        "undo": b"u",
        "cache/engine.cpython-311.pyc": SECRET,
        "cache/kernels.py": b"keep me\n",
        "engine.py": b"def device():\n    return 'cuda'\n",
    }.items():
        (victim / name).write_bytes(data)
    (victim / "secret").chmod(0o600)
    (victim / "cache/engine.cpython-311.pyc").chmod(0o600)
    return victim


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all of ``folder``: kind, mode, owner, times, links, content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        about = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_ino)
        found[str(path.relative_to(folder))] = (*about, data)
    return found


def replaced_by_link(path: Path, target: Path | str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def replaced_by_fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def saved(data: bytes, mode: str = "0644", link: str | None = None) -> dict[str, Any]:
    return {"sha256": digest(data), "mode": mode, "mtime_ns": None, "owner": [0, 0], "link": link}


def forge_journal(target: Tiny, text: str | bytes | None = None, undo: bytes = EVIL, **changes: Any) -> None:
    """A journal of a killed run that puts ``EVIL`` into engine.py, with ``changes``."""
    target.home.mkdir(exist_ok=True)
    (target.home / "undo").write_bytes(undo)
    engine = (target.site / "lmcache/engine.py").read_bytes()
    entry = {
        "path": "lmcache/engine.py",
        "before": saved(EVIL),
        "after": saved(engine),
        "temp": "lmcache/.gaudi-patch-1-0.tmp",
        "undo": [0, len(EVIL)],
        "volatile": False,
    }
    entry |= changes.pop("entry", {})
    document = {
        "schema_version": 1, "verb": "apply", "phase": "replacing", "pid": 1, "created": [], "removed": [],
        "entries": [entry],
    } | changes  # fmt: skip
    data = json.dumps(document) if text is None else text
    (target.home / "journal.json").write_bytes(data if isinstance(data, bytes) else data.encode())


def forge_state(target: Tiny, **changes: Any) -> dict[str, Any]:
    """Return the state of the applied series, with ``changes``; a backup holds ``EVIL``."""
    file = target.state_dir / "state.json"
    document: dict[str, Any] = json.loads(file.read_bytes()) | changes
    (target.state_dir / "backup" / digest(EVIL)).write_bytes(EVIL)
    file.write_text(json.dumps(document))
    return document


def up(target: Tiny, path: Path) -> str:
    """``path`` as a relative path that climbs out of the target."""
    return os.path.relpath(path, target.site)


# Links


@case(1)
def journal_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.home, victim)


@case(1)
def journal_directory_is_a_link_to_an_empty_directory(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.home, victim / "emptydir")


@case(1)
def state_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.state_dir, victim)


@case(1, applied=True)
def state_directory_is_a_link_to_its_own_copy_outside(target: Tiny, victim: Path) -> None:
    """A whole state, in a place that is not ours: a rollback would delete there."""
    os.utime(victim, (1, 1))
    copy = target.site.parent / "copy-of-state"
    shutil.copytree(target.state_dir, copy)
    replaced_by_link(target.state_dir, copy)


@case(1, applied=True)
def backup_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.state_dir / "backup", victim)


@case(1, applied=True)
def state_file_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.state_dir / "state.json", victim / "state.json")


@case(1)
def journal_file_is_a_link(target: Tiny, victim: Path) -> None:
    target.home.mkdir()
    replaced_by_link(target.home / "journal.json", victim / "journal.json")


@case(6, 1)
def undo_file_is_a_link(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"before": saved(SECRET), "undo": [0, len(SECRET)]})
    replaced_by_link(target.home / "undo", victim / "secret")


@case(0, 1)
def record_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    """In an image the link leads nowhere, and there is no RECORD."""
    replaced_by_link(target.record, victim / "secret")


@case(1)
def bytecode_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/__pycache__", victim / "cache")


@case(1)
def bytecode_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    cached = target.site / "lmcache/__pycache__/engine.cpython-311.pyc"
    replaced_by_link(cached, victim / "secret")


@case(1)
def directory_of_targets_is_a_link(target: Tiny, victim: Path) -> None:
    copy = target.site.parent / "copy-of-v1"
    shutil.move(target.site / "lmcache/v1", copy)
    replaced_by_link(target.site / "lmcache/v1", copy)


@case(1)
def directory_to_make_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/gaudi", victim / "cache")


@case(1, applied=True)
def directory_to_remove_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/gaudi", victim / "emptydir")


@case(1)
def target_is_a_link_to_another_file(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/engine.py", victim / "passwd")


@case(0, 1)
def target_is_a_link_to_its_own_bytes(target: Tiny, victim: Path) -> None:
    """As uv installs it: a private file takes the link's place, what it leads to is not touched.

    In an image the link leads nowhere, and is refused.
    """
    replaced_by_link(target.site / "lmcache/engine.py", victim / "engine.py")


@case(0)
def target_is_a_hard_link(target: Tiny, victim: Path) -> None:
    engine = target.site / "lmcache/engine.py"
    engine.unlink()
    os.link(victim / "engine.py", engine)


@case()
def package_is_a_link(target: Tiny, victim: Path) -> None:
    copy = target.site.parent / "copy-of-package"
    shutil.move(target.site / "lmcache", copy)
    replaced_by_link(target.site / "lmcache", copy)


@case()
def metadata_directory_is_a_link(target: Tiny, victim: Path) -> None:
    copy = target.site.parent / "copy-of-info"
    shutil.move(target.dist_info, copy)
    replaced_by_link(target.dist_info, copy)


@case()
def metadata_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.dist_info / "METADATA", victim / "secret")


@case(1, 4)
def directories_are_links_in_a_circle(target: Tiny, victim: Path) -> None:
    shutil.rmtree(target.site / "lmcache/v1")
    replaced_by_link(target.site / "lmcache/v1", "v2")
    replaced_by_link(target.site / "lmcache/v2", "v1")


@case(1, 6, applied=True)
def backup_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    backup = target.state_dir / "backup" / digest(target.pristine["lmcache/engine.py"])
    replaced_by_link(backup, victim / "secret")


# Forged journals


@case(6)
def journal_names_an_absolute_path(target: Tiny, victim: Path) -> None:
    changes = {"path": f"{victim}/passwd", "temp": f"{victim}/.gaudi-patch-1-0.tmp", "after": saved(b"root:x:0:0\n")}
    forge_journal(target, entry=changes)


@case(6)
def journal_climbs_out(target: Tiny, victim: Path) -> None:
    changes = {"path": up(target, victim / "deleteme"), "before": None, "after": None, "undo": None}
    forge_journal(target, entry={**changes, "temp": up(target, victim / ".gaudi-patch-1-0.tmp"), "volatile": True})


@case(6)
def journal_has_another_temporary_file(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"temp": f"{victim}/deleteme"})


@case(6)
def journal_removes_a_source_as_its_temporary_file(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"temp": "lmcache/untouched.py"})


@case(6)
def journal_created_a_directory_outside(target: Tiny, victim: Path) -> None:
    forge_journal(target, created=[str(victim / "emptydir")])


@case(6)
def journal_removed_a_directory_outside(target: Tiny, victim: Path) -> None:
    forge_journal(target, removed=[[f"{victim}/made", "6777"]])


@case()
def journal_gives_a_set_id_mode(target: Tiny, victim: Path) -> None:
    """Into the package itself: written, but with no bit that the file has not."""
    forge_journal(target, entry={"before": saved(EVIL, "6755")})


@case()
def journal_plants_a_link(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"before": saved(EVIL, link=str(victim / "secret"))})


@case(6)
def journal_says_a_source_is_bytecode_of_the_state(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"path": f"{target.dist_info.name}/METADATA"})


@case(6)
def journal_has_a_nul(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"path": "lmcache/a\0.py"})


@case(6)
def journal_has_a_lone_surrogate(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"path": "lmcache/\ud800.py"})


@case(6)
def journal_is_deep(target: Tiny, victim: Path) -> None:
    forge_journal(target, "[" * 200_000)


@case(6)
def journal_has_huge_numbers(target: Tiny, victim: Path) -> None:
    forge_journal(target, '{"schema_version": ' + "9" * 10_000 + "}")


@case(6)
def journal_has_numbers_of_the_wrong_kind(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"undo": [0, 1e400]})


@case(6)
def journal_reads_before_the_undo_file(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"undo": [-5, 5]})


@case(6, 1)
def journal_is_endless(target: Tiny, victim: Path) -> None:
    target.home.mkdir()
    with (target.home / "journal.json").open("wb") as stream:
        stream.truncate(1 << 40)


@case(6)
def journal_has_very_many_entries(target: Tiny, victim: Path) -> None:
    """Linear in its size; each path is named twice, so that none is believed."""
    entry = json.dumps({"path": "lmcache/engine.py", "before": None, "after": None, "undo": None, "volatile": False})
    entry = entry[:-1] + ', "temp": "lmcache/.gaudi-patch-1-%d.tmp"}'
    entries = ",".join(entry % number for number in range(60_000))
    text = '{"schema_version": 1, "verb": "x", "phase": "replacing", "created": [], "removed": [], "entries": [%s]}'
    forge_journal(target, text % entries)


# Forged states


@case(6, applied=True)
def state_names_absolute_bytecode(target: Tiny, victim: Path) -> None:
    forge_state(target, bytecode={str(victim / "evil"): saved(EVIL, "6755")})


@case(6, applied=True)
def state_names_bytecode_that_climbs_out(target: Tiny, victim: Path) -> None:
    forge_state(target, bytecode={up(target, victim / "engine.cpython-311.pyc"): saved(EVIL)})


@case(6, applied=True)
def state_names_a_source_as_bytecode(target: Tiny, victim: Path) -> None:
    forge_state(target, bytecode={"lmcache/untouched.py": saved(EVIL)})


@case(6, applied=True)
def state_names_directories_outside(target: Tiny, victim: Path) -> None:
    forge_state(target, directories=[up(target, victim / "emptydir")])


@case(6, applied=True)
def state_names_files_outside(target: Tiny, victim: Path) -> None:
    file = {"before": saved(EVIL), "after": digest(b"root:x:0:0\n")}
    forge_state(target, files={up(target, victim / "passwd"): file})


@case(applied=True)
def state_gives_set_id_modes(target: Tiny, victim: Path) -> None:
    files = json.loads((target.state_dir / "state.json").read_bytes())["files"]
    for file in files.values():
        if file["before"]:
            file["before"] |= {"mode": "7777", "owner": [0, 0]}
    forge_state(target, files=files)


@case(applied=True)
def state_plants_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    files = json.loads((target.state_dir / "state.json").read_bytes())["files"]
    files["lmcache/engine.py"]["before"]["link"] = str(victim / "secret")
    forge_state(target, files=files)


@case(6, applied=True)
def state_has_very_many_files(target: Tiny, victim: Path) -> None:
    """Each with bytecode of its own, in one directory: more than any series has, and not believed."""
    nothing = {"before": None, "after": None}
    files = {f"lmcache/m{number}.py": nothing for number in range(20_000)}
    cached = [f"lmcache/__pycache__/m{number}.cpython-39.pyc" for number in range(20_000)]
    forge_state(target, files=files, bytecode={name: saved(EVIL) for name in cached}, compiled={})
    with target.record.open("ab") as stream:
        stream.write("".join(f"{name},,\r\n" for name in cached).encode())


@case(6, applied=True)
def state_is_deep(target: Tiny, victim: Path) -> None:
    (target.state_dir / "state.json").write_text('{"a":' * 100_000)


@case(6, applied=True)
def state_has_odd_texts(target: Tiny, victim: Path) -> None:
    forge_state(target, series="\ud800", version="\x00")


@case(6, applied=True)
def state_has_hashes_that_are_paths(target: Tiny, victim: Path) -> None:
    files = json.loads((target.state_dir / "state.json").read_bytes())["files"]
    files["lmcache/engine.py"]["before"]["sha256"] = str(victim / "secret")
    forge_state(target, files=files)


@case(1, 6, applied=True)
def state_is_huge(target: Tiny, victim: Path) -> None:
    with (target.state_dir / "state.json").open("ab") as stream:
        stream.truncate(1 << 40)


@case(applied=True)
def state_directory_holds_foreign_files(target: Tiny, victim: Path) -> None:
    (target.state_dir / "backup" / "theirs").write_bytes(b"keep me")
    (target.state_dir / "deep" / "er").mkdir(parents=True)


# What is no file


@case(1, applied=True)
def state_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.state_dir / "state.json")


@case(1)
def journal_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.home / "journal.json")


@case(1, 6)
def undo_is_a_fifo(target: Tiny, victim: Path) -> None:
    forge_journal(target)
    replaced_by_fifo(target.home / "undo")


@case(4)
def journal_directory_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.home)


@case(1, 6, applied=True)
def backup_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.state_dir / "backup" / digest(target.pristine["lmcache/engine.py"]))


@case(1)
def target_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.site / "lmcache/engine.py")


@case(1)
def bytecode_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.site / "lmcache/__pycache__/engine.cpython-311.pyc")


@case()
def record_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.record)


@case()
def metadata_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.dist_info / "METADATA")


@case()
def direct_url_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.dist_info / "direct_url.json")


@case()
def wheel_is_a_link_to_an_endless_device(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.dist_info / "WHEEL", "/dev/zero")


@case(1)
def target_is_a_link_to_an_endless_device(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/engine.py", "/dev/zero")


@case(1)
def target_is_a_device(target: Tiny, victim: Path) -> None:
    engine = target.site / "lmcache/engine.py"
    engine.unlink()
    try:
        os.mknod(engine, stat.S_IFCHR | 0o644, os.makedev(1, 5))
    except PermissionError:  # not root
        os.mkfifo(engine)


# Huge files and odd names


@case(1)
def target_is_huge(target: Tiny, victim: Path) -> None:
    with (target.site / "lmcache/engine.py").open("ab") as stream:
        stream.truncate(1 << 42)


@case(1)
def record_is_huge(target: Tiny, victim: Path) -> None:
    with target.record.open("ab") as stream:
        stream.truncate(1 << 42)


@case(1)
def bytecode_is_huge(target: Tiny, victim: Path) -> None:
    cached = target.site / "lmcache/__pycache__/engine.cpython-311.pyc"
    cached.parent.mkdir(exist_ok=True)
    with cached.open("ab") as stream:
        stream.truncate(1 << 42)


@case(0)
def names_are_odd(target: Tiny, victim: Path) -> None:
    """Files beside ours whose names no terminal should see."""
    cache = target.site / "lmcache/__pycache__"
    cache.mkdir(exist_ok=True)
    for name in (b"engine.\xff\x1b[31m.pyc", b"engine.a\nb.pyc", b"engine.\xe2\x80\xae.pyc", b"-rf", b"x" * 255):
        (cache / os.fsdecode(name)).write_bytes(b"odd")


@case(0)
def there_are_very_many_files(target: Tiny, victim: Path) -> None:
    cache = target.site / "lmcache/__pycache__"
    cache.mkdir(exist_ok=True)
    for number in range(20_000):
        (cache / f"other{number}.cpython-311.pyc").touch()

"""state.json and the backups beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.confined import Area, Bounds
from gaudi_patch.disk import FileImage, sha256
from gaudi_patch.engine import applied as state
from gaudi_patch.engine.applied import Applied, AppliedFile, Saved
from gaudi_patch.engine.guard import Ground
from gaudi_patch.errors import Exit, GaudiPatchError

SAVED = Saved(sha256(b"old"), 0o644, 123, (1, 2), attributes=(("user.label", b"\x00gaudi"),))
LINK = Saved(sha256(b"linked"), 0o600, None, None, "../cache/x")
NEW, CACHED, RECORD = sha256(b"new"), sha256(b"cached"), sha256(b"record")
APPLIED = Applied(
    package="lmcache",
    version="0.5.6",
    series="0.5.6",
    patches={"a.patch": "ab"},
    capabilities=("x",),
    files={
        "lmcache/a.py": AppliedFile(SAVED, NEW),
        "lmcache/b.py": AppliedFile(None, NEW),
        "lmcache/c.py": AppliedFile(LINK, None),
    },
    bytecode={"lmcache/__pycache__/a.cpython-311.pyc": SAVED._replace(sha256=CACHED)},
    record=SAVED._replace(sha256=RECORD),
    directories=("lmcache/gaudi",),
    applied_at="2026-01-01T00:00:00Z",
    tool="1.0",
    offset=True,
)


def ground(folder: Path) -> Ground:
    """Return the ground of a package below site; ``folder`` holds state and backups."""
    site, state_dir = folder / "site", folder / "state"
    areas = [Area(site, ("lmcache",), links=True), Area(folder, ("state",))]
    return Ground(site, "lmcache", state_dir, folder / "journal", Bounds(areas))


def put(folder: Path, data: bytes | dict[str, Any]) -> Path:
    (folder / "state").mkdir(exist_ok=True)
    file = folder / "state" / state.STATE_FILE
    file.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    put(tmp_path, APPLIED.to_bytes())
    assert state.load(ground(tmp_path)) == APPLIED
    assert json.loads(APPLIED.to_bytes())["schema_version"] == 1
    assert APPLIED.to_bytes() == (state.load(ground(tmp_path)) or APPLIED).to_bytes()


def test_nothing_applied_is_none(tmp_path: Path) -> None:
    assert state.load(ground(tmp_path)) is None
    assert state.load(ground(tmp_path / "nowhere")) is None


def test_backups_are_those_of_files_bytecode_and_record() -> None:
    assert APPLIED.backups() == {SAVED.sha256, LINK.sha256, CACHED, RECORD}
    assert APPLIED._replace(record=None).backups() == {SAVED.sha256, LINK.sha256, CACHED}


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        {"schema_version": "1"},
        {"files": []},
        {"files": {"a": {"before": {"sha256": "x"}, "after": None}}},
        {"files": {"a": None}},
        {"bytecode": None},
        {"directories": None},
        {"record": {"sha256": "x", "mode": "9", "mtime_ns": 0, "owner": None, "link": None}},
        *({key: ...} for key in json.loads(APPLIED.to_bytes())),
    ],
    ids=repr,
)
def test_damage_is_not_guessed_at(change: bytes | dict[str, Any], tmp_path: Path) -> None:
    """case_72: any key may be missing or have the wrong type."""
    if isinstance(change, bytes):
        file = put(tmp_path, change)
    else:
        document = json.loads(APPLIED.to_bytes()) | change
        file = put(tmp_path, {key: value for key, value in document.items() if value is not ...})
    with pytest.raises(GaudiPatchError) as caught:
        state.load(ground(tmp_path))
    assert (caught.value.exit, caught.value.code, caught.value.file) == (Exit.HUMAN, "state-damaged", str(file))


def test_a_newer_schema_names_who_wrote_it(tmp_path: Path) -> None:
    """case_71"""
    put(tmp_path, {"schema_version": 2, "gaudi_patch": "9.1"})
    with pytest.raises(GaudiPatchError) as caught:
        state.load(ground(tmp_path))
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "state-newer")
    assert "9.1" in caught.value.hint


def test_a_backup_is_held_against_its_hash(tmp_path: Path) -> None:
    """case_72: a backup must match the hash in its name."""
    (tmp_path / "state" / state.BACKUPS).mkdir(parents=True)
    backup = tmp_path / "state" / state.BACKUPS / SAVED.sha256
    with pytest.raises(GaudiPatchError, match="missing"):
        state.restore(ground(tmp_path), SAVED, tmp_path / "site/lmcache/x")
    backup.write_bytes(b"new")
    with pytest.raises(GaudiPatchError, match="was changed"):
        state.restore(ground(tmp_path), SAVED, tmp_path / "site/lmcache/x")
    backup.write_bytes(b"old")
    assert state.restore(ground(tmp_path), SAVED, tmp_path / "site/lmcache/x") == FileImage(
        b"old", 0o644, 123, (1, 2), None, SAVED.attributes
    )


@pytest.mark.parametrize(("content", "link"), [(b"linked", "../cache/x"), (b"other", None), (None, None)])
def test_a_link_is_restored_where_it_leads_to_the_pristine_bytes(
    content: bytes | None, link: str | None, tmp_path: Path
) -> None:
    """case_15"""
    (tmp_path / "state" / state.BACKUPS).mkdir(parents=True)
    (tmp_path / "state" / state.BACKUPS / LINK.sha256).write_bytes(b"linked")
    (tmp_path / "site" / "cache").mkdir(parents=True)
    (tmp_path / "site" / "lmcache").mkdir()
    if content is not None:
        (tmp_path / "site" / "cache" / "x").write_bytes(content)
    assert state.restore(ground(tmp_path), LINK, tmp_path / "site/lmcache/x") == FileImage(
        b"linked", 0o600, None, None, link
    )

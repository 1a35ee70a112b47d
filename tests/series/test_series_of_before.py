"""Series applied before patches were named by topic: recognized, updated, rolled back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.engine import record
from tests.support import tiny
from tests.support.cli import gaudi_patch
from tests.support.tiny import tree

COMMIT = "4bbae9e"
REPOSITORY = Path(__file__).resolve().parents[2]
BEFORE: dict[str, Any] = json.loads(Path(__file__).with_name("series_of_4bbae9e.json").read_text())["series"]


def as_before(site: Path, patches: dict[str, str], **more: object) -> None:
    """Rewrite state.json, and its row in RECORD, in the old format, in which patches were named by release."""
    (file,) = site.glob("*.dist-info/gaudi-patch/state.json")
    old = file.read_bytes()
    document = json.loads(old)
    document["patches"] = patches
    document["gaudi_patch"] = "0.1.0"
    for name in set(document) - {
        *("schema_version", "package", "version", "series", "patches", "capabilities", "files", "bytecode", "record"),
        *("directories", "applied_at", "gaudi_patch", "offset"),
    }:
        del document[name]
    document.update(more)
    new = (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
    file.write_bytes(new)
    listed = file.parent.parent / "RECORD"
    rows = listed.read_bytes()
    entry, other = record.Entry.of(old), record.Entry.of(new)
    text = rows.decode().replace(f"{entry.digest},{entry.size}", f"{other.digest},{other.size}")
    assert text.encode() != rows
    listed.write_bytes(text.encode())


@pytest.mark.wheels
@pytest.mark.parametrize("version", ["0.5.6", "0.3.12", "0.3.10", "0.3.9"])
def test_a_real_release_patched_before_is_patched_now_and_rolled_back_to_the_byte(
    version: str, lmcache_wheel: Callable[..., Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(lmcache_wheel(version)) as archive:
        archive.extractall(site)
    pristine = tree(site)
    report = tmp_path / "attested.json"
    assert gaudi_patch("apply", "--path", site, "--no-smoke").code == 0
    as_before(site, BEFORE[version]["patches"])
    assert gaudi_patch("apply", "--path", site, "--no-smoke", "--report", report).code == 0
    attested = json.loads(report.read_bytes())
    assert {one["name"]: one["sha256"] for one in attested["patches"]} == BEFORE[version]["patches"]

    done = gaudi_patch("check", "--path", site, "--json")
    assert (done.code, done.json["data"]["state"]) == (0, "patched")  # not outdated
    assert gaudi_patch("check", "--path", site, "--against", report).code == 0
    assert gaudi_patch("rollback", "--path", site).code == 0
    assert tree(site) == pristine

    # Applied again, by patches with other names: the files are those of the attestation.
    assert gaudi_patch("apply", "--path", site, "--no-smoke").code == 0
    done = gaudi_patch("check", "--path", site, "--against", report)
    assert done.code == 0, done
    with (site / "lmcache/__init__.py").open("a") as stream:
        stream.write("# edited\n")
    assert gaudi_patch("check", "--path", site, "--against", report).code == 1


@pytest.fixture(scope="session")
def gaudi_patch_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the older source tree of gaudi-patch, from this repository's history."""
    command = ["git", "-C", str(REPOSITORY), "archive", COMMIT, "gaudi_patch", "patches"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no history here that has {COMMIT}: {done.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.wheels
@pytest.mark.parametrize("version", ["0.5.6", "0.3.9"])
def test_what_that_gaudi_patch_itself_applied_is_updated_and_rolled_back_to_the_byte(
    version: str, gaudi_patch_before: Path, lmcache_wheel: Callable[..., Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(lmcache_wheel(version)) as archive:
        archive.extractall(site)
    pristine = tree(site)
    command = [sys.executable, "-m", "gaudi_patch", "apply", "--path", str(site), "--no-smoke"]
    for update in (True, False):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(gaudi_patch_before)},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        (state,) = site.glob("*.dist-info/gaudi-patch/state.json")
        applied = json.loads(state.read_bytes())
        assert applied["patches"] == BEFORE[version]["patches"]
        files = {
            path: [one["before"] and one["before"]["sha256"], one["after"]] for path, one in applied["files"].items()
        }
        assert hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest() == BEFORE[version]["files_sha256"]
        if update:
            found = gaudi_patch("check", "--path", site, "--json")
            assert (found.code, found.json["data"]["state"]) == (10, "outdated")
            assert gaudi_patch("apply", "--path", site, "--no-smoke").code == 0
            assert gaudi_patch("check", "--path", site).code == 0
        assert gaudi_patch("rollback", "--path", site).code == 0
        assert tree(site) == pristine


def test_an_older_series_under_an_older_name_is_outdated_and_updated(tmp_path: Path) -> None:
    target = tiny.make(tmp_path / "old")
    pristine = tree(target.site)
    assert target.apply().data["changed"]
    as_before(target.site, {"0.5.6/route.patch": "0" * 64, "common/gaudi-runtime.patch": "1" * 64})
    newer = {**tiny.PATCHED, "lmcache/engine.py": b"def device():\n    return 'hpu:0'\n"}
    again = tiny.make(tmp_path / "new", patched=newer).at(target.site)
    assert again.check().data["state"] == "outdated"
    assert again.apply().data["changed"]
    assert (target.site / "lmcache/engine.py").read_bytes() == newer["lmcache/engine.py"]
    assert again.check().data["state"] == "patched"
    assert again.rollback().data["changed"]
    assert tree(target.site) == pristine


def test_a_series_under_an_older_name_is_not_outdated(tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    pristine = tree(target.site)
    target.apply()
    as_before(target.site, {"0.5.6/route.patch": "0" * 64})
    assert target.check().data["state"] == "patched"
    assert target.apply().data["changed"] is False
    assert target.rollback().data["changed"]
    assert tree(target.site) == pristine

"""The patched wheel: its contents, that each build is the same anywhere, and refusals."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.attestation import schema
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.wheel import archive as archives
from tests.support.cli import environment
from tests.support.fake_wheel import fake_wheel
from tests.support.patched_wheel import Release, record_faults
from tests.support.tiny import PATCHED, PRISTINE

INFO = "lmcache-0.5.6+gaudi.1.dist-info"


def contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_files_are_those_of_the_series_and_all_others_those_of_the_release(release: Release) -> None:
    found = contents(release.bytes())
    package = {name: data for name, data in found.items() if not name.startswith(INFO)}
    assert package == {name: data for name, data in {**PRISTINE, **PATCHED}.items() if data is not None}
    names = {name.removeprefix(f"{INFO}/") for name in found if name.startswith(INFO)}
    assert names == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "gaudi-patch/attestation.json",
        "gaudi-patch/SHA256SUMS",
        "sboms/gaudi-patch.cdx.json",
    }


def test_record_names_every_file_with_its_hash_and_size(release: Release, tmp_path: Path) -> None:
    release.build(tmp_path / "new.whl")
    assert record_faults(tmp_path / "new.whl") == []


def test_the_bit_of_a_script_is_set(release: Release, tmp_path: Path) -> None:
    release.build(tmp_path / "new.whl")
    with zipfile.ZipFile(tmp_path / "new.whl") as archive:
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in archive.infolist()}
    assert modes["lmcache/tool.sh"] == 0o755
    assert set(modes.values()) == {0o644, 0o755}


def test_the_attestation_inside_is_valid_and_says_where_it_came_from(release: Release) -> None:
    document = json.loads(
        contents(release.bytes(build=3))["lmcache-0.5.6+gaudi.3.dist-info/gaudi-patch/attestation.json"]
    )
    assert schema.faults(document) == []
    assert document["outcome"] == "built"
    assert document["package"]["version"] == "0.5.6+gaudi.3"
    assert document["release"] == {
        "version": "0.5.6",
        "wheel": release.wheel.name,
        "sha256": hashlib.sha256(release.wheel.read_bytes()).hexdigest(),
    }
    assert {one["path"]: one["after"] for one in document["files"]} == {
        path: hashlib.sha256(data).hexdigest() if data is not None else None for path, data in PATCHED.items()
    }


def test_the_checksums_inside_are_what_sha256sum_checks(release: Release, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(io.BytesIO(release.bytes())) as archive:
        archive.extractall(site)
    command = ["sha256sum", "--check", "--quiet", f"{INFO}/gaudi-patch/SHA256SUMS"]
    assert subprocess.run(command, cwd=site, check=False).returncode == 0
    (site / "lmcache" / "engine.py").write_bytes(PRISTINE["lmcache/engine.py"])
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "lmcache/engine.py" in done.stdout


@pytest.mark.parametrize("setting", [{}, {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}])
def test_the_same_release_gives_the_same_bytes_under_any_setting(
    release: Release, tmp_path: Path, setting: dict[str, str]
) -> None:
    elsewhere = tmp_path / "ein anderer Ort" / release.wheel.name
    elsewhere.parent.mkdir()
    shutil.copy(release.wheel, elsewhere)
    os.utime(elsewhere, (1, 1))
    elsewhere.chmod(0o600)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gaudi_patch", "wheel", str(elsewhere), "--out", str(out)]
    command += ["--manifest", str(release.manifest.directory)]
    done = subprocess.run(
        ["/bin/sh", "-c", 'umask 077; exec "$@"', "sh", *command],
        env=environment(**setting),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    assert built.read_bytes() == release.bytes()
    assert built.stat().st_mode & 0o777 == 0o644


def test_nothing_is_compressed_so_that_no_version_of_zlib_has_a_say(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = release.bytes()

    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("compressed")

    monkeypatch.setattr(zlib, "compressobj", refuse)
    monkeypatch.setattr(zlib, "compress", refuse)
    assert release.bytes() == expected


def test_source_date_epoch_makes_dates_earlier_and_never_later(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dates(epoch: str) -> set[tuple[int, ...]]:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        with zipfile.ZipFile(io.BytesIO(release.bytes())) as archive:
            return {info.date_time for info in archive.infolist()}

    assert dates("4000000000") == {(2020, 1, 1, 0, 0, 0)}  # the release's date
    assert dates("1000000000") == {(2001, 9, 9, 1, 46, 40)}
    assert dates("0") == {(1980, 1, 1, 0, 0, 0)}


def test_a_build_has_its_number_in_version_name_and_metadata(release: Release, tmp_path: Path) -> None:
    built = release.build(tmp_path / "new.whl", build=12)
    assert built.name.file == "lmcache-0.5.6+gaudi.12-py3-none-any.whl"
    found = contents((tmp_path / "new.whl").read_bytes())
    assert b"\nVersion: 0.5.6+gaudi.12\n" in found["lmcache-0.5.6+gaudi.12.dist-info/METADATA"]
    assert found["lmcache-0.5.6+gaudi.12.dist-info/WHEEL"].endswith(b"Tag: py3-none-any\n")


def changed(release: Release, edit: Callable[[dict[str, bytes]], object]) -> Release:
    """Return the release with a wheel whose files were changed without updating RECORD."""
    files = contents(release.wheel.read_bytes())
    edit(files)
    with zipfile.ZipFile(release.wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return release


RECORD = "lmcache-0.5.6.dist-info/RECORD"
TAMPERED: dict[str, Callable[[dict[str, bytes]], object]] = {
    "another byte in a file that the series leaves alone": lambda files: files.update({"lmcache/untouched.py": b"X\n"}),
    "a file that RECORD does not have": lambda files: files.update({"lmcache/extra.py": b""}),
    "a file of RECORD that is gone": lambda files: files.pop("lmcache/untouched.py"),
    "no RECORD": lambda files: files.pop(RECORD),
    "no METADATA": lambda files: files.pop("lmcache-0.5.6.dist-info/METADATA"),
    "a path that leads out": lambda files: files.update({"../evil.py": b""}),
    "an absolute path": lambda files: files.update({"/evil.py": b""}),
    "a path of Windows": lambda files: files.update({"lmcache\\evil.py": b""}),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_damaged_wheel_is_refused(what: str, release: Release) -> None:
    with pytest.raises(GaudiPatchError) as refused:
        changed(release, TAMPERED[what]).bytes()
    assert refused.value.code == "damaged-wheel"


def test_another_build_of_the_release_is_refused(release: Release) -> None:
    files = {**PRISTINE, "lmcache/engine.py": b"def device():\n    return 'cuda:0'\n"}
    wheel = fake_wheel(release.wheel.parent, "0.5.6", files)
    with pytest.raises(GaudiPatchError) as refused:
        Release(wheel, release.manifest).bytes()
    assert refused.value.code == "other-build"
    assert "lmcache/engine.py" in refused.value.message


def test_a_compiled_module_that_hides_a_patched_source_is_refused(release: Release) -> None:
    wheel = fake_wheel(release.wheel.parent, "0.5.6", {**PRISTINE, "lmcache/engine.cpython-311.so": b"\x7fELF"})
    with pytest.raises(GaudiPatchError) as refused:
        Release(wheel, release.manifest).bytes()
    assert refused.value.code == "compiled-module"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("lmcache-0.5.6+cu128-py3-none-any.whl", "local-version"),
        ("lmcache-9.9.9-py3-none-any.whl", "unknown-version"),
        ("vllm-0.5.6-py3-none-any.whl", "other-package"),
        ("lmcache.whl", "not-a-wheel"),
    ],
)
def test_a_wheel_of_something_else_is_refused(name: str, code: str, release: Release) -> None:
    with pytest.raises(GaudiPatchError) as refused:
        Release(release.wheel.rename(release.wheel.with_name(name)), release.manifest).bytes()
    assert refused.value.code == code


class Entry:
    """One entry of a zip, written by hand in a form that no library produces."""

    def __init__(self, name: bytes, data: bytes, **other: int) -> None:
        self.name, self.data, self.other = name, data, other


def zipped(path: Path, entry: Entry) -> Path:
    """Write a zip with one stored entry that has a false field."""
    packed = entry.data
    fields = {"method": 0, "flags": 0, "crc": zlib.crc32(entry.data), "size": len(packed), "unpacked": len(packed)}
    fields.update(entry.other)
    common = struct.pack(
        "<5H3L2H", 20, fields["flags"], fields["method"], 0, 33, fields["crc"], fields["size"], fields["unpacked"],
        len(entry.name), 0,
    )  # fmt: skip
    local = b"PK\3\4" + common + (b"x" * len(entry.name) if fields.get("other_name") else entry.name) + packed
    central = (
        b"PK\1\2" + struct.pack("<H", 0x314) + common + struct.pack("<3H2L", 0, 0, 0, fields.get("mode", 0) << 16, 0)
    )
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(central) + len(entry.name), len(local), 0)
    path.write_bytes(local + central + entry.name + end)
    return path


LIES: dict[str, Entry] = {
    "another checksum": Entry(b"a", b"text", crc=1),
    "another name in the local header": Entry(b"a", b"text", other_name=1),
    "compressed bytes that are none": Entry(b"a", b"\xff\xff\xff", method=8),
    "less than it says": Entry(b"a", b"text", unpacked=9),
    "more than it says": Entry(b"a", b"text", unpacked=2),
    "bytes behind the compressed ones": Entry(b"a", zlib.compress(b"x" * 99)[2:-4] + b"more", method=8, unpacked=99,
                                              crc=zlib.crc32(b"x" * 99)),
    "encrypted": Entry(b"a", b"text", flags=1),
    "compressed by bzip2": Entry(b"a", b"text", method=12),
    "a link": Entry(b"a", b"/etc/passwd", mode=0o120777),
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_an_archive_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.whl", LIES[what])
    with path.open("rb") as stream, pytest.raises(GaudiPatchError) as refused:
        archives.Archive(path, stream).read("a")
    assert refused.value.code == "damaged-wheel"


def test_an_honest_archive_of_the_same_kind_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.whl", Entry(b"a", b"text"))
    with path.open("rb") as stream:
        assert archives.Archive(path, stream).read("a") == b"text"
    path.write_bytes(b"no zip")
    with path.open("rb") as stream, pytest.raises(GaudiPatchError) as refused:
        archives.Archive(path, stream)
    assert refused.value.code == "damaged-wheel"

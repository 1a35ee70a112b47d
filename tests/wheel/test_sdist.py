"""The patched sdist: its contents, that each build is the same anywhere, and refusals."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.attestation import schema
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.wheel.build import BuildOptions, BuiltWheel
from gaudi_patch.wheel.sdist import build_sdist
from tests.support.cli import environment, gaudi_patch
from tests.support.fake_wheel import metadata
from tests.support.patched_wheel import Release
from tests.support.tiny import PATCHED, PRISTINE

ROOT, NEW = "lmcache-0.5.6", "lmcache-0.5.6+gaudi.1"
SOURCES = b"setup.py\nlmcache/engine.py\n"
ABOUT = {
    "PKG-INFO": metadata("0.5.6"),
    "setup.py": b"#!/usr/bin/env python\n",
    "lmcache.egg-info/PKG-INFO": metadata("0.5.6"),
    "lmcache.egg-info/SOURCES.txt": SOURCES,
}
FILES = {**ABOUT, **{name: data for name, data in PRISTINE.items() if data is not None}}
DATE = 1_600_000_000.75

Edit = Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return one entry of an archive, as a builder on someone's machine writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.uname, info.uid, info.mode = len(data), DATE, "runner", 1001, 0o664
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def make(folder: Path, edit: Edit = lambda entries: None) -> Path:
    """Write the tiny release's sdist."""
    entries = [member(ROOT, type=tarfile.DIRTYPE, mode=0o775)]
    entries += [
        member(f"{ROOT}/{name}", data, mode=0o775 if name in ("setup.py", "lmcache/tool.sh") else 0o664)
        for name, data in FILES.items()
    ]
    edit(entries)
    folder.mkdir(exist_ok=True)
    path = folder / f"{ROOT}.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return path


def build(release: Release, sdist: Path, **options: object) -> tuple[BuiltWheel, bytes]:
    stream = io.BytesIO()
    built = build_sdist(release.manifest, sdist, stream, BuildOptions(**options))  # type: ignore[arg-type]
    return built, stream.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    """Return the files, read with only gzip and tarfile."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        files = [info for info in archive.getmembers() if info.isfile()]
        assert len({info.name for info in files}) == len(files)
        return {info.name: archive.extractfile(info).read() for info in files}  # type: ignore[union-attr]


def test_the_files_are_those_of_the_series_and_all_others_those_of_the_release(
    release: Release, tmp_path: Path
) -> None:
    built, data = build(release, make(tmp_path))
    assert built.name.file == f"{NEW}.tar.gz"
    assert built.sha256 == hashlib.sha256(data).hexdigest()
    found = {name.removeprefix(f"{NEW}/"): file for name, file in contents(data).items()}
    after = {name: file for name, file in {**FILES, **PATCHED}.items() if file is not None}
    for name in ("PKG-INFO", "lmcache.egg-info/PKG-INFO"):
        assert b"\nVersion: 0.5.6+gaudi.1\n" in found[name]
        after[name] = found[name]
    added = sorted(set(after) - set(FILES))
    after["lmcache.egg-info/SOURCES.txt"] = SOURCES + "".join(f"{name}\n" for name in added).encode()
    own = {name for name in found if name.startswith("gaudi-patch/")}
    assert own == {"gaudi-patch/attestation.json", "gaudi-patch/SHA256SUMS", "gaudi-patch/sbom.cdx.json"}
    assert {name: file for name, file in found.items() if name not in own} == after


def test_the_attestation_inside_is_valid_and_says_where_it_came_from(release: Release, tmp_path: Path) -> None:
    sdist = make(tmp_path)
    document = json.loads(contents(build(release, sdist)[1])[f"{NEW}/gaudi-patch/attestation.json"])
    assert schema.faults(document) == []
    assert document["outcome"] == "built"
    assert document["release"] == {
        "version": "0.5.6",
        "wheel": sdist.name,
        "sha256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
    }


def test_nothing_of_the_machine_or_the_user_is_in_it_and_the_bit_of_a_script_is(
    release: Release, tmp_path: Path
) -> None:
    _, data = build(release, make(tmp_path))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        infos = archive.getmembers()
    assert {(info.uid, info.gid, info.uname, info.gname, info.mtime) for info in infos} == {(0, 0, "", "", int(DATE))}
    modes = {info.name.removeprefix(NEW).lstrip("/"): info.mode for info in infos}
    assert (modes[""], modes["setup.py"], modes["lmcache/tool.sh"], modes["PKG-INFO"]) == (0o755, 0o755, 0o755, 0o644)


@pytest.mark.parametrize("setting", [{"TZ": "Asia/Tokyo", "LC_ALL": "C"}, {"TZ": "UTC", "PYTHONHASHSEED": "7"}])
def test_another_machine_builds_the_same_bytes_without_any_compression(
    setting: dict[str, str], release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdist = make(tmp_path / "in")
    command = [sys.executable, "-m", "gaudi_patch", "wheel", str(sdist), "--out", str(tmp_path / "out")]
    command += ["--manifest", str(release.manifest.directory)]
    subprocess.run(
        ["/bin/sh", "-c", 'umask 077; exec "$@"', "sh", *command],
        env=environment(**setting),
        capture_output=True,
        check=True,
    )
    os.utime(sdist, (1, 1))

    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("compressed")

    monkeypatch.setattr(zlib, "compressobj", refuse)
    assert (tmp_path / "out" / f"{NEW}.tar.gz").read_bytes() == build(release, sdist)[1]


def test_source_date_epoch_makes_dates_earlier_and_never_later(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dates(epoch: str) -> set[float]:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        with tarfile.open(fileobj=io.BytesIO(build(release, make(tmp_path))[1])) as archive:
            return {info.mtime for info in archive.getmembers()}

    assert dates("4000000000") == {int(DATE)}
    assert dates("1000000000") == {1_000_000_000}


def test_the_command_writes_it_and_says_how_a_wheel_is_built_from_it(release: Release, tmp_path: Path) -> None:
    arguments = ("wheel", make(tmp_path / "in"), "--out", tmp_path / "out", "--manifest", release.manifest.directory)
    done = gaudi_patch(*arguments)
    assert done.code == 0, done
    assert f"pip wheel --no-deps --no-build-isolation {tmp_path / 'out' / NEW}.tar.gz" in done.out.replace("\n", " ")
    refused = gaudi_patch(*arguments, "--drop-cuda")
    assert (refused.code, "computed when it is built" in refused.err) == (1, True), refused


LIES: dict[str, Edit] = {
    "no PKG-INFO": lambda entries: entries.pop(1),
    "two entries of one name": lambda entries: entries.append(member(f"{ROOT}/setup.py")),
    "a link": lambda entries: entries.append(
        member(f"{ROOT}/x", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    ),
    "a hard link": lambda entries: entries.append(
        member(f"{ROOT}/x", type=tarfile.LNKTYPE, linkname=f"{ROOT}/setup.py")
    ),
    "a FIFO": lambda entries: entries.append(member(f"{ROOT}/x", type=tarfile.FIFOTYPE)),
    "a device": lambda entries: entries.append(member(f"{ROOT}/x", type=tarfile.CHRTYPE)),
    "a name that leads out": lambda entries: entries.append(member(f"{ROOT}/../x")),
    "an absolute name": lambda entries: entries.append(member("/x")),
    "a name beside the root": lambda entries: entries.append(member("other/x")),
    "a date before all others": lambda entries: entries.append(member(f"{ROOT}/x", mtime=-5.0)),
    "another version in its metadata": lambda entries: entries.__setitem__(
        1, member(f"{ROOT}/PKG-INFO", metadata("0.5.5"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_an_archive_that_no_release_is_is_refused(what: str, release: Release, tmp_path: Path) -> None:
    with pytest.raises(GaudiPatchError) as refused:
        build(release, make(tmp_path, LIES[what]))
    assert refused.value.code == "damaged-wheel"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data[:-8] + b"\0\0\0\0" + data[-4:], id="another checksum"),
        pytest.param(lambda data: b"no gzip", id="no gzip"),
        pytest.param(lambda data: gzip.compress(b"no tar" * 200), id="no tar"),
        pytest.param(lambda data: gzip.compress(gzip.decompress(data) + b"more"), id="bytes behind"),
    ],
)
def test_a_damaged_file_is_refused(broken: Callable[[bytes], bytes], release: Release, tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(GaudiPatchError) as refused:
        build(release, path)
    assert refused.value.code == "damaged-wheel"


def test_a_bomb_is_not_unpacked(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaudi_patch.wheel.sdist.MOST_UNPACKED", 50_000)
    path = make(tmp_path, lambda entries: entries.append(member(f"{ROOT}/x", bytes(60_000))))
    with pytest.raises(GaudiPatchError, match="more data than any release contains"):
        build(release, path)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("lmcache-0.5.6+cu128.tar.gz", "local-version"),
        ("lmcache-9.9.9.tar.gz", "unknown-version"),
        ("vllm-0.5.6.tar.gz", "other-package"),
        ("lmcache.tar.gz", "not-a-wheel"),
    ],
)
def test_an_sdist_of_something_else_is_refused(name: str, code: str, release: Release, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(GaudiPatchError) as refused:
        build(release, path.rename(path.with_name(name)))
    assert refused.value.code == code


def test_another_build_of_the_release_is_refused(release: Release, tmp_path: Path) -> None:
    def edit(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        number = next(n for n, (info, _) in enumerate(entries) if info.name == f"{ROOT}/lmcache/engine.py")
        entries[number] = member(f"{ROOT}/lmcache/engine.py", b"def device():\n    return 'cuda:0'\n")

    with pytest.raises(GaudiPatchError) as refused:
        build(release, make(tmp_path, edit))
    assert refused.value.code == "other-build"


def test_an_sdist_cannot_be_proved(release: Release, tmp_path: Path) -> None:
    manifest = ("--manifest", release.manifest.directory)
    done = gaudi_patch("wheel", make(tmp_path / "in"), "--out", tmp_path / "out", "--smoke", "imports", *manifest)
    assert (done.code, "build one from the sdist first" in done.err) == (2, True), done

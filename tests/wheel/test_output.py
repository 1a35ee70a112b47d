"""`wheel`: the files that it writes, those that it never replaces, and what remains after a failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaudi_patch.attestation import schema
from gaudi_patch.attestation.document import digest
from gaudi_patch.authoring import wheels
from gaudi_patch.commands.wheel import rendered
from gaudi_patch.disk import Disk
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.smoke import checks
from gaudi_patch.smoke.checks import SmokeOptions
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.wheel import prove as proving
from gaudi_patch.wheel import release as releases
from gaudi_patch.wheel.build import BuildOptions
from gaudi_patch.wheel.output import OutputOptions, write
from gaudi_patch.wheel.prove import WheelProof
from tests.support import output_schema
from tests.support.cli import gaudi_patch
from tests.support.fake_wheel import fake_wheel
from tests.support.patched_wheel import Release
from tests.support.tiny import PRISTINE

NAME = "lmcache-0.5.6+gaudi.1-py3-none-any.whl"


def test_the_command_writes_one_wheel_and_says_what_to_type_next(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("wheel", release.wheel, "--out", out, "--manifest", release.manifest.directory, "--report")
    done = gaudi_patch(*arguments, "--json")
    assert done.code == 0, done
    (built,) = done.json["data"]["wheels"]
    assert (built["path"], built["changed"], built["series"]) == (str(out / NAME), True, "0.5.6")
    assert (out / NAME).read_bytes() == release.bytes()
    assert sorted(path.name for path in out.iterdir()) == [
        NAME, f"{NAME}.attestation.json", f"{NAME}.cdx.json", f"{NAME}.intoto.json",
    ]  # fmt: skip
    text = gaudi_patch(*arguments)
    assert text.code == 0
    assert "already there, with the same bytes" in text.out
    assert f"--find-links {out} lmcache==0.5.6+gaudi.1" in text.out


def test_a_wheel_of_another_content_is_never_replaced(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(release.manifest, [release.wheel], OutputOptions(out))
    (out / NAME).write_bytes(b"other")
    with pytest.raises(GaudiPatchError) as refused:
        write(release.manifest, [release.wheel], OutputOptions(out))
    assert (refused.value.exit, refused.value.code) == (Exit.REFUSED, "exists")
    assert "--build" in refused.value.hint
    assert [path.name for path in out.iterdir()] == [NAME]
    assert (out / NAME).read_bytes() == b"other"


def test_nothing_is_written_where_one_of_several_cannot_be_built(release: Release, tmp_path: Path) -> None:
    other = fake_wheel(tmp_path / "other", "0.5.6", {**PRISTINE, "lmcache/engine.py": b""})
    out = tmp_path / "out"
    with pytest.raises(GaudiPatchError):
        write(release.manifest, [release.wheel, other], OutputOptions(out))
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("step", ["replace", "fsync-dir"])
def test_an_error_of_the_disk_is_one_of_the_environment_and_leaves_no_half_wheel(
    step: str, release: Release, tmp_path: Path
) -> None:
    class Full(Disk):
        def step(self, name: str, path: Path) -> None:
            if name == step:
                raise OSError(28, "No space left on device", str(path))

    out = tmp_path / "out"
    with pytest.raises(GaudiPatchError) as failed:
        write(release.manifest, [release.wheel], OutputOptions(out, disk=Full()))
    assert failed.value.exit is Exit.ENVIRONMENT
    assert all(path.read_bytes() == release.bytes() for path in out.iterdir())


def test_a_wheel_that_reads_back_otherwise_is_not_called_built(release: Release, tmp_path: Path) -> None:
    class Lossy(Disk):
        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            target.write_bytes(target.read_bytes()[:-1])

    with pytest.raises(GaudiPatchError) as failed:
        write(release.manifest, [release.wheel], OutputOptions(tmp_path / "out", disk=Lossy()))
    assert failed.value.code == "verify-failed"


def proved(monkeypatch: pytest.MonkeyPatch, status: str) -> OutputOptions:
    levels = (LevelResult("kernels", status, "2 cases", 1.25, "emulated", "lazy", 2),)

    def run(*_: object) -> WheelProof:
        fault = checks.fault_of(levels, SmokeOptions())
        if fault is not None:
            raise fault
        return WheelProof(NAME, levels, Path("python"))

    monkeypatch.setattr("gaudi_patch.wheel.prove.prove", run)
    return OutputOptions(Path(), report=True, smoke=SmokeOptions(), python=Path("python"))


def test_what_is_not_proved_is_not_written(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(GaudiPatchError) as failed:
        write(release.manifest, [release.wheel], proved(monkeypatch, "failed"))
    assert failed.value.exit is Exit.SMOKE
    assert list(Path().iterdir()) == []


def test_results_are_attested_beside_the_wheel_and_not_in_it(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = write(release.manifest, [release.wheel], proved(monkeypatch, "passed"))
    assert Path(NAME).read_bytes() == release.bytes()
    document = json.loads(Path(f"{NAME}.attestation.json").read_bytes())
    assert schema.faults(document) == []
    assert document["sha256"] == digest(document)
    assert document["smoke"]["status"] == "passed"
    assert output.wheels[0].wheel.attestation["smoke"]["status"] == "not-run"
    result = rendered(output)
    assert result.data["proved"] == {"wheel": NAME, "python": "python"}
    assert output_schema.faults(json.loads(result.to_json())) == []


def test_a_python_that_takes_none_of_the_wheels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "python_version", lambda _: "3.12.1")
    with pytest.raises(GaudiPatchError) as refused:
        proving.prove([Path("lmcache-0.5.6-cp311-cp311-linux_x86_64.whl")], "lmcache", Path("p"), SmokeOptions())
    assert refused.value.code == "no-fitting-wheel"


def test_all_pythons_of_a_release_are_taken_and_those_without_a_wheel_named(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(package: str, version: str, python: str) -> Path:
        if python in ("3.10", "3.14"):
            raise wheels.NoWheelError(package, version, python)
        return Path(f"cp{python}.whl")

    monkeypatch.setattr(wheels, "fetch", fetch)
    found = releases.wheels_of(release.manifest, "0.5.6", ())
    assert (len(found.files), found.without) == (3, ("3.10", "3.14"))
    with pytest.raises(GaudiPatchError) as refused:
        releases.wheels_of(release.manifest, "0.5.6", ("3.14",))
    assert (refused.value.exit, refused.value.code) == (Exit.NOT_FOUND, "no-wheel")
    monkeypatch.setattr(releases, "PYTHONS", ("3.10",))
    with pytest.raises(GaudiPatchError) as refused:
        releases.wheels_of(release.manifest, "0.5.6", ())
    assert refused.value.code == "no-wheel"


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("ERROR: No matching distribution found for lmcache==0.5.6\n", True),
        ("WARNING: Retrying (Retry(total=0)) after connection broken\nERROR: No matching distribution found\n", False),
        ("ERROR: Could not install packages due to an OSError\n", False),
    ],
)
def test_an_index_that_cannot_be_reached_is_not_one_without_the_wheel(said: str, missing: bool) -> None:
    assert wheels._is_missing(said) is missing


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["0.5.6", "0.5.5"], "one release"),
        (["no.whl"], "no such file"),
        (["a.whl", "0.5.6"], "one release"),
    ],
)
def test_arguments_that_say_nothing_are_refused(arguments: list[str], word: str, tmp_path: Path) -> None:
    done = gaudi_patch("wheel", *arguments, "--out", tmp_path / "out", "--json")
    assert (done.code, done.code_of_error) == (2, "usage")
    assert word in done.json["errors"][0]["message"]
    assert not (tmp_path / "out").exists()


def test_a_build_has_a_number_of_its_own(release: Release, tmp_path: Path) -> None:
    for build in (1, 2):
        write(release.manifest, [release.wheel], OutputOptions(tmp_path / "out", BuildOptions(build)))
    assert len(list((tmp_path / "out").iterdir())) == 2

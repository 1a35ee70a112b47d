"""`apply --report`: what it writes and when, and that it claims nothing that was not observed."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from gaudi_patch import __version__
from gaudi_patch.attestation import file
from gaudi_patch.authoring import lint
from gaudi_patch.disk import Disk, sha256
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.checks import SmokeOptions
from gaudi_patch.smoke.counted import Failure
from gaudi_patch.smoke.outcome import LevelResult
from tests.attestation.conftest import apply, written
from tests.support import tiny
from tests.support.cli import gaudi_patch
from tests.support.tiny import Tiny, tree


def test_it_says_what_is_on_disk(attested: Tiny, report: Path) -> None:
    document = written(report)
    assert document["outcome"] == "applied"
    assert document["tool"] == {"name": "gaudi-patch", "version": __version__}
    assert document["package"] == {
        "name": "lmcache", "version": tiny.VERSION, "layout": "wheel", "root": str(attested.site),
    }  # fmt: skip
    assert document["series"]["id"] == tiny.VERSION
    assert document["series"]["matched_by"] == "version"
    assert document["series"]["applied_by"] == __version__
    patch = attested.manifest.directory / "tiny.patch"
    assert document["patches"] == [
        {"name": "tiny.patch", "sha256": sha256(patch.read_bytes()), "why": "a test", "upstream": "none"}
    ]
    hashes = {one["path"]: (one["action"], one["before"], one["after"]) for one in document["files"]}
    assert hashes == {
        path: (
            "create" if path not in tiny.PRISTINE else "delete" if after is None else "modify",
            sha256(tiny.PRISTINE[path]) if path in tiny.PRISTINE else None,
            None if after is None else sha256((attested.site / path).read_bytes()),
        )
        for path, after in tiny.PATCHED.items()
    }
    assert document["interpreter"]["version"] == platform.python_version()
    assert document["packages"]["numpy"] == metadata.version("numpy")
    assert document["packages"]["vllm-gaudi"] is None


def test_it_says_what_the_smoke_checks_proved_and_what_they_skipped(attested: Tiny, report: Path) -> None:
    smoke = written(report)["smoke"]
    assert (smoke["status"], smoke["reason"]) == ("passed", "passed: imports, kernels; skipped: engine")
    assert [(one["level"], one["status"], one["device"]) for one in smoke["levels"]] == [
        ("imports", "passed", "emulated"), ("kernels", "passed", "emulated"), ("engine", "skipped", "none"),
    ]  # fmt: skip
    assert smoke["levels"][1]["counters"] == {"store of 17 objects": {"graph_launches": 3}, "cases": 2}


def test_without_smoke_checks_it_says_so(target: Tiny, report: Path) -> None:
    apply(target, report)
    assert written(report)["smoke"] == {"status": "not-run", "reason": "--no-smoke", "levels": []}


def test_when_every_level_was_skipped_nothing_is_called_passed(
    target: Tiny, report: Path, smoked: SmokeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = [LevelResult("kernels", "skipped", "no torch", 0.0, "none", "lazy")]
    monkeypatch.setattr(runner, "run", lambda *_, **__: skipped)
    apply(target, report, smoked)
    smoke = written(report)["smoke"]
    assert (smoke["status"], smoke["reason"]) == ("not-run", "every level was skipped: kernels")


def test_in_an_image_that_cannot_be_run_it_says_that_nothing_was_proved(
    tmp_path: Path, report: Path, smoked: SmokeOptions
) -> None:
    image = replace(tiny.make(tmp_path / "i"), python=None)
    apply(image, report, smoked)
    document = written(report)
    assert document["smoke"]["reason"] == "no interpreter of the target can be run"
    assert document["interpreter"] is None
    assert set(document["packages"].values()) == {None}


def test_applying_again_attests_the_same_files_and_no_new_proof(attested: Tiny, report: Path) -> None:
    first = written(report)
    result = apply(attested, report, SmokeOptions(quiet=True))
    again = written(report)
    assert result.exit is Exit.OK
    assert again["outcome"] == "already-applied"
    assert again["smoke"]["status"] == "not-run"
    assert [again[key] for key in ("files", "patches", "series")] == [
        first[key] for key in ("files", "patches", "series")
    ]


def test_applying_again_with_required_levels_attests_a_proof(
    attested: Tiny, report: Path, smoked: SmokeOptions
) -> None:
    apply(attested, report, replace(smoked, require=("kernels",)))
    document = written(report)
    assert (document["outcome"], document["smoke"]["status"]) == ("already-applied", "passed")


def test_what_something_else_patched_is_attested_as_that(target: Tiny, report: Path) -> None:
    for path, data in tiny.PATCHED.items():
        place = target.site / path
        if data is None:
            place.unlink()
        else:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
    apply(target, report)
    series = written(report)["series"]
    assert (written(report)["outcome"], series["applied_by"], series["applied_at"]) == ("already-applied", None, None)


def test_a_release_that_needs_no_patch_is_attested_as_that(tmp_path: Path, report: Path) -> None:
    target = tiny.make(tmp_path / "t")
    toml = target.manifest.file
    toml.write_text(
        f'schema = 2\npackage = "lmcache"\n[[upstream]]\nversions = "=={tiny.VERSION}"\nreason = "it has all of it"\n'
    )
    (target.manifest.directory / "tiny.patch").unlink()
    lint.lint(target.manifest.directory, write=True)
    done = gaudi_patch(
        "apply", "--path", target.site, "--manifest", target.manifest.directory, "--no-smoke", "--report", report
    )
    assert done.code == 0, done
    document = written(report)
    assert (document["outcome"], document["series"], document["files"]) == ("not-needed", None, [])
    assert gaudi_patch(
        "check", "--path", target.site, "--manifest", target.manifest.directory, "--against", report
    ).code == 0  # fmt: skip


def test_a_failed_smoke_check_attests_nothing_and_leaves_the_file_of_before(
    target: Tiny, report: Path, smoked: SmokeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [LevelResult("kernels", "failed", "bits differ", 1.0, "emulated", "lazy", failures=(Failure("c", "m"),))]
    monkeypatch.setattr(runner, "run", lambda *_, **__: failed)
    report.write_text("the one of before")
    result = apply(target, report, smoked)
    assert result.exit is Exit.SMOKE
    assert report.read_text() == "the one of before"
    assert result.warnings == [f"no attestation was written to {report}"]
    assert set(target.sides().values()) == {"pristine"}


def test_drift_attests_nothing(target: Tiny, report: Path) -> None:
    (target.site / "lmcache/engine.py").write_bytes(b"mine\n")
    with pytest.raises(GaudiPatchError) as caught:
        apply(target, report)
    assert caught.value.code == "drift"
    assert not report.exists()


@pytest.mark.parametrize("place", ["-", "folder", "missing/file.json", "/dev/null"])
def test_a_place_that_cannot_take_it_is_refused_before_anything_is_changed(
    place: str, target: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GaudiPatchError) as caught:
        apply(target, Path(place))
    assert caught.value.exit in (Exit.USAGE, Exit.ENVIRONMENT)
    assert "nothing was changed" in caught.value.message
    assert set(target.sides().values()) == {"pristine"}


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_disk_that_fails_while_writing_it_leaves_the_file_of_before(name: str, attested: Tiny, report: Path) -> None:
    """The series stays applied, and the exit code reports that the request was not fulfilled."""

    class Failing(Disk):
        def step(self, step: str, path: Path) -> None:
            if step == name and path.name.endswith(("attestation.json", f"gaudi-patch-{os.getpid()}")):
                raise OSError(28, "No space left on device", str(path))

    before = report.read_bytes()
    with pytest.raises(GaudiPatchError) as caught:
        apply(attested, report, disk=Failing())
    assert caught.value.exit is Exit.ENVIRONMENT
    assert "the series is applied, but no attestation was written" in caught.value.message
    assert report.read_bytes() == before
    assert sorted(path.name for path in report.parent.iterdir()) == ["attestation.json", "t"]


def test_it_is_put_in_place_of_a_file_and_can_be_read_by_all(attested: Tiny, report: Path) -> None:
    assert report.stat().st_mode & 0o777 == 0o644
    os.link(report, report.with_name("hardlink"))
    report.with_name("link.json").symlink_to(report)
    apply(attested, report.with_name("link.json"))
    assert report.with_name("link.json").is_symlink()
    assert written(report)["outcome"] == "already-applied"
    assert json.loads(report.with_name("hardlink").read_bytes())["outcome"] == "applied"


def test_the_time_is_that_of_the_source_date(target: Tiny, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    apply(target, report)
    assert written(report)["created"] == "1970-01-02T00:00:00Z"


def test_a_document_that_is_not_valid_is_never_written(attested: Tiny, report: Path) -> None:
    before = report.read_bytes()
    with pytest.raises(AssertionError, match="outcome"):
        file.write(report, {**written(report), "outcome": "fine"}, Disk())
    assert report.read_bytes() == before


@pytest.mark.parametrize("other", ["--dry-run", "--if-installed"])
def test_it_is_refused_with_options_that_leave_nothing_to_attest(other: str, target: Tiny, report: Path) -> None:
    before = tree(target.site)
    done = gaudi_patch(
        "apply", "--path", target.site, "--manifest", target.manifest.directory, "--report", report, other, "--json"
    )
    assert (done.code, done.code_of_error) == (2, "usage")
    assert tree(target.site) == before
    assert not report.exists()

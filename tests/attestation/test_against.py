"""`check --against`: an installation that matches its attestation passes, and every difference is found and named."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.attestation import against as against_file
from gaudi_patch.commands.check import compared
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result, plain
from tests.attestation.conftest import written
from tests.support.cli import gaudi_patch
from tests.support.tiny import Tiny, tree

Rewrite = Callable[[Callable[[dict[str, Any]], object]], None]


def against(target: Tiny, report: Path) -> Result:
    return compared(target.manifest, target.installation, report)


def named(result: Result) -> list[str]:
    assert result.exit is Exit.REFUSED
    assert [one.code for one in result.errors] == ["not-as-attested"]
    return [one["what"] for one in result.data["against"]["differences"]]


def test_what_is_as_attested_exits_0_and_nothing_is_written(attested: Tiny, report: Path) -> None:
    before = tree(attested.site, times=True)
    result = against(attested, report)
    assert result.exit is Exit.OK
    assert result.data["against"]["differences"] == []
    assert tree(attested.site, times=True) == before


@pytest.mark.parametrize("path", ["lmcache/engine.py", "lmcache/notes.txt"])
def test_a_changed_file_is_named(path: str, attested: Tiny, report: Path) -> None:
    (attested.site / path).write_bytes(b"something else\n")
    assert named(against(attested, report)) == [path]


def test_a_missing_file_is_named(attested: Tiny, report: Path) -> None:
    (attested.site / "lmcache/gaudi/kernels.py").unlink()
    assert named(against(attested, report)) == ["lmcache/gaudi/kernels.py"]


def test_a_deleted_file_that_came_back_is_named(attested: Tiny, report: Path) -> None:
    (attested.site / "lmcache/v1/old.py").write_bytes(b"import torch.cuda\n")
    (difference,) = against(attested, report).data["against"]["differences"]
    assert difference["what"] == "lmcache/v1/old.py"
    assert difference["attested"] == "no file"
    assert difference["found"].endswith("(as released)")


def test_a_rollback_is_found_file_by_file(attested: Tiny, report: Path) -> None:
    """A pristine LMCache exits 1 here, not 10: it differs from the attestation."""
    attested.rollback()
    what = named(against(attested, report))
    assert what == ["series", *sorted(attested.patched)]


def test_many_differences_are_counted_and_all_shown_with_verbose(
    attested: Tiny, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_file, "_MOST", 3)
    attested.rollback()
    short = against(attested, report)
    all_ = named(short)
    assert plain(short.blocks[0]).startswith(
        f"not as attested: {len(all_)} differences; LMCache is pristine, not patched"
    )
    (error,) = short.errors
    assert error.details[-1] == f"and {len(all_) - 2} more: -v shows them"
    assert (len(error.details), "lmcache" in "".join(map(plain, short.blocks[2:]))) == (3, False)
    whole = compared(attested.manifest, attested.installation, report, verbose=True)
    table = plain(whole.blocks[-1])
    assert all(what in table for what in all_)


def test_another_version_is_named(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["package"].update(version="0.5.5"))
    assert named(against(attested, report)) == ["version"]


def test_another_package_is_named(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["package"].update(name="lmcash"))
    assert named(against(attested, report)) == ["package"]


def test_another_series_is_named(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["series"].update(id="0.5.5"))
    assert named(against(attested, report)) == ["series"]


def test_a_series_where_none_was_attested_is_named(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document.update(series=None))
    assert named(against(attested, report)) == ["series"]


def test_another_patch_is_named(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["patches"][0].update(sha256="0" * 64))
    assert named(against(attested, report)) == ["patch tiny.patch"]


def test_a_patched_file_that_was_not_attested_is_named(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    gone = written(report)["files"][2]["path"]
    rewrite(lambda document: document["files"].pop(2))
    assert named(against(attested, report)) == [gone]


def test_an_interrupted_run_is_named(attested: Tiny, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gaudi_patch.engine import situation, verdicts

    look = situation.look

    class Interrupted:
        verb = "rollback"

    monkeypatch.setattr(verdicts, "look", lambda *given: look(*given)._replace(interrupted=Interrupted()))  # type: ignore[arg-type]
    assert named(against(attested, report)) == ["transaction"]


def test_bytecode_of_another_source_is_named(attested: Tiny, report: Path) -> None:
    """The source matches the attestation, but Python would run the old code."""
    source = attested.site / "lmcache/engine.py"
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + b"\0" * 8 + b"code")
    result = against(attested, report)
    assert named(result) == ["lmcache/engine.py"]
    assert str(cached) in result.errors[0].details[0]


def test_a_compiled_module_that_hides_an_attested_source_is_refused(attested: Tiny, report: Path) -> None:
    (attested.site / "lmcache/engine.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    with pytest.raises(GaudiPatchError) as caught:
        against(attested, report)
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "compiled-module")


def test_a_path_that_leads_out_of_the_package_is_not_followed(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    rewrite(lambda document: document["files"][0].update(path="other/engine.py"))
    with pytest.raises(GaudiPatchError) as caught:
        against(attested, report)
    assert caught.value.exit is Exit.USAGE


def test_another_version_of_a_package_beside_it_is_a_warning(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    """The files match the attestation, but its smoke checks ran with another PyTorch."""
    rewrite(lambda document: document["packages"].update(numpy="1.0", torch=None, unknown="1"))
    result = against(attested, report)
    assert result.exit is Exit.OK
    assert [one.split(":")[0] for one in result.warnings if "attested" in one][:1] == ["numpy"]
    assert not any("unknown" in one for one in result.warnings)


def bad(path: Path, target: Tiny) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        against(target, path)
    assert (caught.value.exit, caught.value.code, caught.value.file) == (Exit.USAGE, "bad-attestation", str(path))
    return caught.value


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"schema_version": NaN}', "NaN"),
        (b"{}", "'schema' is a required property"),
        (b"[]", "is not of type 'object'"),
        (b'{"schema_version": 2}', "newer gaudi-patch"),
    ],
)
def test_a_file_that_is_no_attestation_exits_2(data: bytes, what: str, attested: Tiny, report: Path) -> None:
    report.write_bytes(data)
    error = bad(report, attested)
    assert what in error.message + "".join(error.details)


def test_every_edit_by_hand_is_found(attested: Tiny, report: Path) -> None:
    """One digit, one key, one more file: the sha256 no longer matches the content."""
    whole = report.read_text()
    for old, new in [
        ('"checks": 760', '"checks": 761'),
        ('"status": "skipped"', '"status": "passed"'),
        ('"outcome": "applied"', '"outcome": "already-applied"'),
        (written(report)["files"][0]["after"], "0" * 64),
    ]:
        assert old in whole
        report.write_text(whole.replace(old, new))
        assert "was changed after it was written" in bad(report, attested).message
    report.write_text(json.dumps(written_sorted(whole), indent=7))
    assert against(attested, report).exit is Exit.OK  # white space and key order are not content


def written_sorted(whole: str) -> dict[str, Any]:
    return dict(reversed(json.loads(whole).items()))


def test_a_cut_or_missing_file_exits_2(attested: Tiny, report: Path, tmp_path: Path) -> None:
    report.write_bytes(report.read_bytes()[:-40])
    bad(report, attested)
    bad(tmp_path / "missing.json", attested)
    bad(tmp_path, attested)


def test_the_command_line_gives_these_exit_codes(attested: Tiny, report: Path) -> None:
    def run(*more: str) -> tuple[int, str]:
        done = gaudi_patch(
            "check", "--path", attested.site, "--manifest", attested.manifest.directory, "--against", report, *more
        )
        return done.code, done.out + done.err

    assert run()[0] == 0
    assert run("--if-installed")[0] == 2
    (attested.site / "lmcache/engine.py").write_bytes(b"")
    code, text = run()
    assert code == 1
    assert "lmcache/engine.py" in text
    report.write_text("{}")
    assert run()[0] == 2


def test_nothing_installed_exits_3(attested: Tiny, report: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert gaudi_patch("check", "--path", tmp_path / "empty", "--against", report).code == 3


def test_an_attestation_of_many_files_is_read_in_linear_time(attested: Tiny, report: Path, rewrite: Rewrite) -> None:
    def seconds(count: int) -> float:
        file = {"action": "modify", "before": "0" * 64, "after": "1" * 64}
        files = [{"path": f"lmcache/x/{number}.py", **file} for number in range(count)]
        rewrite(lambda document: document.update(files=files))
        begun = time.process_time()
        assert len(named(against(attested, report))) >= count
        return time.process_time() - begun

    seconds(10)  # imports
    assert seconds(4_000) < 14 * seconds(500)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "huge", "deep", "nul", "surrogate", "binary", "link"])
def test_what_can_be_no_attestation_exits_2_with_its_name_at_once(attested: Tiny, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(1 << 42)
    elif kind in ("device", "link"):
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    else:
        text = {"deep": b"[" * 500_000, "nul": b'["\\u0000"]', "surrogate": b'{"\\ud83d": 1}', "binary": b"\0\xff" * 99}
        path.write_bytes(text[kind])
    begun = time.monotonic()
    with pytest.raises(GaudiPatchError) as caught:
        against(attested, path)
    assert time.monotonic() - begun < 60
    assert (caught.value.exit, caught.value.code) == (Exit.USAGE, "bad-attestation")
    assert str(path) in str(caught.value)

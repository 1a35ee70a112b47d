"""The exit codes, each shown by a command that ends with it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gaudi_patch import cli
from tests.cli.command_line import document, invoke
from tests.support import tiny
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.tiny import Tiny, tree


def test_the_exit_codes_of_a_whole_story(target: Tiny) -> None:
    before = tree(target.site)
    verbs = ("check", "apply", "check", "apply", "rollback", "check", "rollback")
    assert [invoke(target, verb)[0] for verb in verbs] == [10, 0, 0, 0, 0, 10, 0]
    assert tree(target.site) == before


def test_drift_exits_1(target: Tiny) -> None:
    """case_31: every command names the file."""
    (target.site / "lmcache/engine.py").write_bytes(b"mine\n")
    for verb in ("check", "apply", "rollback"):
        code, out, err = invoke(target, verb)
        assert code == 1
        assert "modified: lmcache/engine.py" in err
        assert "error:" not in out


@pytest.mark.parametrize(
    "wrong", [["--nonsense"], ["extra"], ["--color", "pink"], ["--output-format", "xml"], ["--path", "/nowhere"]]
)
def test_usage_exits_2(wrong: list[str], target: Tiny) -> None:
    assert CliRunner().invoke(cli.app, ["check", *wrong]).exit_code == 2


def test_a_bad_manifest_exits_2(target: Tiny) -> None:
    file = target.manifest.directory / "manifest.lock"
    file.write_text(file.read_text() + "nonsense\n")
    for verb in ("check", "apply", "rollback"):
        (error,) = document(target, verb)["errors"]
        assert (error["code"], error["file"]) == ("bad-manifest", str(file))
        assert error["line"] == file.read_text().splitlines().index("nonsense") + 1


def test_a_bad_patch_exits_2(target: Tiny) -> None:
    """case_26: an edited patch is refused before it is parsed."""
    file = target.manifest.directory / "tiny.patch"
    file.write_bytes(file.read_bytes() + b"\n")
    for verb in ("check", "apply"):
        (error,) = document(target, verb)["errors"]
        assert (error["code"], error["file"]) == ("bad-manifest", str(file))


def test_nothing_installed_exits_3(tmp_path: Path, target: Tiny) -> None:
    """case_50"""
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli.app, ["check", "--path", str(tmp_path / "empty"), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["errors"][0]["code"]) == (3, "not-installed")
    done = CliRunner().invoke(cli.app, ["check", "--path", str(tmp_path / "empty"), "--json", "--if-installed"])
    assert (done.exit_code, json.loads(done.stdout)["data"]) == (0, {"installed": False})
    assert json.loads(done.stdout)["warnings"]


def test_an_unknown_version_exits_3(target: Tiny, tmp_path: Path) -> None:
    """case_51"""
    wheel = fake_wheel(tmp_path / "w", "0.5.7", {**tiny.PRISTINE, "lmcache/engine.py": b"other\n"})
    unpack(wheel, tmp_path / "site2")
    for verb in ("check", "apply"):
        done = CliRunner().invoke(
            cli.app, [verb, "--path", str(tmp_path / "site2"), "--manifest", str(target.manifest.directory), "--json"]
        )
        (error,) = json.loads(done.stdout)["errors"]
        assert (done.exit_code, error["code"]) == (3, "unknown-version")
        assert "nearest series is 0.5.6" in error["message"]


def test_an_environment_error_exits_4(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """case_3: the error names the step, and says that nothing was changed."""
    from gaudi_patch.disk import Disk

    def step(self: Disk, name: str, path: Path) -> None:
        if name == "fsync" and path.name.startswith(".gaudi-patch-"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Disk, "step", step)
    (error,) = document(target, "apply")["errors"]
    assert error["code"] == "enospc"
    assert "all changes were undone" in error["message"]
    assert "free some space" in error["hint"]


def test_a_damaged_state_exits_6(target: Tiny) -> None:
    """case_72"""
    invoke(target, "apply")
    (target.state_dir / "state.json").write_text("{}")
    for verb in ("check", "apply", "rollback"):
        found = document(target, verb)
        assert (found["exit_code"], found["errors"][0]["code"]) == (6, "state-damaged")


def test_a_bug_exits_70_and_leaves_a_report(target: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gaudi_patch.engine import verdicts

    def broken(*_: object) -> None:
        raise ZeroDivisionError("one over none")

    monkeypatch.setattr(verdicts, "assess", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = document(target, "check")
    (error,) = found["errors"]
    assert (found["exit_code"], error["code"]) == (70, "bug")
    assert "ZeroDivisionError: one over none" in error["message"]
    (report,) = tmp_path.glob("gaudi-patch-bug-*.txt")
    assert str(report) in error["hint"]
    text = report.read_text()
    assert "Traceback" in text
    assert "gaudi-patch" in text.splitlines()[0]


def test_a_bug_without_a_place_for_its_report_tells_it_on_stderr(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from gaudi_patch.engine import verdicts

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(verdicts, "assess", broken)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    code, _, err = invoke(target, "check")
    assert code == 70
    assert "Traceback" in err


def test_an_os_error_outside_a_transaction_is_an_environment_error(
    target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gaudi_patch.engine import verdicts

    def broken(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setattr(verdicts, "assess", broken)
    found = document(target, "check")
    assert (found["exit_code"], found["errors"][0]["code"], found["errors"][0]["file"]) == (4, "eacces", "/somewhere")

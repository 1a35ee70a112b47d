"""Unproved changes never stay, however the proof ends, and the messages are true."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.attestation import prove
from gaudi_patch.cli.run import guarded
from gaudi_patch.commands.apply import applied
from gaudi_patch.commands.check import checked
from gaudi_patch.disk import Disk
from gaudi_patch.engine import apply as applying
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.engine.progress import Progress
from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Color, Format, Result, plain
from gaudi_patch.output.report import show as show_result
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.checks import SmokeOptions
from gaudi_patch.smoke.counted import Failure
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import scenarios
from tests.support.faults import in_child
from tests.support.tiny import Tiny, tree

SMOKE = SmokeOptions(("kernels",), quiet=True)
FAILED = LevelResult("kernels", "failed", "why", 1.0, "emulated", "lazy", 1, (Failure("c", "m"),))
PASSED = LevelResult("kernels", "passed", "why", 1.0, "emulated", "lazy", 1)


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path)


def smoke_is(monkeypatch: pytest.MonkeyPatch, run: Callable[[], LevelResult]) -> None:
    """Replace the smoke checks with ``run``."""
    monkeypatch.setattr(runner, "run", lambda *_, **__: [run()])


def apply(target: Tiny, smoke: SmokeOptions | None = SMOKE, disk: Disk | None = None) -> Result:
    """Run `apply`; return its result as the command line reports it."""
    progress = Progress()
    options = ApplyOptions(disk=disk or Disk())
    return guarded(
        "apply", lambda: applied(target.manifest, target.installation, options, smoke, progress), False, progress
    )


def unreadable_after_commit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Make the read after the commit fail, as a bad disk would: the first read of `apply` succeeds."""
    look, calls = applying.look, []

    def failing(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number), "/somewhere/engine.py")
        return look(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(applying, "look", failing)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_read_error_after_the_commit_does_not_say_that_nothing_was_changed(
    number: int, target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable_after_commit(monkeypatch, number)
    result = apply(target, smoke=None)
    (error,) = result.errors
    assert set(target.sides().values()) == {"patched"}
    assert (result.exit, error.code, error.file) == (Exit.HUMAN, "unverified", "/somewhere/engine.py")
    assert error.message.startswith("series 0.5.6 is applied")
    assert result.data["stage"] == "committed"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_read_error_before_a_demanded_proof_rolls_back(
    number: int, target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(target.site)
    unreadable_after_commit(monkeypatch, number)
    result = apply(target)
    assert tree(target.site) == before
    assert result.exit is Exit.ENVIRONMENT
    assert result.errors[0].message.endswith("nothing was proved, and the series was rolled back")
    assert result.data["stage"] == "rolled-back"


def test_after_a_failed_check_everything_speaks_of_the_state_after_the_rollback(
    target: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = tree(target.site)
    smoke_is(monkeypatch, lambda: FAILED)
    result = apply(target)
    assert tree(target.site) == before
    assert (result.exit, result.errors[0].code) == (Exit.SMOKE, "smoke-failed")
    assert (result.data["state"], result.data["applied_series"], result.data["changed"]) == ("pristine", None, False)
    assert {one["state"] for one in result.data["files"] if one["pre_sha256"] != one["post_sha256"]} == {"pristine"}
    assert result.data["stage"] == "rolled-back"
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    show_result(result, Format.TEXT, Color.NEVER)
    show_result(result, Format.GITHUB, Color.NEVER)
    for text in (capsys.readouterr().out, summary.read_text()):
        assert "verified from disk" not in text
        assert "was not proved; rolled back" in text
        assert "restart processes" not in text


def test_a_rollback_that_fails_after_a_failed_check_exits_6_and_names_the_files(
    target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Disk):
        broken = False

        def step(self, name: str, path: Path) -> None:
            if self.broken and name == "write":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

    disk = Full()

    def fail() -> LevelResult:
        disk.broken = True
        return FAILED

    smoke_is(monkeypatch, fail)
    result = apply(target, disk=disk)
    (error,) = result.errors
    assert (result.exit, error.code) == (Exit.HUMAN, "rollback-failed")
    assert "smoke checks failed; and the rollback failed too: No space left on device" in error.message
    assert "the series is applied but not proved" in error.message
    assert set(target.sides().values()) == {"patched"}
    for path in target.patched:
        assert f"patched: {path}" in error.details
    (warning,) = checked(target.manifest, target.installation).warnings
    assert "applied but not proved" in warning


def test_a_level_that_does_not_exist_is_found_out_before_anything_is_written(target: Tiny) -> None:
    before = tree(target.site)
    result = apply(target, SmokeOptions(("kernals",), quiet=True))
    assert tree(target.site) == before
    assert (result.exit, result.data["stage"]) == (Exit.USAGE, Progress().stage.value)
    assert "rolled back" not in result.errors[0].message


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), ZeroDivisionError("one over none")])
def test_an_error_in_the_smoke_checks_rolls_back(
    error: Exception, target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> LevelResult:
        raise error

    before = tree(target.site)
    smoke_is(monkeypatch, broken)
    result = apply(target)
    assert tree(target.site) == before
    assert result.exit is (Exit.BUG if isinstance(error, ZeroDivisionError) else Exit.ENVIRONMENT)
    assert "nothing was proved, and the series was rolled back" in result.errors[0].message


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGQUIT, 143)],
)
def test_a_signal_in_the_smoke_checks_rolls_back_and_says_so(
    number: signal.Signals, code: int, target: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second signal during the rollback does not interrupt it."""
    before = tree(target.site)
    said = tmp_path / "said.json"

    class Twice(Disk):
        def step(self, name: str, path: Path) -> None:
            if smoking and name == "replace":
                os.kill(os.getpid(), number)

    smoking: list[int] = []

    def killed() -> LevelResult:
        smoking.append(1)
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did not end it")

    def child() -> None:
        result = apply(target, disk=Twice())
        said.write_text(result.to_json())
        os._exit(int(result.exit))

    smoke_is(monkeypatch, killed)
    assert in_child(child) == code
    assert tree(target.site) == before
    found = json.loads(said.read_text())
    assert found["errors"][0]["message"].endswith("; nothing was proved, and the series was rolled back")
    assert found["data"]["stage"] == "rolled-back"


def killed_in_smoke(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke_is(monkeypatch, lambda: os._exit(137))
    assert in_child(lambda: apply(target)) == 137
    assert set(target.sides().values()) == {"patched"}


def test_a_series_left_unproved_by_a_kill_is_said_to_be_so_and_proved_by_the_next_apply(
    target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in_smoke(target, monkeypatch)
    result = target.check()
    assert (result.exit, result.data["unproved"]) == (Exit.OK, True)
    assert "applied but not proved" in result.warnings[0]
    smoke_is(monkeypatch, lambda: PASSED)
    result = apply(target)
    assert result.exit is Exit.OK
    said = "".join(plain(block) for block in result.blocks)
    assert "which an earlier run left unproved, is proved now" in said
    assert "nothing was written" not in said
    proved = tree(target.site)
    result = target.check()
    assert (result.exit, result.data["unproved"], result.warnings) == (Exit.OK, False, [])
    assert target.rollback().exit is Exit.OK
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert apply(target).exit is Exit.OK
    assert proved.keys() == tree(target.site).keys()


def test_a_series_left_unproved_by_a_kill_is_rolled_back_where_its_proof_fails(
    target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(target.site)
    killed_in_smoke(target, monkeypatch)
    smoke_is(monkeypatch, lambda: FAILED)
    result = apply(target)
    assert (result.exit, result.errors[0].code) == (Exit.SMOKE, "smoke-failed")
    assert result.data["state"] == "pristine"
    assert tree(target.site) == before


def test_who_wants_no_proof_accepts_an_unproved_series(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in_smoke(target, monkeypatch)
    assert apply(target, smoke=None).exit is Exit.OK
    assert target.check().warnings == []


def test_a_proved_tree_is_that_of_an_apply_without_smoke_checks(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image layer is the same, however it was proved; RECORD lists the current state."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    apply(target, smoke=None)
    plain = tree(target.site)
    target.rollback()
    smoke_is(monkeypatch, lambda: PASSED)
    assert apply(target).exit is Exit.OK
    assert tree(target.site) == plain


def test_a_proof_that_cannot_be_recorded_is_a_warning(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke_is(monkeypatch, lambda: PASSED)

    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prove.applying, "confirm", broken)
    result = apply(target)
    assert result.exit is Exit.OK
    assert any("could not be marked as proved" in text for text in result.warnings)
    assert target.check().data["unproved"]

"""The outcome of a run of smoke levels, and the command that it tells the user to type next."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.smoke import checks
from gaudi_patch.smoke.outcome import LevelResult, Status
from gaudi_patch.target.installation import Target
from tests.support import tiny


def level(name: str, status: Status) -> LevelResult:
    return LevelResult(name, status, "why", 1.0, "emulated", "lazy", 1)


def proof(
    levels: list[LevelResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, require: tuple[str, ...] = ()
) -> checks.Proof:
    monkeypatch.setattr(checks, "run", lambda installation, options: levels)
    installation = tiny.make(tmp_path).installation
    target = Target(python=tmp_path / "a b" / "python")
    return checks.prove(dataclasses.replace(installation, target=target), checks.SmokeOptions(require=require))


def test_the_hint_names_the_target_that_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = proof([level("kernels", "failed")], tmp_path, monkeypatch).fault
    assert fault is not None
    _, _, command = fault.hint.partition("on an unpatched installation: ")
    assert shlex.split(command.strip("`")) == ["gaudi-patch", "apply", "--python", str(tmp_path / "a b" / "python")]


def test_a_skip_is_a_fault_where_it_is_required_or_nothing_else_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [level("kernels", "passed"), level("engine", "skipped")]
    passed = proof(levels, tmp_path / "1", monkeypatch)
    assert (passed.fault, passed.skipped) == (None, ("engine",))
    required = proof(levels, tmp_path / "2", monkeypatch, require=("engine",)).fault
    assert required is not None
    assert (required.exit, required.code) == (Exit.SMOKE, "smoke-failed")
    nothing = proof(levels[1:], tmp_path / "3", monkeypatch).fault
    assert nothing is not None
    assert (nothing.exit, nothing.code) == (Exit.SMOKE, "nothing-proved")

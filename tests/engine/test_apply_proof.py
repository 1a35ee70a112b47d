"""`apply --require`: a required level is never skipped, even if nothing had to be applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.commands.apply import applied
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Result
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.checks import SmokeOptions
from gaudi_patch.smoke.counted import Failure
from gaudi_patch.smoke.outcome import LevelResult, Status
from tests.support import tiny
from tests.support.tiny import Tiny, tree


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path / "t")


def judged(monkeypatch: pytest.MonkeyPatch, status: Status) -> list[int]:
    """Make every level end with ``status``; the returned list grows with each run."""
    runs: list[int] = []

    def run(*_: object, **__: object) -> list[LevelResult]:
        runs.append(1)
        failures = (Failure("c", "m"),) if status == "failed" else ()
        return [LevelResult("kernels", status, "why", 1.0, "emulated", "lazy", 1, failures)]

    monkeypatch.setattr(runner, "run", run)
    return runs


def apply(target: Tiny, *require: str) -> Result:
    smoke = SmokeOptions(("kernels",), require=require, quiet=True)
    return applied(target.manifest, target.installation, ApplyOptions(), smoke)


def test_what_was_patched_before_is_proved_where_a_level_is_required(
    target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.apply()
    runs = judged(monkeypatch, "passed")
    assert apply(target).exit is Exit.OK
    assert runs == []
    result = apply(target, "kernels")
    assert (result.exit, runs, result.data["changed"]) == (Exit.OK, [1], False)
    assert [one["level"] for one in result.data["smoke"]] == ["kernels"]


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_what_was_patched_before_and_cannot_be_proved_exits_5_and_is_left(
    status: Status, target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This run did not apply the series, so it does not roll it back."""
    target.apply()
    before = tree(target.site, times=True)
    judged(monkeypatch, status)
    result = apply(target, "kernels")
    assert result.exit is Exit.SMOKE
    assert "nothing was changed" in result.errors[0].message
    assert tree(target.site, times=True) == before


def test_what_this_run_applied_and_cannot_prove_is_taken_back(target: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, "skipped")
    before = tree(target.site)
    result = apply(target, "kernels")
    assert (result.exit, result.data["changed"]) == (Exit.SMOKE, False)
    assert "rolled back" in result.errors[0].message
    assert tree(target.site) == before


def test_a_level_is_not_required_of_an_image_that_cannot_be_run(target: Tiny) -> None:
    """Exit 4 before anything is changed: after a mere warning, a build would pass without proof."""
    image = replace(target, python=None)
    before = tree(target.site)
    with pytest.raises(GaudiPatchError) as caught:
        apply(image, "kernels")
    assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "no-interpreter")
    assert tree(target.site) == before
    assert apply(image).exit is Exit.OK

"""A command's output begins with one line for the state, gives a reason once, and ends with the next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.commands import levels as rendering
from gaudi_patch.output.report import Result, all_plain
from gaudi_patch.smoke import checks
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import tiny
from tests.support.cli import gaudi_patch
from tests.support.tiny import Tiny


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path)


def lines(target: Tiny, verb: str, *more: str) -> list[str]:
    quiet = ["--no-smoke"] if verb == "apply" else []
    given = ("--path", str(target.site), "--manifest", str(target.manifest.directory))
    return gaudi_patch(verb, *given, *quiet, *more).out.splitlines()


def pristine(target: Tiny) -> None:
    pass


def patched(target: Tiny) -> None:
    target.apply()


def modified(target: Tiny) -> None:
    (target.site / "lmcache/engine.py").write_bytes(b"mine\n")


def missing(target: Tiny) -> None:
    (target.site / "lmcache/engine.py").unlink()


def partial(target: Tiny) -> None:
    target.apply()
    pristine = target.pristine["lmcache/engine.py"]
    assert pristine is not None
    (target.site / "lmcache/engine.py").write_bytes(pristine)


@pytest.mark.parametrize("situation", [pristine, patched, modified, missing, partial])
def test_check_begins_with_the_state_in_the_word_for_it(situation: Callable[[Tiny], None], target: Tiny) -> None:
    situation(target)
    first, *rest = lines(target, "check")
    assert first.startswith(f"{situation.__name__}: ")
    assert len(rest) <= 2
    assert rest[0].startswith("lmcache: ")


def test_check_apply_and_rollback_end_with_what_to_do_next(target: Tiny) -> None:
    for verb in ("check", "apply", "check", "rollback"):
        assert lines(target, verb)[-1].startswith("next: "), verb


def test_files_are_shown_with_verbose_and_to_a_ci_service_alone(target: Tiny) -> None:
    name = "lmcache/engine.py"
    assert name not in "\n".join(lines(target, "check"))
    assert f"pristine  {name}" in lines(target, "check", "-v")
    assert name in "\n".join(lines(target, "check", "--output-format", "gitlab"))


def level(name: str, rules: str, status: str, reason: str) -> LevelResult:
    return LevelResult(name, status, reason, 1.0, "emulated", rules, 5 if status == "passed" else 0)  # type: ignore[arg-type]


SKIPPED = [
    level(name, rules, "skipped", "no compiler") for name in ("kernels", "engine") for rules in ("lazy", "eager")
]
PASSED = [level("imports", rules, "passed", "fine") for rules in ("lazy", "eager")]


def shown(levels: list[LevelResult], **more: object) -> str:
    return all_plain(rendering.blocks(levels, verbose=False, **more))  # type: ignore[arg-type]


def test_a_reason_why_levels_were_skipped_is_said_once() -> None:
    text = shown([*PASSED, *SKIPPED])
    assert text.count("no compiler") == 1
    assert "skipped: kernels, engine (lazy, eager): no compiler" in text
    assert "passed:  imports (lazy, eager): 10 comparisons on the emulated HPU in 2.0 s" in text


def test_a_reason_that_the_error_gives_is_not_given_again() -> None:
    fault = checks.fault_of(SKIPPED, checks.SmokeOptions(require=("engine", "kernels")))
    assert fault is not None
    assert "no compiler" not in shown(SKIPPED, fault=fault)


def test_what_was_skipped_is_not_called_failed() -> None:
    options = checks.SmokeOptions(require=("engine",))
    fault = checks.fault_of([*PASSED, *SKIPPED], options)
    assert fault is not None
    assert fault.message == "2 of 6 smoke checks were required but could not run"
    both = checks.fault_of([level("imports", "lazy", "failed", "no"), *SKIPPED], options)
    assert both is not None
    assert both.message.startswith("1 of 5 smoke checks failed; 2 of 5 smoke checks were required")


def test_a_warning_that_the_text_says_already_is_not_repeated_but_json_has_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gaudi_patch.output.report import Color, Format, show

    result = Result("apply", warnings=["told", "new"], said=["told"])
    show(result, Format.TEXT, Color.NEVER)
    assert capsys.readouterr().err == "warning: new\n"
    assert '"told"' in result.to_json()

"""A program that forgets a wait, reuses a buffer or reads the wrong memory always fails; a correct one never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.emulator.support import HERE, decorated, decorator_arguments

pytestmark = pytest.mark.torch

PROGRAMS = sorted((HERE / "scripts" / "faults").glob("*.py"))
FAULTS = {
    name: (positional[0] if positional else "both", keywords.get("hidden_by_sync", True))
    for file in PROGRAMS
    for name, positional, keywords in decorator_arguments(file, {"fault"})
}
CORRECT = decorated(PROGRAMS, {"correct"})
MODES = ("lazy", "eager", "lazy-reversed", "eager-reversed")
SYNC = ("lazy-sync", "eager-sync")
REPEATS = "20"


def _wrong_in(mode: str) -> list[str]:
    """Return the faults that are wrong under the rules of a mode."""
    return [name for name, (rules, _) in FAULTS.items() if rules in ("both", mode.split("-")[0])]


@pytest.mark.parametrize(("mode", "name"), [(mode, name) for mode in MODES for name in _wrong_in(mode)])
def test_a_fault_is_caught_every_time(once: Callable[..., Any], mode: str, name: str) -> None:
    found = once("run_faults.py", mode, REPEATS)["faults"][name]
    assert not found["broke"], found["broke"]
    assert found["shown"] == int(REPEATS), found["how"]


@pytest.mark.parametrize("mode", [*MODES, *SYNC])
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_program_raises_no_alarm(once: Callable[..., Any], mode: str, name: str) -> None:
    found = once("run_faults.py", mode, REPEATS)["correct"][name]
    assert not found["broke"], found["broke"]
    assert found["shown"] == 0, found["how"]


@pytest.mark.parametrize(
    ("mode", "name"), [(mode, name) for mode in SYNC for name in _wrong_in(mode) if FAULTS[name][1]]
)
def test_run_at_once_the_same_faults_go_unseen(once: Callable[..., Any], mode: str, name: str) -> None:
    """The schedule catches them: without it these tests must fail."""
    found = once("run_faults.py", mode, REPEATS)["faults"][name]
    assert not found["broke"], found["broke"]
    assert found["shown"] == 0, found["how"]

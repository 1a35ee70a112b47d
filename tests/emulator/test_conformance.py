"""The device's results are bit-identical to the CPU's, under every rule and schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.emulator.support import HERE, decorated

pytestmark = pytest.mark.torch

FILES = list((HERE / "scripts" / "cases").glob("[a-z]*.py"))
CASES = decorated(FILES, {"compare", "compare_values"})
CHECKS = decorated(FILES, {"check"})
MODES = ("lazy", "eager", "lazy-reversed", "eager-reversed")


@pytest.mark.parametrize("mode", MODES)
def test_every_case_was_run(once: Callable[..., Any], mode: str) -> None:
    report = once("run_cases.py", mode)
    assert set(report["outcome"]) == {*CASES, *CHECKS}
    assert report["compared"] == len(CASES) >= 80
    assert report["ops"] > len(CASES), "the cases did not run on the device"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_same_bits_as_on_the_cpu(
    once: Callable[..., Any], record_property: Callable[[str, object], None], mode: str, name: str
) -> None:
    record_property("conformance", mode)
    failure = once("run_cases.py", mode)["outcome"][name]
    assert not failure, failure


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CHECKS)
def test_the_device_keeps_its_word(once: Callable[..., Any], mode: str, name: str) -> None:
    failure = once("run_cases.py", mode)["outcome"][name]
    assert not failure, failure

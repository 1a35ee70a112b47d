"""Whether processes agree on hash(None) is measured in the interpreter, not inferred from its version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.target import none_hash


def measured_apart(python: str) -> bool:
    """Return the same result by other means."""
    return len({subprocess.check_output([python, "-c", "print(hash(None))"]) for _ in range(4)}) == 1


@pytest.mark.parametrize("python", [sys.executable, "/usr/bin/python3", "python3.10", "python3.12", "python3.13"])
@pytest.mark.skipif(not none_hash._randomized(), reason="addresses are not random here")
def test_what_processes_of_this_interpreter_compute_is_reported(python: str) -> None:
    found = shutil.which(python)
    if found is None or subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no {python} here")
    assert none_hash.agrees(Path(found), os.environ) is measured_apart(found)


@pytest.mark.parametrize(
    ("hashes", "constant", "randomized", "agree"),
    [
        ([5, 5, 5, 5], True, False, True),
        ([5, 5, 5, 5], False, True, True),
        ([5, 5, 5, 5], False, False, None),
        ([5, 5, 5, 6], False, True, False),
        ([5, "x", 5, 5], False, True, None),
    ],
)
def test_agreement_on_a_host_without_random_addresses_tells_nothing(
    hashes: list[object], constant: bool, randomized: bool, agree: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(hashes)
    monkeypatch.setattr(none_hash, "ask", lambda *_, **__: {"hash": next(answers), "constant": constant})
    monkeypatch.setattr(none_hash, "_randomized", lambda: randomized)
    assert none_hash.agrees(Path("python3"), {}) is agree


def test_an_interpreter_that_does_not_answer_is_not_known() -> None:
    assert none_hash.agrees(Path("/nonexistent/python3"), os.environ) is None

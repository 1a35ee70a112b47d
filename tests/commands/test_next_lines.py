"""Every command printed as the next step works as it stands: pasted into a shell, for the same target."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.engine import journal
from gaudi_patch.engine.apply import ApplyOptions, apply
from gaudi_patch.target.installation import Target
from gaudi_patch.target.invocation import command_line
from tests.support import scenarios
from tests.support.cli import environment, gaudi_patch
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.faults import KILLED, KillAt, Recorder, in_child
from tests.support.tiny import Tiny

#: A shell would split this if it were not quoted.
AWKWARD = "an $odd 'name'; false"
PROGRAM = Path(sys.executable).with_name("gaudi-patch")


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return scenarios.few(tmp_path / AWKWARD)


def printed(document: dict[str, Any], text: str = "") -> list[str]:
    """Return every command line in a run's output: in backticks, or a whole hint."""
    said = [text, *document["warnings"]]
    for error in document["errors"]:
        said += [error["hint"], error["message"], *error["details"]]
    found = []
    for one in said:
        found += re.findall(r"`(gaudi-patch [^`]*)`", one)
        found += re.findall(r"^(?:next: )?(gaudi-patch .*)$", one, flags=re.MULTILINE)
    return found


def run(target: Tiny, *arguments: str) -> dict[str, Any]:
    given = (*arguments, "--path", str(target.site), "--manifest", str(target.manifest.directory), "--json")
    return gaudi_patch(*given).json


def paste(line: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """Run a printed line in a shell in another directory; return its exit code and JSON."""
    path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", f"{line} --json"],
        capture_output=True, text=True, env=environment(PATH=path), cwd=folder, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout, f"{line}\n{done.stderr}"
    return done.returncode, json.loads(done.stdout)


def pristine(target: Tiny) -> dict[str, Any]:
    return run(target, "check")


def partial(target: Tiny) -> dict[str, Any]:
    (target.site / "lmcache/engine.py").write_bytes(target.patched["lmcache/engine.py"] or b"")
    return run(target, "check")


def edited(target: Tiny) -> dict[str, Any]:
    target.apply()
    (target.site / "lmcache/engine.py").write_bytes(b"mine\n")
    return run(target, "rollback")


def interrupted(target: Tiny) -> dict[str, Any]:
    recorder = Recorder()
    target.apply(recorder)
    target.rollback()
    commit = recorder.calls.index(("unlink", target.home / journal.FILE))
    assert in_child(lambda: target.apply(KillAt(commit))) == KILLED
    return run(target, "check")


def unproved(target: Tiny) -> dict[str, Any]:
    apply(target.manifest, target.installation, ApplyOptions(unproved=True))
    return run(target, "check")


def unknown(target: Tiny) -> dict[str, Any]:
    other = {**scenarios.FEW, "lmcache/engine.py": b"# new\ndef device():\n    return 'cuda'\n"}
    wheel = fake_wheel(target.site.parent / "other", "0.5.7", other)
    for path in sorted(target.site.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    unpack(wheel, target.site)
    return run(target, "check")


def not_as_attested(target: Tiny) -> dict[str, Any]:
    report = target.site.parent / "attested here.json"
    assert run(target, "apply", "--no-smoke", "--report", str(report))["exit_code"] == 0
    target.rollback()
    return run(target, "check", "--against", str(report))


def no_attestation(target: Tiny) -> dict[str, Any]:
    return run(target, "check", "--against", str(target.site.parent / "not here.json"))


def stale_bytecode(target: Tiny) -> dict[str, Any]:
    scenarios.compile_all(target.site)
    for path, after in target.patched.items():
        file = target.site / path
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True) if after is None else file.write_bytes(after)
    (target.site / "lmcache/tool.sh").chmod(0o755)
    return run(target, "check")


@pytest.mark.parametrize(
    ("situation", "wanted"),
    [
        (pristine, 0),
        (partial, 2),
        (edited, 1),
        (interrupted, 2),
        (unproved, 2),
        (unknown, 2),
        (not_as_attested, 2),
        (no_attestation, 1),
        (stale_bytecode, 1),
    ],
)
def test_every_command_of_a_hint_works_on_the_same_target(
    situation: Callable[[Tiny], dict[str, Any]], wanted: int, target: Tiny, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = printed(situation(target))
    assert len(lines) >= wanted, lines
    for line in lines:
        if "dev port" in line:
            continue  # it asks PyPI for both releases
        code, document = paste(line, elsewhere)
        assert code not in (2, 3, 70), f"{line}: {document['errors']}"
        if " list" not in line:
            assert document["data"].get("root") in (str(target.site), None)
            assert not any(error["code"] == "bad-target" for error in document["errors"])


def test_the_next_step_of_check_is_a_whole_command_line(target: Tiny, tmp_path: Path) -> None:
    arguments = ("--path", str(target.site), "--manifest", str(target.manifest.directory))
    text = gaudi_patch("check", *arguments, env={"COLUMNS": "40"}).out
    (line,) = re.findall(r"^next: (.*)$", text, flags=re.MULTILINE)
    code, document = paste(f"{line} --no-smoke", tmp_path)
    assert (code, document["data"]["state"], document["data"]["root"]) == (0, "patched", str(target.site))


def test_a_rollback_of_nothing_names_the_check_of_the_same_target(target: Tiny, tmp_path: Path) -> None:
    done = gaudi_patch("rollback", "--path", str(target.site), "--manifest", str(target.manifest.directory))
    assert done.code == 0
    (line,) = re.findall(r"^next: (.*)$", done.out, flags=re.MULTILINE)
    code, document = paste(line, tmp_path)
    assert (code, document["data"]["state"], document["data"]["root"]) == (10, "pristine", str(target.site))


def test_a_target_is_repeated_as_it_was_given_and_paths_are_absolute(tmp_path: Path) -> None:
    there = Path("a b/python")
    assert command_line("apply", target=Target(python=Path("python3"))) == "gaudi-patch apply --python python3"
    assert command_line("apply", target=Target(python=there)) == f"gaudi-patch apply --python '{Path.cwd() / there}'"
    assert command_line("check", target=Target(root=tmp_path)) == f"gaudi-patch check --root {tmp_path}"
    assert command_line("apply", "--no-smoke", target=Target()) == "gaudi-patch apply --no-smoke"
    listed = command_line("list", target=Target(path=tmp_path), manifest=tmp_path)
    assert listed == f"gaudi-patch list --manifest {tmp_path}"

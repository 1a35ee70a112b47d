"""Whatever an interpreter does, each caller gets an answer of the right types, or gives a reason."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.authoring import prove
from gaudi_patch.doctor import case as doctor
from gaudi_patch.doctor.host import Host
from gaudi_patch.doctor.installed import Installed
from gaudi_patch.engine import bytecode
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.recipes import validate
from gaudi_patch.series.manifest import load
from gaudi_patch.smoke import target as smoke
from gaudi_patch.target import interpreter, packages
from gaudi_patch.target.locate import Target
from tests.support.fake_interpreter import SKIP_TO_SCRIPT, program

REAL = f'exec "{sys.executable}" "$@"'
#: The answer must still arrive.
HARMLESS = {
    "prints garbage first": f"printf '{{\"answer\": 1}}'; head -c 3000000 /dev/zero; echo x >&2; {REAL}",
    "leaves what holds stdout": f"sleep 60 & {REAL}",
    "leaves a daemon that holds stdout": f"setsid sleep 60 & {REAL}",
}
#: There is no answer, and the reason is given.
HARMFUL = {
    "answers 1 GiB": ("head -c 1073741824 /dev/zero >/dev/fd/$2", "larger than"),
    "answers a number": ("echo '{\"answer\": 1}' >/dev/fd/$2", "is not"),
    "answers null": ("echo '{\"answer\": null}' >/dev/fd/$2", "is not"),
    "answers other names": ('echo \'{"answer": {"a": [1]}}\' >/dev/fd/$2', "is not"),
    "answers a list of nothing": ("echo '{\"answer\": [{}]}' >/dev/fd/$2", "is not"),
    "answers half": ("printf '{\"answer\": {' >/dev/fd/$2", "no answer (exit status 0)"),
    "answers nonsense": ("echo nonsense >/dev/fd/$2", "not JSON"),
    "answers on stdout": ("echo '{\"answer\": {}}'", "no answer (exit status 0)"),
    "hangs": ("sleep 60", "within 2 s"),
    "exits with 0": ("exit 0", "exit status 0"),
    "exits with words": ("echo 'no disk left' >&2; exit 3", "no disk left"),
    "kills itself": ("kill -9 $$", "SIGKILL"),
    "crashes": ("kill -SEGV $$", "SIGSEGV"),
}


def check(python: Path, scratch: Path) -> str:
    try:
        found = interpreter.identify(str(python), "lmcache", os.environ)
    except GaudiPatchError as error:
        return f"{error.exit.name} {error.code}: {error.message}"
    assert found.version == sys.version_info[:2]
    return ""


def compiler(python: Path, scratch: Path) -> str:
    source = bytecode.Source(scratch / "m.py", b"x = 1\n", (bytecode.Output("", "checked", 0, 6),))
    try:
        ((data,),) = bytecode.compile_sources([source], python, own=False)
    except GaudiPatchError as error:
        return f"{error.exit.name} {error.code}: {error.message}"
    assert bytecode.mode_of(data) == "checked"
    return ""


def version(python: Path, scratch: Path) -> str | None:
    """Return None if there is no answer: this caller gives no reason."""
    found = packages.python_version(python)
    assert found in (None, ".".join(map(str, sys.version_info[:3])))
    return None if found is None else ""


def inspection(python: Path, scratch: Path) -> str:
    try:
        found = smoke.inspect(python, os.environ, scratch, ("json", "no_such_module"))
    except smoke.TargetError as error:
        return str(error)
    assert found.missing == ("no_such_module",)
    return ""


def examined(python: Path) -> doctor.Case:
    case = doctor.Case(Host(), Target(), load(None))
    case.__dict__["installed"] = Installed(python=python)
    case.__dict__["lmcache"] = None  # only whether it is an error matters
    return case


def devices(python: Path, scratch: Path) -> str:
    return examined(python).hpu.problem


def settings(python: Path, scratch: Path) -> str:
    problem = examined(python).settings.problem
    return "" if "No module named 'lmcache'" in problem else problem


def yaml(python: Path, scratch: Path) -> str:
    found = examined(python).yaml(scratch / "missing.yaml")
    return "" if found.refused or "No module named 'yaml'" in found.problem else found.problem


def recipe(python: Path, scratch: Path) -> str:
    with pytest.raises(GaudiPatchError) as caught:
        validate._ask(python, {"server": []}, validate._server)
    assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "cannot-validate")
    (detail,) = caught.value.details
    return "" if detail.startswith("PyTorch cannot be imported: No module named 'torch'") else detail


def port(python: Path, scratch: Path) -> str:
    try:
        paths = prove._site_packages(python)
    except GaudiPatchError as error:
        return f"{error.exit.name} {error.code}: {error.message}"
    assert all(Path(path).is_absolute() for path in paths)
    return ""


CALLERS: dict[str, Callable[[Path, Path], str | None]] = {
    "check": check,
    "compiler": compiler,
    "version": version,
    "smoke": inspection,
    "doctor's devices": devices,
    "doctor's configuration": settings,
    "doctor's file of vLLM": yaml,
    "recipe": recipe,
    "proof of a port": port,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> object:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 50


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (interpreter, "PROBE_TIMEOUT"),
        (bytecode, "TIMEOUT"),
        (packages, "_TIMEOUT"),
        (smoke, "_INSPECT_SECONDS"),
        (doctor, "_PROBE_SECONDS"),
        (validate, "TIMEOUT"),
        (prove, "_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 2.0)


@pytest.mark.parametrize("does", HARMLESS)
@pytest.mark.parametrize("caller", CALLERS)
def test_an_interpreter_with_bad_manners_is_understood(tmp_path: Path, caller: str, does: str) -> None:
    python = program(tmp_path / "python", f"#!/bin/sh\n{HARMLESS[does]}\n")
    assert CALLERS[caller](python, tmp_path) == ""


@pytest.mark.parametrize("does", HARMFUL)
@pytest.mark.parametrize("caller", CALLERS)
def test_an_interpreter_that_gives_no_answer_is_reported_with_the_cause(
    tmp_path: Path, impatient: None, caller: str, does: str
) -> None:
    script, cause = HARMFUL[does]
    python = program(tmp_path / "python", f"#!/bin/sh\n{SKIP_TO_SCRIPT}\n{script}\n")
    why = CALLERS[caller](python, tmp_path)
    if caller == "version":
        assert why is None
    else:
        assert why is not None and cause in why, why
        if caller in ("check", "compiler"):
            assert why.startswith("ENVIRONMENT interpreter-failed: ")


@pytest.mark.parametrize("caller", CALLERS)
def test_an_interpreter_that_is_not_there_is_reported(tmp_path: Path, caller: str) -> None:
    why = CALLERS[caller](tmp_path / "python", tmp_path)
    assert why is None if caller == "version" else "No such file" in str(why)


@pytest.mark.parametrize("name", ["x.pth", "sitecustomize.py", "usercustomize.py"])
def test_an_environment_whose_python_would_wait_at_its_start_is_not_started(tmp_path: Path, name: str) -> None:
    site = tmp_path / f"lib/python3.{sys.version_info[1]}/site-packages"
    site.mkdir(parents=True)
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(Path(sys.executable).resolve())
    (site / name).symlink_to("/dev/null")
    (site / "sub.pth").mkdir()
    assert check(tmp_path / "bin/python", tmp_path) == ""
    (site / name).unlink()
    os.mkfifo(site / name)
    assert str(site / name) in check(tmp_path / "bin/python", tmp_path)

"""`check --fast`: no interpreter is run, and the result is the same as that of `check`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.commands.check import checked
from gaudi_patch.engine.apply import ApplyOptions, apply
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.target.installation import Target
from gaudi_patch.target.locate import locate
from tests.support import tiny
from tests.support.cli import gaudi_patch
from tests.support.tiny import PRISTINE, Tiny


@pytest.fixture
def environment(tmp_path: Path) -> tuple[Path, Tiny]:
    """Return an environment directory whose python would fail, with the tiny LMCache in it."""
    made = tiny.make(tmp_path / "t")
    prefix = tmp_path / "venv"
    site = prefix / "lib" / "python3.11" / "site-packages"
    shutil.copytree(made.site, site)
    python = prefix / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 77\n")
    python.chmod(0o755)
    return python, made.at(site.resolve())


def run(python: Path, target: Tiny, *more: str | Path) -> tuple[int, str]:
    where = ("--python", python) if python else ()
    done = gaudi_patch("check", "--fast", *where, "--manifest", target.manifest.directory, "--json", *more)
    errors = done.json["errors"]
    return done.code, errors[0]["code"] if errors else done.json["data"]["state"]


def test_every_state_has_the_exit_code_of_check(environment: tuple[Path, Tiny]) -> None:
    python, target = environment
    assert run(python, target) == (10, "pristine")
    apply(target.manifest, target.installation, ApplyOptions())
    assert run(python, target) == (0, "patched")
    (target.site / "lmcache" / "engine.py").write_bytes(PRISTINE["lmcache/engine.py"])
    assert run(python, target) == (1, "partial")
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    assert run(python, target) == (1, "drift")
    shutil.rmtree(target.site / "lmcache")
    assert run(python, target)[0] in (2, 3)


def test_no_process_is_started(environment: tuple[Path, Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    python, target = environment
    apply(target.manifest, target.installation, ApplyOptions())

    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("os.posix_spawn", refuse)
    monkeypatch.setattr("os.fork", refuse)
    for given in (Target(python=python), Target(path=target.site), Target(root=python.parents[2])):
        result = checked(target.manifest, locate(given, ask=False))
        assert result.data["state"] == "patched"
        assert result.data["python"] is None


def test_bytecode_that_hides_a_patched_source_is_found_by_its_header(environment: tuple[Path, Tiny]) -> None:
    import py_compile

    python, target = environment
    source = target.site / "lmcache" / "engine.py"
    apply(target.manifest, target.installation, ApplyOptions())
    patched = source.read_bytes()
    source.write_bytes(PRISTINE["lmcache/engine.py"])
    cached = source.parent / "__pycache__" / f"engine.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(source), str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_bytes(patched)
    assert run(python, target) == (1, "stale-bytecode")


def another_library(python: Path) -> None:
    shutil.copytree(python.parents[1] / "lib" / "python3.11", python.parents[1] / "lib" / "python3.12")


def no_library(python: Path) -> None:
    shutil.rmtree(python.parents[1] / "lib")


@pytest.mark.parametrize("change", [another_library, no_library])
def test_what_only_the_interpreter_knows_is_not_guessed(
    change: Callable[[Path], None], environment: tuple[Path, Tiny]
) -> None:
    python, target = environment
    change(python)
    with pytest.raises(GaudiPatchError) as refused:
        locate(Target(python=python), ask=False)
    assert (int(refused.value.exit), refused.value.code) == (2, "needs-interpreter")
    assert "--path" in refused.value.hint
    if change is another_library:
        assert locate(Target(path=target.site), ask=False).root == target.site


def test_the_active_environment_and_this_one_are_taken_without_asking(
    environment: tuple[Path, Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    python, target = environment
    environ = {"VIRTUAL_ENV": str(python.parents[1])}
    assert locate(Target(), environ=environ, ask=False).root == target.site
    with pytest.raises(GaudiPatchError) as refused:
        locate(Target(python=Path(sys.executable)), "no_such_package", {}, ask=False)
    assert refused.value.code == "not-installed"
    with pytest.raises(GaudiPatchError) as refused:
        locate(Target(path=python), ask=False)
    assert refused.value.code == "bad-target"

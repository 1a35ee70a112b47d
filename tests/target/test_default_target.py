"""The target if no option is given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.locate import Target
from tests.target.installations import Python, error, find, install


class TestDefault:
    def test_the_active_environment_comes_first(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("venv", "conda", "own", "system"):
            install(tmp_path / name)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "own")])
        system = python(tmp_path / "system", name="python3")
        conda = python(tmp_path / "conda").parent.parent
        venv = python(tmp_path / "venv").parent.parent
        environ = {"PATH": str(system.parent)}
        assert find(Target(), environ).root == tmp_path / "own"
        environ["CONDA_PREFIX"] = str(conda)
        assert find(Target(), environ).root == tmp_path / "conda"
        environ["VIRTUAL_ENV"] = str(venv)
        found = find(Target(), environ)
        assert found.root == tmp_path / "venv"
        assert "VIRTUAL_ENV" in found.how

    def test_python3_on_the_path_is_asked_when_the_running_interpreter_has_none(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", [])
        install(tmp_path / "system")
        interpreter = python(tmp_path / "system", name="python3")
        found = find(Target(), {"PATH": f"{tmp_path}:{interpreter.parent}"})
        assert (found.root, found.how) == (tmp_path / "system", "python3 on PATH")

    @pytest.mark.parametrize(
        ("trace", "code"),
        [
            ("lmcache/__init__.py", "no-metadata"),
            ("lmcache-0.5.6.dist-info/x", "broken-metadata"),
            ("lmcache.egg-info/x", "legacy-install"),
            ("lmcache-0.5.6.dist-info/METADATA", "package-folder-missing"),
        ],
    )
    def test_a_trace_in_the_running_interpreter_is_not_passed_over(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch, trace: str, code: str
    ) -> None:
        (tmp_path / "own" / trace).parent.mkdir(parents=True)
        (tmp_path / "own" / trace).write_text("Name: lmcache\nVersion: 0.5.6\n")
        install(tmp_path / "system")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "own")])
        environ = {"PATH": str(python(tmp_path / "system", name="python3").parent)}
        assert error(Target(), environ).code == code

    @pytest.mark.parametrize("path", ["", "own"])
    def test_nothing_anywhere_is_not_found(self, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setattr(subprocess, "run", None)
        environ = {"PATH": str(Path(sys.executable).parent) if path else "/nonexistent"}
        assert error(Target(), environ).code == "not-installed"

    def test_an_active_environment_that_is_gone_is_not_passed_over(self, tmp_path: Path) -> None:
        failed = error(Target(), {"VIRTUAL_ENV": str(tmp_path / "gone")})
        assert failed.exit is Exit.ENVIRONMENT
        assert str(tmp_path / "gone") in str(failed) and "VIRTUAL_ENV" in str(failed)

    def test_two_targets_exclude_each_other(self, tmp_path: Path) -> None:
        failed = error(Target(python=tmp_path, root=tmp_path))
        assert (failed.exit, failed.code) == (Exit.USAGE, "bad-target")
        assert "--python" in str(failed) and "--root" in str(failed)

    def test_the_running_interpreters_folder_of_the_script_is_not_on_the_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The console script's directory, or with -m the current one, is not on a normal run's path."""
        info = install(tmp_path / "site")
        (tmp_path / "cwd" / "lmcache").mkdir(parents=True)
        (tmp_path / "cwd" / "lmcache" / "__init__.py").touch()
        monkeypatch.chdir(tmp_path / "cwd")
        for start in ("", str(tmp_path / "cwd")):
            monkeypatch.setattr(sys, "path", [start, str(tmp_path / "site")])
            assert find(Target()).dist_info == info

    def test_pythonpath_counts_for_the_running_interpreter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = install(tmp_path / "site")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        (tmp_path / "first" / "lmcache").mkdir(parents=True)
        (tmp_path / "first" / "lmcache" / "__init__.py").touch()
        monkeypatch.chdir(tmp_path)
        for value in (str(tmp_path / "first"), "first"):
            refused = error(Target(), {"PYTHONPATH": value})
            assert refused.details == [str(tmp_path / "first" / "lmcache"), str(info)]
        assert find(Target(), {"PYTHONPATH": ""}).dist_info == info

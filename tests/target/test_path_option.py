"""The values that --path accepts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.installation import Layout
from gaudi_patch.target.locate import Target
from tests.target.installations import Python, error, find, install, poisoned


class TestPath:
    def test_a_target_folder_of_pip_is_found_and_its_python_read_from_the_wheel(self, tmp_path: Path) -> None:
        info = install(tmp_path / "dir")
        (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_28_x86_64\n")
        found = find(Target(path=tmp_path / "dir"), {"PYTHONPYCACHEPREFIX": "/var/cache/pyc"})
        assert (found.layout, found.root, found.how) == (Layout.WHEEL, tmp_path / "dir", f"--path {tmp_path / 'dir'}")
        assert (found.python, found.python_version, found.cache_tag) == (None, (3, 11), "cpython-311")
        assert found.pycache_prefix == "/var/cache/pyc"
        assert find(Target(path=tmp_path / "dir"), {"PYTHONPYCACHEPREFIX": ""}).pycache_prefix is None

    @pytest.mark.parametrize("tag", ["py3-none-any", "cp310-abi3-linux_x86_64", "pp310-pypy310_pp73-linux_x86_64"])
    def test_a_tag_that_fits_many_pythons_says_nothing(self, tmp_path: Path, tag: str) -> None:
        info = install(tmp_path / "dir")
        (info / "WHEEL").write_text(f"Tag: {tag}\n")
        found = find(Target(path=tmp_path / "dir"))
        assert (found.python_version, found.cache_tag) == (None, None)

    def test_the_folder_name_tells_the_python(self, tmp_path: Path) -> None:
        info = install(tmp_path / "lib" / "python3.10" / "dist-packages")
        found = find(Target(path=info.parent))
        assert (found.python_version, found.cache_tag) == ((3, 10), "cpython-310")

    def test_no_interpreter_near_it_is_run(self, tmp_path: Path) -> None:
        info = install(tmp_path / "lib" / "python3.10" / "site-packages")
        poisoned(tmp_path / "bin" / "python3", tmp_path / "run")
        poisoned(tmp_path / "bin" / "python", tmp_path / "run")
        find(Target(path=info.parent), {"PATH": str(tmp_path / "bin")})
        assert not (tmp_path / "run").exists()

    def test_the_interpreter_is_known_when_it_is_the_running_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path / "site")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
        found = find(Target(path=tmp_path / "site"))
        assert (found.own_interpreter, found.python) == (True, Path(sys.executable))
        assert found.python_version == sys.version_info[:2]

    def test_the_interpreter_is_known_when_it_is_the_active_environments(self, tmp_path: Path, python: Python) -> None:
        first, second = tmp_path / "interpreters/0/site", tmp_path / "interpreters/0/other"
        interpreter = python(first, second)
        install(first)
        install(second)
        environ = {"VIRTUAL_ENV": str(interpreter.parent.parent)}
        assert find(Target(path=first), environ).python == interpreter
        assert find(Target(path=first), environ).warnings == ()
        found = find(Target(path=second), environ)
        assert any(str(first) in warning and str(second) in warning for warning in found.warnings)

    def test_the_active_environment_is_not_asked_about_folders_outside(self, tmp_path: Path) -> None:
        install(tmp_path / "dir")
        poisoned(tmp_path / "venv" / "bin" / "python", tmp_path / "run")
        find(Target(path=tmp_path / "dir"), {"VIRTUAL_ENV": str(tmp_path / "venv")})
        assert not (tmp_path / "run").exists()

    def test_an_active_environment_that_is_gone_is_no_obstacle(self, tmp_path: Path) -> None:
        install(tmp_path / "venv" / "dir")
        found = find(Target(path=tmp_path / "venv" / "dir"), {"VIRTUAL_ENV": str(tmp_path / "venv")})
        assert found.python is None

    def test_a_folder_of_the_running_interpreter_without_it_is_not_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "site").mkdir()
        install(tmp_path / "other")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(tmp_path / "other")])
        assert error(Target(path=tmp_path / "site")).code == "not-installed"

    def test_a_stray_init_beside_the_package_is_no_obstacle(self, tmp_path: Path) -> None:
        install(tmp_path / "site")
        (tmp_path / "site" / "__init__.py").touch()
        assert find(Target(path=tmp_path / "site")).root == tmp_path / "site"

    def test_a_folder_that_is_not_there_is_a_wrong_option(self, tmp_path: Path) -> None:
        failed = error(Target(path=tmp_path / "missing"))
        assert (failed.exit, failed.code) == (Exit.USAGE, "bad-target")

    def test_the_package_itself_is_a_wrong_option_that_names_the_right_one(self, tmp_path: Path) -> None:
        install(tmp_path / "site")
        failed = error(Target(path=tmp_path / "site" / "lmcache"))
        assert (failed.exit, failed.code) == (Exit.USAGE, "bad-target")
        assert str(tmp_path / "site") in failed.hint

    def test_an_environment_folder_is_a_wrong_option_that_names_the_right_one(self, tmp_path: Path) -> None:
        poisoned(tmp_path / "venv" / "bin" / "python3", tmp_path / "run")
        failed = error(Target(path=tmp_path / "venv"))
        assert (failed.exit, failed.code) == (Exit.USAGE, "bad-target")
        assert f"--python {tmp_path / 'venv'}" in failed.hint

    def test_an_empty_folder_is_not_found(self, tmp_path: Path) -> None:
        assert error(Target(path=tmp_path)).exit is Exit.NOT_FOUND

"""The values that --python accepts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target import interpreter as interpreters
from gaudi_patch.target.locate import Target
from tests.target.installations import Python, error, find, install


class TestPython:
    def test_an_environment_folder_and_a_name_on_the_path_are_understood(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        interpreter = python(tmp_path / "site", name="python3.12")
        by_name = find(Target(python=Path("python3.12")), {"PATH": f"/nonexistent:{interpreter.parent}"})
        assert by_name.python == interpreter
        interpreter = python(tmp_path / "site")
        assert find(Target(python=interpreter.parent.parent)).python == interpreter

    @pytest.mark.parametrize("kind", ["missing", "folder", "name"])
    def test_what_is_no_interpreter_is_a_wrong_option(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "folder").mkdir()
        given = {"missing": tmp_path / "missing", "folder": tmp_path / "folder", "name": Path("no-such-python")}
        failed = error(Target(python=given[kind]), {"PATH": "/usr/bin"})
        assert (failed.exit, failed.code) == (Exit.USAGE, "bad-target")
        assert str(given[kind]) in str(failed)

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("#!/bin/sh\necho broken >&2\nexit 3\n", "broken"),
            (
                "#!/bin/sh\nprintf 'Traceback (most recent call last):\\nImportError: no site\\n' >&2; exit 1\n",
                "ImportError: no",
            ),
            ("#!/bin/sh\nprintf 'Unknown option: -I\\nTry -h\\n' >&2; exit 2\n", "Unknown option: -I"),
            ("#!/bin/sh\nexit 3\n", "3"),
            ("#!/bin/sh\necho hello\n", "no answer"),
            ("#!/bin/sh\necho '{}'\n", "no answer"),
            ("#!/bin/sh\necho '[]'\n", "no answer"),
            ("#!/bin/sh\n", "no answer"),
            ("#!/nonexistent/interpreter\n", "No such file"),
            ("#!/bin/sh\nsleep 5\n", "within"),
        ],
    )
    def test_an_interpreter_that_cannot_answer_is_a_fault_of_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
    ) -> None:
        monkeypatch.setattr(interpreters, "PROBE_TIMEOUT", 0.5)
        program = tmp_path / "python"
        program.write_text(script)
        program.chmod(0o755)
        failed = error(Target(python=program))
        assert (failed.exit, failed.code) == (Exit.ENVIRONMENT, "interpreter-failed")
        assert str(program) in str(failed) and why in str(failed)

    def test_a_file_that_may_not_be_run_is_a_fault_of_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "python").write_text("#!/bin/sh\n")
        assert error(Target(python=tmp_path / "python")).code == "interpreter-failed"

    def test_what_the_interpreter_prints_at_its_start_is_not_the_answer(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        interpreter = python(tmp_path / "site")
        script = interpreter.read_text()
        interpreter.write_text(script.replace("\n", "\necho '{\"path\": 1}'; echo hello; echo warning >&2\n", 1))
        assert find(Target(python=interpreter)).root == tmp_path / "site"

    def test_the_running_interpreter_is_not_started_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path / "site")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        monkeypatch.setattr(subprocess, "run", None)
        found = find(Target(python=Path(sys.executable)))
        assert found.own_interpreter
        assert (found.prefix, found.cache_tag) == (Path(sys.prefix), sys.implementation.cache_tag)

    def test_another_environment_of_the_same_binary_is_not_the_running_one(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        other = tmp_path / "bin" / "python"
        other.symlink_to(Path(sys.executable).resolve())
        assert not interpreters.is_own(str(other))
        assert interpreters.is_own(sys.executable)
        assert not interpreters.is_own(str(tmp_path / "missing"))

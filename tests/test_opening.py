"""What cannot be looked at is not taken for missing: an error is raised, and a first ENOENT is looked at again."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import gaudi_patch
from gaudi_patch import opening

ENGINE = Path(gaudi_patch.__file__).parent / "engine"
#: They answer no to every error (os.path), or do so from Python 3.14 on (pathlib).
DEAF = {"lexists", "exists", "is_dir", "is_file", "is_symlink", "isdir", "isfile", "islink"}


class Stat:
    """Stands for Path.stat, and raises one error at the first ``times`` calls."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.times, self.real = number, times, Path.stat

    def __get__(self, path: Path, owner: type) -> Any:
        def stat(*, follow_symlinks: bool = True) -> os.stat_result:
            self.times -= 1
            if self.times >= 0:
                raise OSError(self.number, os.strerror(self.number), str(path))
            return self.real(path, follow_symlinks=follow_symlinks)

        return stat


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_an_error_is_raised_and_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(Path, "stat", Stat(number, 2))
    with pytest.raises(OSError, match=os.strerror(number)):
        opening.is_there(tmp_path)
    with pytest.raises(OSError, match=os.strerror(number)):
        opening.is_directory(tmp_path)
    assert opening.is_directory(tmp_path)


def test_what_is_there_at_a_second_look_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "stat", Stat(errno.ENOENT, 1))
    assert opening.is_directory(tmp_path)
    assert not opening.is_there(tmp_path / "nothing")


def test_links_are_there_and_followed_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for name, target in {"link": "directory", "nowhere": "nothing", "loop": "loop"}.items():
        (tmp_path / name).symlink_to(target)
        assert opening.is_there(tmp_path / name)
        assert not opening.is_directory(tmp_path / name, follow=False)
        assert opening.is_directory(tmp_path / name) is (name == "link")
    (tmp_path / "file").touch()
    assert not opening.is_there(tmp_path / "file/below")


def test_the_engine_asks_no_question_that_takes_an_error_for_no() -> None:
    """A temporary file that could not be looked at was left for good: os.path.lexists said that it was gone."""
    files = sorted(ENGINE.glob("*.py"))
    assert files
    asked = {
        f"{file.name}:{node.lineno} {node.func.attr}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DEAF
    }
    assert asked == set()

"""A path that cannot be read is not mistaken for missing: an error is raised, and a first ENOENT is checked again."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import gaudi_patch
from gaudi_patch import opening
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.target import locate
from gaudi_patch.target.installation import Target
from tests.support import tiny

PACKAGE = Path(gaudi_patch.__file__).parent
#: A wrong "no" here changes which files are written, which installation is meant, or where the state is kept.
DECIDING = [
    *sorted((PACKAGE / "engine").glob("*.py")),
    *(
        PACKAGE / "target" / name
        for name in ("image_root.py", "locate.py", "refusals.py", "search.py", "site_folder.py", "unasked.py")
    ),
    PACKAGE / "wheel/output.py",
]
#: These return False on every error: in os.path always, in pathlib from Python 3.14 on.
DEAF = {"lexists", "exists", "is_dir", "is_file", "is_symlink", "isdir", "isfile", "islink"}


class Stat:
    """Replaces Path.stat, and raises ``error`` in the first ``times`` calls."""

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


@pytest.mark.parametrize("name", [".git", "HEAD", "gitdir", "config"])
def test_a_checkout_that_cannot_be_looked_at_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its state went elsewhere, and a git directory that names another checkout was mistaken for its own."""
    git = tmp_path / "git"
    git.mkdir()
    for file in ("HEAD", "gitdir", "config"):
        (git / file).touch()
    (git / "gitdir").write_text(str(tmp_path / "tree/.git") + "\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/.git").write_text(f"gitdir: {git}\n")
    assert locate.git_dir(str(tmp_path / "tree")) == str(git)
    real = os.stat

    def failing(path: Any, **how: Any) -> os.stat_result:
        if Path(path).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, **how)

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        locate.git_dir(str(tmp_path / "tree"))


def failing_at(monkeypatch: pytest.MonkeyPatch, call: str, name: str, number: int = errno.EIO) -> None:
    """Make ``os.CALL`` fail for every path of this name."""
    real = getattr(os, call)

    def failing(path: Any, *more: Any, **how: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == name:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *more, **how)

    monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize("name", ["lmcache", "RECORD", "site"])
@pytest.mark.parametrize("ask", [True, False])
def test_a_package_whose_part_cannot_be_looked_at_is_not_taken_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ask: bool
) -> None:
    """With RECORD mistaken for missing, a series would have been applied with files unknown to pip."""
    site = tiny.make(tmp_path).site
    failing_at(monkeypatch, "stat", name)
    with pytest.raises(GaudiPatchError) as caught:
        locate.locate(Target(path=site), ask=ask)
    assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "unreadable")


@pytest.mark.parametrize(
    ("call", "name"), [("stat", "site-packages"), ("readlink", "site-packages"), ("stat", "RECORD")]
)
def test_an_image_whose_part_cannot_be_looked_at_is_not_taken_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    """A link mistaken for a directory would be followed on the host."""
    packages = tmp_path / "root/usr/lib/python3.11/site-packages"
    packages.parent.mkdir(parents=True)
    tiny.make(tmp_path).site.rename(packages)
    assert locate.locate(Target(root=tmp_path / "root")).root == packages
    failing_at(monkeypatch, call, name)
    with pytest.raises(GaudiPatchError):
        locate.locate(Target(root=tmp_path / "root"))


def test_where_an_answer_decides_no_question_takes_an_error_for_no() -> None:
    """An unreadable temporary file was once left for good: os.path.lexists reported it missing."""
    assert len(DECIDING) > 2
    asked = {
        f"{file.name}:{node.lineno} {node.func.attr}"
        for file in DECIDING
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DEAF
    }
    assert asked == set()

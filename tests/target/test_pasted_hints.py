"""Hints are pasted into a shell: they name the target's interpreter, and each path is one word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gaudi_patch.target.locate import Target
from tests.target.installations import Python, checkout, error, install, install_editable


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory whose name a shell would split."""
    folder = tmp_path / "two words"
    folder.mkdir()
    return folder


def commands(hint: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"`([^`]+)`", hint)]


class TestEditableInstallations:
    def test_one_without_git_names_the_targets_pip(self, home: Path, python: Python) -> None:
        source = checkout(home / "src")
        (source / ".git" / "HEAD").unlink()
        (source / ".git").rmdir()
        install_editable(home / "site", source)
        interpreter = python(home / "site", source)
        refused = error(Target(python=interpreter))
        assert refused.code == "editable-without-git"
        assert commands(refused.hint) == [
            ["pip", "--python", str(interpreter), "install", "--no-deps", str(source)],
            ["git", "init", str(source)],
        ]

    def test_a_strict_one_names_the_targets_pip(self, home: Path, python: Python) -> None:
        source = checkout(home / "src")
        links = source / "build" / "__editable__.lmcache-0.5.7-py3-none-any"
        links.mkdir(parents=True)
        (source / "lmcache").rename(links / "lmcache")
        install_editable(home / "site", source)
        interpreter = python(home / "site", links)
        refused = error(Target(python=interpreter))
        assert refused.code == "strict-editable"
        assert commands(refused.hint) == [
            ["pip", "--python", str(interpreter), "install", "--no-deps", "-e", str(source)]
        ]

    def test_one_without_its_package_names_its_source_tree(self, home: Path) -> None:
        install_editable(home / "site", home / "gone")
        refused = error(Target(path=home / "site"))
        assert refused.code == "package-folder-missing"
        assert commands(refused.hint) == [["pip", "install", "--no-deps", "-e", str(home / "gone")]]


class TestOptions:
    def test_each_of_several_installations_can_be_chosen(self, home: Path, python: Python) -> None:
        sites = [home / "a", home / "b"]
        for site in sites:
            install(site)
        refused = error(Target(python=python(*sites)))
        assert refused.code == "ambiguous-installation"
        for site in sites:
            assert shlex.join(["--path", str(site)]) in refused.hint

    def test_a_linked_package_names_the_tree_behind_the_link(self, home: Path) -> None:
        install(home / "site")
        (home / "elsewhere").mkdir()
        (home / "site" / "lmcache").rename(home / "elsewhere" / "lmcache")
        (home / "site" / "lmcache").symlink_to("../elsewhere/lmcache")
        refused = error(Target(path=home / "site"))
        assert refused.code == "symlinked-package"
        assert shlex.join(["--path", str(home / "elsewhere")]) in refused.hint

    def test_a_checkout_on_the_path_can_be_patched(self, home: Path, python: Python) -> None:
        source = checkout(home / "src")
        refused = error(Target(python=python(source)))
        assert refused.code == "no-metadata"
        assert shlex.join(["--path", str(source)]) in refused.hint

"""Editable installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.installation import Layout
from gaudi_patch.target.locate import Target
from tests.support.fake_wheel import fake_project
from tests.target.installations import Python, checkout, error, find, install, install_editable


class TestEditable:
    def test_it_is_located_on_its_source_tree_with_state_in_the_git_folder(
        self, tmp_path: Path, python: Python
    ) -> None:
        source = checkout(tmp_path / "my src")
        (source / "lmcache.egg-info").mkdir()
        info = install_editable(tmp_path / "site", source)
        found = find(Target(python=python(tmp_path / "site", source)))
        assert (found.layout, found.root, found.dist_info) == (Layout.EDITABLE, source, info)
        assert found.state_dir == source / ".git" / "gaudi-patch"
        assert found.record is None
        assert found.version == "0.5.7.dev3+g123"

    def test_a_setuptools_finder_is_believed(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src", {"python/lmcache/__init__.py": ""})
        install_editable(tmp_path / "site", source)
        finder = str(source / "python" / "lmcache")
        interpreter = python(tmp_path / "site", finder_folder=finder)
        found = find(Target(python=interpreter))
        assert (found.root, found.state_dir) == (source / "python", source / ".git" / "gaudi-patch")
        (tmp_path / "site" / "lmcache").mkdir()  # a directory without __init__ does not take precedence
        assert find(Target(python=interpreter)).root == source / "python"

    def test_a_package_on_the_path_comes_before_a_finder(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        install(tmp_path / "site")
        finder = str(source / "lmcache")
        assert find(Target(python=python(tmp_path / "site", finder_folder=finder))).root == tmp_path / "site"

    @pytest.mark.parametrize("layout", ["", "src/"])
    def test_without_a_finder_the_project_folder_is_looked_at(
        self, tmp_path: Path, python: Python, layout: str
    ) -> None:
        source = checkout(tmp_path / "src", {f"{layout}lmcache/__init__.py": ""})
        install_editable(tmp_path / "site", source)
        assert find(Target(python=python(tmp_path / "site"))).root == source / layout
        assert find(Target(path=tmp_path / "site")).root == source / layout

    def test_a_folder_without_init_in_site_packages_does_not_hide_it(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        install_editable(tmp_path / "site", source)
        (tmp_path / "site" / "lmcache").mkdir()
        assert find(Target(python=python(tmp_path / "site"))).root == source

    @pytest.mark.parametrize("line", ["{source}/code", "../src/code"])
    def test_path_lines_are_followed_and_import_lines_are_not_run(self, tmp_path: Path, line: str) -> None:
        source = checkout(tmp_path / "src", {"code/lmcache/__init__.py": ""})
        (tmp_path / "site" / "rest" / "lmcache").mkdir(parents=True)
        run = f"import os; os.mkdir({str(tmp_path / 'run')!r})"
        install_editable(tmp_path / "site", source, pth=f"# a comment\n{run}\n\nrest\n{line.format(source=source)}\n")
        assert find(Target(path=tmp_path / "site")).root == source / "code"
        assert not (tmp_path / "run").exists()

    def test_a_source_tree_without_git_is_refused_even_inside_a_repository(
        self, tmp_path: Path, python: Python
    ) -> None:
        outer = checkout(tmp_path / "outer")
        source = fake_project(outer / "third_party" / "lmcache-src")
        info = install_editable(tmp_path / "site", source)
        refused = error(Target(python=python(tmp_path / "site", source)))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "editable-without-git")
        assert refused.details == [str(info), str(source)]

    def test_a_strict_editable_install_is_refused(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        links = source / "build" / "__editable__.lmcache-0.5.7-py3-none-any"
        (links / "lmcache").mkdir(parents=True)
        (links / "lmcache" / "__init__.py").symlink_to(source / "lmcache" / "__init__.py")
        install_editable(tmp_path / "site", source)
        assert error(Target(python=python(tmp_path / "site", links))).code == "strict-editable"

    def test_a_package_folder_left_in_site_packages_shadows_it(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        info = install_editable(tmp_path / "site", source)
        old = tmp_path / "site" / "lmcache"
        old.mkdir()
        (old / "__init__.py").touch()
        refused = error(Target(python=python(tmp_path / "site", source)))
        assert refused.code == "shadowed-installation"
        assert str(old) in str(refused) and str(info) in str(refused) and str(source) in str(refused)

    def test_a_neighbour_with_the_same_start_of_name_is_not_its_source(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        other = checkout(tmp_path / "src-old")
        install_editable(tmp_path / "site", source)
        assert error(Target(python=python(tmp_path / "site", other))).code == "shadowed-installation"

    def test_a_source_tree_that_is_gone_is_refused(self, tmp_path: Path, python: Python) -> None:
        info = install_editable(tmp_path / "site", tmp_path / "gone")
        refused = error(Target(python=python(tmp_path / "site")))
        assert refused.code == "package-folder-missing"
        assert refused.details == [str(info), str(tmp_path / "gone")]

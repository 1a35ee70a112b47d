"""Git checkouts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.installation import Layout
from gaudi_patch.target.locate import Target, git_dir
from tests.support.fake_wheel import fake_project
from tests.target.installations import Python, checkout, error, find, install


class TestCheckout:
    def test_the_top_of_a_git_checkout_is_taken_with_state_in_its_git_folder(self, tmp_path: Path) -> None:
        source = checkout(tmp_path / "src")
        (source / "lmcache.egg-info").mkdir()
        found = find(Target(path=source))
        assert (found.layout, found.root, found.version) == (Layout.CHECKOUT, source, "")
        assert found.state_dir == source / ".git" / "gaudi-patch"
        assert (found.dist_info, found.record, found.python) == (None, None, None)

    @pytest.mark.parametrize("relative", [False, True])
    def test_a_worktree_keeps_its_state_in_the_real_git_folder(self, tmp_path: Path, relative: bool) -> None:
        real = tmp_path / "main" / ".git" / "worktrees" / "wt"
        real.mkdir(parents=True)
        (real / "HEAD").write_text("ref: refs/heads/x\n")
        source = fake_project(tmp_path / "wt")
        (real / "gitdir").write_text(f"{os.path.relpath(source / '.git', real) if relative else source / '.git'}\n")
        pointer = os.path.relpath(real, source) if relative else real
        (source / ".git").write_text(f"gitdir: {pointer}\n")
        assert find(Target(path=source)).state_dir == real / "gaudi-patch"

    def test_a_submodule_and_a_separate_git_folder_are_taken(self, tmp_path: Path) -> None:
        source = fake_project(tmp_path / "main/sub")
        for name, config in {
            "modules/sub": "[core]\n\tworktree = ../../sub\n",
            "apart": "[core]\n\tbare = false\n",
        }.items():
            git = tmp_path / "main" / name
            git.mkdir(parents=True)
            (git / "HEAD").write_text("ref: refs/heads/x\n")
            (git / "config").write_text(config)
            (source / ".git").write_text(f"gitdir: {git}\n")
            assert find(Target(path=source)).state_dir == git / "gaudi-patch"

    @pytest.mark.parametrize("how", ["pointer", "link", "worktree", "submodule", "other user"])
    def test_the_git_folder_of_another_checkout_is_not_written_to(self, tmp_path: Path, how: str) -> None:
        """The creator of a checkout can point its .git anywhere."""
        other = checkout(tmp_path / "other")
        source = fake_project(tmp_path / "src")
        git = other / ".git"
        if how == "worktree":
            git = other / ".git/worktrees/wt"
            git.mkdir(parents=True)
            (git / "gitdir").write_text(f"{tmp_path / 'elsewhere/.git'}\n")
        elif how == "submodule":
            git = other / ".git/modules/sub"
            git.mkdir(parents=True)
            (git / "config").write_text("[core]\n\tworktree = ../../../sub\n")
        elif how == "other user":
            if os.geteuid() != 0:
                pytest.skip("only root can give a directory away")
            git = tmp_path / "apart"
            git.mkdir()
            os.chown(git, 1234, 1234)
        (git / "HEAD").write_text("ref: refs/heads/x\n")
        if how == "link":
            (source / ".git").symlink_to(git)
        else:
            (source / ".git").write_text(f"gitdir: {git}\n")
        refused = error(Target(path=source))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "foreign-git-folder")

    @pytest.mark.parametrize("dot_git", ["empty directory", "dangling pointer", "garbage", "dangling link"])
    def test_a_git_folder_that_is_none_is_refused(self, tmp_path: Path, dot_git: str) -> None:
        source = fake_project(tmp_path / "src")
        path = source / ".git"
        if dot_git == "empty directory":
            path.mkdir()
        elif dot_git == "dangling link":
            path.symlink_to("nowhere")
        else:
            path.write_text("gitdir: /nonexistent\n" if dot_git == "dangling pointer" else "\xff\n", "latin-1")
        refused = error(Target(path=source))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "broken-checkout")

    def test_a_repository_without_the_package_is_no_checkout_of_it(self, tmp_path: Path) -> None:
        source = checkout(tmp_path / "src", {"lmcache/notes.txt": ""})
        assert error(Target(path=source)).code == "not-installed"

    def test_site_packages_under_git_with_broken_metadata_are_no_checkout(self, tmp_path: Path) -> None:
        source = checkout(tmp_path / "site")
        (source / "lmcache-0.5.6.dist-info").mkdir()
        assert error(Target(path=source)).code == "broken-metadata"

    def test_an_enclosing_repository_makes_no_checkout(self, tmp_path: Path) -> None:
        outer = checkout(tmp_path / "outer")
        inner = fake_project(outer / "vendor")
        assert git_dir(str(inner)) is None
        assert error(Target(path=inner)).code == "no-metadata"

    def test_an_environment_inside_a_repository_is_a_wheel_install(self, tmp_path: Path, python: Python) -> None:
        outer = checkout(tmp_path / "outer")
        info = install(outer / ".venv" / "lib" / "python3.12" / "site-packages")
        for target in (Target(python=python(info.parent)), Target(path=info.parent)):
            found = find(target)
            assert (found.layout, found.state_dir) == (Layout.WHEEL, info / "gaudi-patch")

    def test_site_packages_under_git_are_a_wheel_install(self, tmp_path: Path) -> None:
        info = install(tmp_path / "site")
        (tmp_path / "site" / ".git").mkdir()
        (tmp_path / "site" / ".git" / "HEAD").touch()
        assert find(Target(path=tmp_path / "site")).state_dir == info / "gaudi-patch"

    def test_a_linked_package_folder_is_refused(self, tmp_path: Path) -> None:
        source = checkout(tmp_path / "src")
        (source / "lmcache").rename(tmp_path / "real")
        (source / "lmcache").symlink_to(tmp_path / "real")
        assert error(Target(path=source)).code == "symlinked-package"

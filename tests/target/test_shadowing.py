"""Packages that another path shadows."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.locate import Target
from tests.target.installations import Python, checkout, error, find, install


class TestShadowing:
    def test_a_package_that_comes_first_without_metadata_is_refused_naming_both(
        self, tmp_path: Path, python: Python
    ) -> None:
        info = install(tmp_path / "site")
        vendored = tmp_path / "vendored" / "lmcache"
        vendored.mkdir(parents=True)
        (vendored / "__init__.py").touch()
        refused = error(Target(python=python(tmp_path / "vendored", tmp_path / "site")))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "shadowed-installation")
        assert refused.details == [str(vendored), str(info)]
        assert str(vendored) in str(refused) and str(info) in str(refused)

    @pytest.mark.parametrize("init", ["__init__.py", "__init__.pyc", "__init__.cpython-312-x86_64-linux-gnu.so"])
    def test_whatever_makes_a_folder_a_package_can_shadow(self, tmp_path: Path, python: Python, init: str) -> None:
        install(tmp_path / "site")
        (tmp_path / "first" / "lmcache").mkdir(parents=True)
        (tmp_path / "first" / "lmcache" / init).touch()
        assert error(Target(python=python(tmp_path / "first", tmp_path / "site"))).code == "shadowed-installation"

    def test_a_copy_that_comes_later_is_reported_and_left_alone(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        later = tmp_path / "later" / "lmcache"
        later.mkdir(parents=True)
        (later / "__init__.py").touch()
        found = find(Target(python=python(tmp_path / "site", tmp_path / "later")))
        assert found.root == tmp_path / "site"
        assert found.warnings == (f"{later} is left alone (never imported: another copy comes first)",)

    @pytest.mark.parametrize(
        "name", ["lmcache.py", "lmcache.pyc", "lmcache.so", "lmcache.cpython-312-x86_64-linux-gnu.so"]
    )
    def test_a_module_of_that_name_that_comes_first_is_refused(self, tmp_path: Path, python: Python, name: str) -> None:
        info = install(tmp_path / "site")
        (tmp_path / "first").mkdir()
        (tmp_path / "first" / name).touch()
        refused = error(Target(python=python(tmp_path / "first", tmp_path / "site")))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "not-a-folder-install")
        assert refused.details == [str(tmp_path / "first" / name), str(info)]

    @pytest.mark.parametrize(
        "name",
        ["lmcache", "lmcache-0.5.txt", "lmcache.txt", "lmcache.foo.py", "lmcache_x.py", "lmcache.d", "Lmcache.py"],
    )
    def test_files_that_import_would_not_take_shadow_nothing(self, tmp_path: Path, python: Python, name: str) -> None:
        install(tmp_path / "site")
        (tmp_path / "first").mkdir()
        (tmp_path / "first" / name).touch()
        assert find(Target(python=python(tmp_path / "first", tmp_path / "site"))).root == tmp_path / "site"

    def test_a_folder_without_init_shadows_nothing(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        (tmp_path / "first" / "lmcache").mkdir(parents=True)
        found = find(Target(python=python(tmp_path / "first", tmp_path / "site")))
        assert (found.root, found.warnings) == (tmp_path / "site", ())

    @pytest.mark.parametrize("member", ["lmcache/__init__.py", "lmcache.py"])
    def test_a_zip_on_the_path_that_holds_it_is_refused(self, tmp_path: Path, python: Python, member: str) -> None:
        install(tmp_path / "site")
        archive = tmp_path / "bundle.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(member, "")
        refused = error(Target(python=python(archive, tmp_path / "site")))
        assert refused.code == "not-a-folder-install"
        assert str(archive) in str(refused)
        assert error(Target(python=python(archive))).code == "not-a-folder-install"

    def test_other_files_on_the_path_are_passed_over(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
            file.writestr("torch/__init__.py", "")
        (tmp_path / "text").write_text("no zip")
        path = (tmp_path / "other.zip", tmp_path / "text", tmp_path / "site")
        assert find(Target(python=python(*path))).root == tmp_path / "site"

    def test_a_package_built_into_the_interpreter_is_refused(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        assert error(Target(python=python(tmp_path / "site", frozen=True))).code == "not-a-folder-install"

    @pytest.mark.parametrize("what", ["folder", "init"])
    def test_metadata_without_the_package_folder_is_refused_naming_both(
        self, tmp_path: Path, python: Python, what: str
    ) -> None:
        info = install(tmp_path / "site")
        folder = tmp_path / "site" / "lmcache"
        if what == "init":
            (folder / "__init__.py").unlink()
        else:
            folder.rename(tmp_path / "gone")
        (tmp_path / "rest" / "lmcache").mkdir(parents=True)
        refused = error(Target(python=python(tmp_path / "site", tmp_path / "rest")))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "package-folder-missing")
        assert refused.details == [str(info), str(folder)]
        assert ("__init__.py" if what == "init" else "is missing") in str(refused)

    def test_metadata_here_and_the_package_there_is_refused_naming_both(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        (tmp_path / "later").mkdir()
        (tmp_path / "site" / "lmcache").rename(tmp_path / "later" / "lmcache")
        refused = error(Target(python=python(tmp_path / "site", tmp_path / "later")))
        assert refused.code == "shadowed-installation"
        assert refused.details == [str(tmp_path / "later" / "lmcache"), str(info)]

    def test_a_package_without_any_metadata_is_refused(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        info.rename(tmp_path / "moved")
        refused = error(Target(python=python(tmp_path / "site")))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "no-metadata")
        assert str(tmp_path / "site" / "lmcache") in str(refused)
        assert "--path" not in refused.hint
        assert "dist-info" in str(refused)

    def test_a_checkout_on_the_path_is_refused_with_the_way_to_patch_it(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        refused = error(Target(python=python(source)))
        assert refused.code == "no-metadata"
        assert f"--path {source}" in refused.hint
        assert "checkout" in str(refused)

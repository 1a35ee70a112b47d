"""Links on the path to an installation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.locate import Target
from tests.target.installations import Python, checkout, error, find, install


class TestLinks:
    def test_a_package_folder_that_is_a_link_is_refused_naming_both(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        (tmp_path / "site" / "lmcache").rename(tmp_path / "elsewhere")
        (tmp_path / "site" / "lmcache").symlink_to("../elsewhere")
        for target in (Target(python=python(tmp_path / "site")), Target(path=tmp_path / "site")):
            refused = error(target)
            assert (refused.exit, refused.code) == (Exit.REFUSED, "symlinked-package")
            assert refused.details == [str(tmp_path / "site" / "lmcache"), str(tmp_path / "elsewhere")]

    def test_a_metadata_folder_that_is_a_link_is_refused(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        info.rename(tmp_path / "elsewhere")
        info.symlink_to(tmp_path / "elsewhere")
        assert error(Target(python=python(tmp_path / "site"))).code == "symlinked-package"

    def test_files_that_are_links_as_uv_makes_them_are_no_obstacle(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        cache = tmp_path / "cache"
        cache.mkdir()
        for number, file in enumerate(sorted(f for f in (tmp_path / "site").rglob("*") if f.is_file())):
            file.rename(cache / str(number))
            file.symlink_to(cache / str(number))
        found = find(Target(python=python(tmp_path / "site")))
        assert found.root == tmp_path / "site"
        assert found.record == info / "RECORD"

    def test_a_linked_site_packages_folder_is_resolved_once(self, tmp_path: Path) -> None:
        install(tmp_path / "real")
        (tmp_path / "link").symlink_to("real")
        found = find(Target(path=tmp_path / "link"))
        assert found.root == tmp_path / "real"
        assert found.state_dir == tmp_path / "real" / "lmcache-0.5.6.dist-info" / "gaudi-patch"


class TestLegacy:
    @pytest.mark.parametrize("name", ["lmcache-0.3.7-py3.11.egg-info", "lmcache.egg-info", "LMCache.egg-link"])
    def test_an_install_from_before_wheels_is_refused_naming_it(
        self, tmp_path: Path, python: Python, name: str
    ) -> None:
        info = install(tmp_path / "site")
        info.rename(tmp_path / "site" / name)
        interpreter = python(tmp_path / "site")
        refused = error(Target(python=interpreter))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "legacy-install")
        assert refused.details == [str(tmp_path / "site" / name)]
        assert f"imported from {tmp_path / 'site' / 'lmcache'}" in str(refused)
        assert "--path" not in refused.hint
        old, new = map(shlex.split, re.findall(r"`([^`]+)`", refused.hint))
        assert old == ["pip", "--python", str(interpreter), "uninstall", "--yes", "lmcache"]
        assert new == ["pip", "--python", str(interpreter), "install", "lmcache"]
        (tmp_path / "site" / "lmcache").rename(tmp_path / "gone")
        (tmp_path / "site" / ".git").mkdir()
        refused = error(Target(python=python(tmp_path / "site")))
        assert refused.code == "legacy-install"
        assert "imported" not in str(refused) and "--path" not in refused.hint

    def test_a_wheel_installed_over_an_older_kind_is_ambiguous(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        old = tmp_path / "site" / "lmcache-0.3.7-py3.11.egg-info"
        old.touch()
        refused = error(Target(python=python(tmp_path / "site")))
        assert refused.code == "ambiguous-installation"
        assert refused.details == [str(info), str(old)]

    def test_a_developed_checkout_is_refused_with_the_way_to_patch_it(self, tmp_path: Path, python: Python) -> None:
        source = checkout(tmp_path / "src")
        (source / "lmcache.egg-info").mkdir()
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "lmcache.egg-link").write_text(f"{source}\n.")
        refused = error(Target(python=python(tmp_path / "site", source)))
        assert refused.code == "legacy-install"
        assert f"--path {source}" in refused.hint

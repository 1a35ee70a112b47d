"""Several installations, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.locate import Target
from tests.target.installations import Python, error, find, install


class TestSeveralOrNone:
    def test_two_valid_metadata_in_one_folder_are_refused_naming_both(self, tmp_path: Path, python: Python) -> None:
        infos = [install(tmp_path / "site", version) for version in ("0.4.2", "0.5.6")]
        refused = error(Target(python=python(tmp_path / "site")))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "ambiguous-installation")
        assert refused.details == [str(info) for info in infos]
        assert all(str(info) in str(refused) for info in infos)

    def test_two_spellings_of_the_name_are_two_installations(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site", "0.5.6")
        install(tmp_path / "site", "0.5.6", name="LMCache")
        assert error(Target(python=python(tmp_path / "site"))).code == "ambiguous-installation"

    def test_two_installations_on_the_path_are_refused_with_both_ways_to_choose(
        self, tmp_path: Path, python: Python
    ) -> None:
        infos = [install(tmp_path / name) for name in ("user", "system")]
        interpreter = python(tmp_path / "user", tmp_path / "system")
        refused = error(Target(python=interpreter))
        assert refused.code == "ambiguous-installation"
        for info in infos:
            assert str(info) in str(refused)
            assert f"--path {info.parent}" in refused.hint
        assert find(Target(path=tmp_path / "system")).root == tmp_path / "system"

    def test_metadata_without_a_valid_file_does_not_count_and_is_reported(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        empty = tmp_path / "site" / "lmcache-0.5.0.dist-info"
        empty.mkdir()
        found = find(Target(python=python(tmp_path / "site")))
        assert found.version == "0.5.6"
        assert any(str(empty) in warning and "METADATA" in warning for warning in found.warnings)

    @pytest.mark.parametrize(
        ("metadata", "why"),
        [
            (None, "no METADATA"),
            (b"Name: lmcache\n\n", "no version"),
            (b"Name: lmcache\nVersion:\n\n", "no version"),
            (b"Name: torch\nVersion: 2\n\n", "names torch"),
            (b"", "no package"),
        ],
    )
    def test_broken_metadata_alone_is_no_installation_and_says_why(
        self, tmp_path: Path, python: Python, metadata: bytes | None, why: str
    ) -> None:
        info = install(tmp_path / "site")
        (info / "METADATA").unlink()
        if metadata is not None:
            (info / "METADATA").write_bytes(metadata)
        failed = error(Target(python=python(tmp_path / "site")))
        assert (failed.exit, failed.code, failed.details) == (Exit.NOT_FOUND, "broken-metadata", [str(info)])
        assert why in str(failed)

    @pytest.mark.parametrize("name", ["~mcache", "~mcache-0.5.0.dist-info", "~-cache", "~%~ache", "~=0che"])
    def test_what_an_interrupted_pip_left_is_ignored_with_a_warning(
        self, tmp_path: Path, python: Python, name: str
    ) -> None:
        install(tmp_path / "site")
        (tmp_path / "site" / name).mkdir()
        found = find(Target(python=python(tmp_path / "site")))
        assert [w for w in found.warnings if str(tmp_path / "site" / name) in w] == list(found.warnings) != []

    def test_leftovers_of_other_packages_are_not_our_business(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "site")
        for name in ("~orch", "~ip-23.0.dist-info", "~", "~he"):
            (tmp_path / "site" / name).mkdir()
        assert find(Target(python=python(tmp_path / "site"))).warnings == ()

    def test_nothing_installed_is_not_found_and_names_the_interpreter(self, tmp_path: Path, python: Python) -> None:
        interpreter = python(tmp_path)
        failed = error(Target(python=interpreter))
        assert (failed.exit, failed.code) == (Exit.NOT_FOUND, "not-installed")
        assert str(interpreter) in str(failed)

    def test_the_rest_of_an_uninstalled_package_is_no_installation(self, tmp_path: Path, python: Python) -> None:
        (tmp_path / "site" / "lmcache" / "v1").mkdir(parents=True)
        (tmp_path / "site" / "~mcache").mkdir()
        failed = error(Target(python=python(tmp_path / "site")))
        assert failed.code == "not-installed"
        assert any(str(tmp_path / "site" / "lmcache") in detail for detail in failed.details)
        assert str(tmp_path / "site" / "~mcache") in failed.details

    def test_a_path_entry_that_cannot_be_read_is_passed_over_and_reported(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path / "site")
        (tmp_path / "closed").mkdir()
        listdir = os.listdir

        def guarded(path: str) -> list[str]:  # chmod does not stop root
            if path == str(tmp_path / "closed"):
                raise PermissionError(13, "Permission denied", path)
            return listdir(path)

        monkeypatch.setattr(os, "listdir", guarded)
        found = find(Target(python=python(tmp_path / "closed", tmp_path / "site")))
        assert found.root == tmp_path / "site"
        assert any(str(tmp_path / "closed") in warning for warning in found.warnings)
        failed = error(Target(python=python(tmp_path / "closed")))
        assert any(str(tmp_path / "closed") in detail for detail in failed.details)
        failed = error(Target(path=tmp_path / "closed"))
        assert (failed.exit, failed.code) == (Exit.ENVIRONMENT, "unreadable")
        assert str(tmp_path / "closed") in str(failed)

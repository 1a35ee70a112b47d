"""The target is the one LMCache that import would load, or a refusal that names what is in the way."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.target import interpreter as interpreters
from gaudi_patch.target.image_root import Image
from gaudi_patch.target.locate import Installation, Layout, Target, git_dir, locate
from tests.support.fake_wheel import DEFAULT_FILES, fake_project, fake_wheel, unpack

Python = Callable[..., Path]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """``python(*sys_path, **facts)``: a program that answers as an interpreter with this sys.path would."""

    def make(*path: Path, name: str = "python", **facts: object) -> Path:
        folder = tmp_path / "interpreters" / str(len(list(tmp_path.glob("interpreters/*")))) / "bin"
        folder.mkdir(parents=True)
        answer = {
            "executable": str(folder / name),
            "prefix": str(folder.parent),
            "version": [3, 12],
            "cache_tag": "cpython-312",
            "pycache_prefix": "",
            "path": [str(entry) for entry in path],
            "finder_folder": "",
            "frozen": False,
            **facts,
        }
        program = folder / name
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(ascii(answer))}\n")
        program.chmod(0o755)
        return program

    return make


def install(site: Path, version: str = "0.5.6", *, installer: str = "pip", name: str = "lmcache") -> Path:
    """A wheel laid out in ``site``; returns its dist-info."""
    return unpack(fake_wheel(site.parent / "wheels", version, name=name), site, installer)


def error(target: Target, environ: Mapping[str, str] | None = None) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        locate(target, environ={} if environ is None else environ)
    assert caught.value.hint, "every refusal says what to do next"
    return caught.value


def find(target: Target, environ: Mapping[str, str] | None = None) -> Installation:
    return locate(target, environ={} if environ is None else environ)


def tree(root: Path) -> dict[str, object]:
    """Every path below ``root`` with its content and modification time."""
    return {
        str(path.relative_to(root)): (path.read_bytes() if path.is_file() else None, path.lstat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


class TestWheel:
    @pytest.mark.parametrize("installer", ["pip", "uv"])
    def test_a_wheel_is_found_with_its_metadata_record_and_place_for_state(
        self, tmp_path: Path, python: Python, installer: str
    ) -> None:
        site = tmp_path / "lib" / "python3.12" / "site-packages"
        info = install(site, installer=installer)
        interpreter = python(site)
        found = find(Target(python=interpreter))
        assert found == Installation(
            package="lmcache",
            version="0.5.6",
            root=site,
            layout=Layout.WHEEL,
            dist_info=info,
            record=info / "RECORD",
            state_dir=info / "gaudi-patch",
            python=interpreter,
            python_version=(3, 12),
            cache_tag="cpython-312",
            pycache_prefix=None,
            own_interpreter=False,
            prefix=interpreter.parent.parent,
            how=f"--python {interpreter}",
            warnings=(),
        )

    @pytest.mark.parametrize("version", ["0.3.9.post1", "0.3.10.dev5+g1234abc", "0.4.2+hpu.1", "0.5.7rc1"])
    def test_the_version_is_what_the_metadata_says_and_not_rewritten(
        self, tmp_path: Path, python: Python, version: str
    ) -> None:
        install(tmp_path / "site", version)
        assert find(Target(python=python(tmp_path / "site"))).version == version

    @pytest.mark.parametrize("name", ["LMCache", "lmcache", "LmCache"])
    def test_the_name_is_compared_as_pep_503_does(self, tmp_path: Path, python: Python, name: str) -> None:
        info = install(tmp_path / "site", name=name)
        assert find(Target(python=python(tmp_path / "site"))).dist_info == info

    @pytest.mark.parametrize("name", ["lm_cache", "lmcache_ascend", "lmcache.cli", "xlmcache"])
    def test_another_distribution_is_not_taken_for_it(self, tmp_path: Path, python: Python, name: str) -> None:
        install(tmp_path / "site")
        install(tmp_path / "site", "9.9", name=name)
        assert find(Target(python=python(tmp_path / "site"))).version == "0.5.6"

    def test_only_headers_of_metadata_count_and_not_its_text(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        metadata = (
            b"Metadata-Version: 2.1\nName: lmcache\nLicense: a\n Version: folded\nVERSION:  1.2 \n\nVersion: no\n"
        )
        (info / "METADATA").write_bytes(metadata)
        assert find(Target(python=python(tmp_path / "site"))).version == "1.2"

    def test_nothing_is_imported_and_nothing_is_written(self, tmp_path: Path, python: Python) -> None:
        files = {**DEFAULT_FILES, "lmcache/__init__.py": "raise RuntimeError('imported')\n"}
        unpack(fake_wheel(tmp_path / "wheels", files=files), tmp_path / "site")
        before = tree(tmp_path / "site")
        find(Target(python=python(tmp_path / "site")))
        find(Target(path=tmp_path / "site"))
        assert tree(tmp_path / "site") == before
        assert "lmcache" not in sys.modules

    def test_a_folder_that_is_on_the_path_twice_by_a_link_counts_once(self, tmp_path: Path, python: Python) -> None:
        install(tmp_path / "lib" / "site-packages")
        (tmp_path / "lib64").symlink_to("lib")
        found = find(Target(python=python(tmp_path / "lib64" / "site-packages", tmp_path / "lib" / "site-packages")))
        assert found.root == tmp_path / "lib" / "site-packages"
        assert found.record == found.root / "lmcache-0.5.6.dist-info" / "RECORD"

    def test_entries_before_and_after_it_do_not_matter(self, tmp_path: Path, python: Python) -> None:
        for name in ("purelib", "other"):
            install(tmp_path / name, name="torch")
            (tmp_path / name / "lmcache").rename(tmp_path / name / "torch")
        install(tmp_path / "platlib")
        path = [tmp_path / "missing", tmp_path / "purelib", tmp_path / "platlib", tmp_path / "other"]
        assert find(Target(python=python(*path))).root == tmp_path / "platlib"

    def test_a_missing_record_is_said_and_is_no_obstacle(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        (info / "RECORD").unlink()
        found = find(Target(python=python(tmp_path / "site")))
        assert found.record is None
        assert any("RECORD" in warning and str(info) in warning for warning in found.warnings)

    def test_where_it_was_installed_from_is_kept(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        for content, url in (
            (b'{"url": "https://github.com/LMCache/LMCache", "vcs_info": {"vcs": "git"}}', True),
            (b'{"url": "https:\\/\\/github.com\\/LMCache\\/LMCache", "dir_info": {"editable": false}}', True),
            (b"not json", False),
            (b"[]", False),
        ):
            (info / "direct_url.json").write_bytes(content)
            found = find(Target(python=python(tmp_path / "site")))
            assert found.direct_url == ("https://github.com/LMCache/LMCache" if url else "")
            assert found.layout is Layout.WHEEL

    def test_a_metadata_file_in_another_encoding_does_not_stop_it(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        (info / "METADATA").write_bytes(b"Name: lmcache\nAuthor: J\xf6rg\nVersion: 0.5.6\n\n\xff\xfe")
        assert find(Target(python=python(tmp_path / "site"))).version == "0.5.6"


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
        refused = error(Target(python=python(tmp_path / "site")))
        assert (refused.exit, refused.code) == (Exit.REFUSED, "legacy-install")
        assert refused.details == [str(tmp_path / "site" / name)]
        assert f"imported from {tmp_path / 'site' / 'lmcache'}" in str(refused)
        assert "--path" not in refused.hint
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


def checkout(folder: Path, files: Mapping[str, str | bytes] | None = None) -> Path:
    """A source tree with a git folder that has what tells one from any folder."""
    fake_project(folder, files=files)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/dev\n")
    return folder


def install_editable(site: Path, project: Path, *, pth: str = "") -> Path:
    """What pip leaves in site-packages for an editable install of ``project``."""
    site.mkdir(parents=True, exist_ok=True)
    info = site / "lmcache-0.5.7.dev3+g123.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: lmcache\nVersion: 0.5.7.dev3+g123\n")
    (info / "RECORD").write_text("__editable__.lmcache.pth,,\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    if pth:
        (site / "__editable__.lmcache.pth").write_text(pth)
    return info


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
        (tmp_path / "site" / "lmcache").mkdir()  # a folder without __init__ does not come before it
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
        pointer = os.path.relpath(real, source) if relative else real
        (source / ".git").write_text(f"gitdir: {pointer}\n")
        assert find(Target(path=source)).state_dir == real / "gaudi-patch"

    @pytest.mark.parametrize("dot_git", ["empty folder", "dangling pointer", "garbage", "dangling link"])
    def test_a_git_folder_that_is_none_is_refused(self, tmp_path: Path, dot_git: str) -> None:
        source = fake_project(tmp_path / "src")
        path = source / ".git"
        if dot_git == "empty folder":
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


def poisoned(program: Path, mark: Path) -> Path:
    """A program that leaves a mark when it is run."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    return program


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


class TestDefault:
    def test_the_active_environment_comes_first(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("venv", "conda", "own", "system"):
            install(tmp_path / name)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "own")])
        system = python(tmp_path / "system", name="python3")
        conda = python(tmp_path / "conda").parent.parent
        venv = python(tmp_path / "venv").parent.parent
        environ = {"PATH": str(system.parent)}
        assert find(Target(), environ).root == tmp_path / "own"
        environ["CONDA_PREFIX"] = str(conda)
        assert find(Target(), environ).root == tmp_path / "conda"
        environ["VIRTUAL_ENV"] = str(venv)
        found = find(Target(), environ)
        assert found.root == tmp_path / "venv"
        assert "VIRTUAL_ENV" in found.how

    def test_python3_on_the_path_is_asked_when_the_running_interpreter_has_none(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", [])
        install(tmp_path / "system")
        interpreter = python(tmp_path / "system", name="python3")
        found = find(Target(), {"PATH": f"{tmp_path}:{interpreter.parent}"})
        assert (found.root, found.how) == (tmp_path / "system", "python3 on PATH")

    @pytest.mark.parametrize(
        ("trace", "code"),
        [
            ("lmcache/__init__.py", "no-metadata"),
            ("lmcache-0.5.6.dist-info/x", "broken-metadata"),
            ("lmcache.egg-info/x", "legacy-install"),
            ("lmcache-0.5.6.dist-info/METADATA", "package-folder-missing"),
        ],
    )
    def test_a_trace_in_the_running_interpreter_is_not_passed_over(
        self, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch, trace: str, code: str
    ) -> None:
        (tmp_path / "own" / trace).parent.mkdir(parents=True)
        (tmp_path / "own" / trace).write_text("Name: lmcache\nVersion: 0.5.6\n")
        install(tmp_path / "system")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "own")])
        environ = {"PATH": str(python(tmp_path / "system", name="python3").parent)}
        assert error(Target(), environ).code == code

    @pytest.mark.parametrize("path", ["", "own"])
    def test_nothing_anywhere_is_not_found(self, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setattr(subprocess, "run", None)
        environ = {"PATH": str(Path(sys.executable).parent) if path else "/nonexistent"}
        assert error(Target(), environ).code == "not-installed"

    def test_an_active_environment_that_is_gone_is_not_passed_over(self, tmp_path: Path) -> None:
        failed = error(Target(), {"VIRTUAL_ENV": str(tmp_path / "gone")})
        assert failed.exit is Exit.ENVIRONMENT
        assert str(tmp_path / "gone") in str(failed) and "VIRTUAL_ENV" in str(failed)

    def test_two_targets_exclude_each_other(self, tmp_path: Path) -> None:
        failed = error(Target(python=tmp_path, root=tmp_path))
        assert (failed.exit, failed.code) == (Exit.USAGE, "bad-target")
        assert "--python" in str(failed) and "--root" in str(failed)

    def test_the_running_interpreters_folder_of_the_script_is_not_on_the_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The console script's folder, or with -m the current one, is no part of a normal run's path."""
        info = install(tmp_path / "site")
        (tmp_path / "cwd" / "lmcache").mkdir(parents=True)
        (tmp_path / "cwd" / "lmcache" / "__init__.py").touch()
        monkeypatch.chdir(tmp_path / "cwd")
        for start in ("", str(tmp_path / "cwd")):
            monkeypatch.setattr(sys, "path", [start, str(tmp_path / "site")])
            assert find(Target()).dist_info == info

    def test_pythonpath_counts_for_the_running_interpreter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = install(tmp_path / "site")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        (tmp_path / "first" / "lmcache").mkdir(parents=True)
        (tmp_path / "first" / "lmcache" / "__init__.py").touch()
        monkeypatch.chdir(tmp_path)
        for value in (str(tmp_path / "first"), "first"):
            refused = error(Target(), {"PYTHONPATH": value})
            assert refused.details == [str(tmp_path / "first" / "lmcache"), str(info)]
        assert find(Target(), {"PYTHONPATH": ""}).dist_info == info


class TestImage:
    @pytest.mark.parametrize(
        "place",
        [
            "usr/lib/python3/dist-packages",
            "usr/local/lib/python3.11/dist-packages",
            "usr/local/lib/python3.11/site-packages",
            "usr/lib64/python3.9/site-packages",
            "usr/local/lib64/python3.12/site-packages",
            "opt/venv/lib/python3.11/site-packages",
            "opt/habanalabs/venv/lib/python3.10/site-packages",
            "opt/conda/lib/python3.11/site-packages",
            "opt/conda/envs/vllm/lib/python3.11/site-packages",
            "root/.local/lib/python3.10/site-packages",
            "root/.venv/lib/python3.10/site-packages",
            "root/miniconda3/envs/x/lib/python3.10/site-packages",
            "root/.pyenv/versions/3.11.7/lib/python3.11/site-packages",
            "home/user/.local/lib/python3.11/site-packages",
            "home/user/venv/lib/python3.11/site-packages",
            "app/.venv/lib/python3.11/site-packages",
            "venv/lib/python3.13/site-packages",
        ],
    )
    def test_every_usual_place_is_looked_at(self, tmp_path: Path, place: str) -> None:
        root = tmp_path / "image"
        info = install(root / place)
        found = find(Target(root=root))
        assert (found.layout, found.root, found.dist_info) == (Layout.IMAGE, root / place, info)
        assert (found.record, found.state_dir) == (info / "RECORD", info / "gaudi-patch")
        assert (found.python, found.prefix, found.own_interpreter) == (None, None, False)
        assert found.python_version == (
            None if "python3/" in place else (3, int(place.split("python3.")[-1].split("/")[0]))
        )

    def test_several_environments_are_refused_naming_each(self, tmp_path: Path) -> None:
        infos = [install(tmp_path / "image" / p / "lib/python3.11/site-packages") for p in ("opt/a", "opt/b", "usr")]
        refused = error(Target(root=tmp_path / "image"))
        assert refused.code == "ambiguous-installation"
        assert sorted(refused.details) == sorted(map(str, infos))

    def test_a_package_without_metadata_is_refused(self, tmp_path: Path) -> None:
        info = install(tmp_path / "image/opt/venv/lib/python3.11/site-packages")
        info.rename(tmp_path / "moved")
        refused = error(Target(root=tmp_path / "image"))
        assert refused.code == "no-metadata"
        assert refused.details == [str(info.parent / "lmcache")]

    def test_a_folder_that_cannot_be_read_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = tmp_path / "image/root/.local/lib/python3.11/site-packages"
        home = tmp_path / "image/home/other"
        info = install(tmp_path / "image/opt/venv/lib/python3.11/site-packages")
        closed.mkdir(parents=True)
        home.mkdir(parents=True)
        listdir = os.listdir

        def guarded(path: str) -> list[str]:  # chmod does not stop root
            if path in (str(closed), str(home)):
                raise PermissionError(13, "Permission denied", path)
            return listdir(path)

        monkeypatch.setattr(os, "listdir", guarded)
        found = find(Target(root=tmp_path / "image"))
        assert found.dist_info == info
        assert found.warnings == (f"{closed} cannot be read: Permission denied",)

    def test_a_copy_without_metadata_in_another_environment_shadows_nothing(self, tmp_path: Path) -> None:
        info = install(tmp_path / "image/opt/venv/lib/python3.11/site-packages")
        other = tmp_path / "image/app/venv/lib/python3.11/site-packages/lmcache"
        other.mkdir(parents=True)
        (other / "__init__.py").touch()
        found = find(Target(root=tmp_path / "image"))
        assert found.dist_info == info
        assert found.warnings == (f"{other} is left alone (another copy without metadata)",)

    def test_an_absolute_link_starts_at_the_images_root(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        info = install(root / "usr/local/lib/python3.11/site-packages")
        (root / "opt").mkdir()
        (root / "opt/venv").symlink_to("/usr/local")
        (root / "lib").symlink_to("usr/lib")
        assert find(Target(root=root)).root == info.parent

    def test_no_link_leads_out_of_the_image(self, tmp_path: Path) -> None:
        install(tmp_path / "host/lib/python3.11/site-packages")
        root = tmp_path / "image"
        (root / "opt").mkdir(parents=True)
        (root / "opt/a").symlink_to(tmp_path / "host")
        (root / "opt/b").symlink_to("../../host")
        (root / "opt/0-loop").symlink_to("0-loop")
        assert error(Target(root=root)).code == "not-installed"
        info = install(root / "opt/venv/lib/python3.11/site-packages")
        assert find(Target(root=root)).dist_info == info

    def test_a_package_folder_linked_to_the_host_is_refused(self, tmp_path: Path) -> None:
        site = tmp_path / "image/opt/venv/lib/python3.11/site-packages"
        install(site)
        (site / "lmcache").rename(site / "kept")
        (site / "lmcache").symlink_to("/opt/venv/lib/python3.11/site-packages/kept")
        assert error(Target(root=tmp_path / "image")).code == "symlinked-package"

    def test_metadata_that_is_an_absolute_link_is_read_inside_the_image(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        info = install(root / "opt/venv/lib/python3.11/site-packages")
        (root / "cache").mkdir()
        (info / "METADATA").rename(root / "cache/METADATA")
        (info / "METADATA").symlink_to("/cache/METADATA")
        assert find(Target(root=root)).version == "0.5.6"

    def test_nothing_of_the_image_is_run(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        info = install(root / "opt/venv/lib/python3.11/site-packages")
        poisoned(root / "opt/venv/bin/python", tmp_path / "run")
        (info.parent / "x.pth").write_text(f"import os; os.mkdir({str(tmp_path / 'run')!r})\n")
        before = tree(root)
        environ = {"VIRTUAL_ENV": str(root / "opt/venv"), "PATH": str(root / "opt/venv/bin"), "PYTHONPATH": "/x"}
        found = find(Target(root=root), {**environ, "PYTHONPYCACHEPREFIX": "/host/cache"})
        assert not (tmp_path / "run").exists()
        assert tree(root) == before
        assert found.pycache_prefix is None

    def test_an_editable_install_is_found_where_the_image_has_its_source(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        source = checkout(root / "workspace/LMCache")
        site = root / "opt/venv/lib/python3.11/site-packages"
        info = install_editable(site, Path("/workspace/LMCache"))
        found = find(Target(root=root))
        assert (found.layout, found.root) == (Layout.EDITABLE, source)
        assert (found.dist_info, found.state_dir) == (info, source / ".git/gaudi-patch")

    def test_path_lines_of_an_image_start_at_its_root(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        source = checkout(root / "workspace/LMCache", {"code/lmcache/__init__.py": ""})
        site = root / "opt/venv/lib/python3.11/site-packages"
        install_editable(site, Path("/workspace/LMCache"), pth="/workspace/LMCache/code\n")
        assert find(Target(root=root)).root == source / "code"

    @pytest.mark.parametrize("place", ["opt/venv/lib/python2.7/site-packages", "proc/1/lib/python3.11/site-packages"])
    def test_other_places_are_not_looked_at(self, tmp_path: Path, place: str) -> None:
        install(tmp_path / "image" / place)
        assert error(Target(root=tmp_path / "image")).code == "not-installed"
        info = install(tmp_path / "image/home/proc/venv/lib/python3.11/site-packages")
        assert find(Target(root=tmp_path / "image")).dist_info == info

    def test_the_git_folder_of_an_image_is_not_taken_from_the_host(self, tmp_path: Path) -> None:
        host = checkout(tmp_path / "host")
        root = tmp_path / "image"
        source = fake_project(root / "workspace/LMCache")
        (source / ".git").symlink_to(host / ".git")
        install_editable(root / "opt/venv/lib/python3.11/site-packages", Path("/workspace/LMCache"))
        assert error(Target(root=root)).code == "broken-checkout"
        (source / ".git").unlink()
        (source / ".git").write_text(f"gitdir: {host / '.git'}\n")
        assert error(Target(root=root)).code == "broken-checkout"

    def test_a_root_that_is_not_there_is_a_wrong_option(self, tmp_path: Path) -> None:
        assert error(Target(root=tmp_path / "missing")).exit is Exit.USAGE

    def test_a_circle_of_links_is_an_error_and_not_a_hang(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("/a")
        with pytest.raises(OSError, match="symbolic links"):
            Image(str(tmp_path)).resolve(str(tmp_path / "a" / "x"))

    def test_links_are_followed_as_a_chroot_does(self, tmp_path: Path) -> None:
        image = Image(str(tmp_path))
        (tmp_path / "d").mkdir()
        (tmp_path / "d/up").symlink_to("../../../d")
        (tmp_path / "abs").symlink_to("/d/up/./x")
        assert image.resolve(str(tmp_path / "d/up/y")) == str(tmp_path / "d/y")
        assert image.resolve(str(tmp_path / "abs")) == str(tmp_path / "d/x")
        assert image.resolve(image.on_host("/d/../abs")) == str(tmp_path / "d/x")
        assert image.resolve(str(tmp_path)) == str(tmp_path)

"""Installations in site-packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gaudi_patch.target.installation import Installation, Layout
from gaudi_patch.target.locate import Target
from tests.support.fake_wheel import DEFAULT_FILES, fake_wheel, unpack
from tests.target.installations import Python, find, install, tree


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

    @pytest.mark.parametrize(
        "content",
        [
            b'{"url": "https://github.com/LMCache/LMCache", "vcs_info": {"vcs": "git"}}',
            b'{"url": "https:\\/\\/github.com\\/LMCache\\/LMCache", "dir_info": {"editable": false}}',
            b"not json",
            b"[]",
            b'{"url": 1, "dir_info": []}',
            b"[" * 100_000,
            b'{"url": "\\ud800"}',
        ],
    )
    def test_where_it_was_installed_from_does_not_matter(self, tmp_path: Path, python: Python, content: bytes) -> None:
        info = install(tmp_path / "site")
        (info / "direct_url.json").write_bytes(content)
        assert find(Target(python=python(tmp_path / "site"))).layout is Layout.WHEEL

    def test_a_metadata_file_in_another_encoding_does_not_stop_it(self, tmp_path: Path, python: Python) -> None:
        info = install(tmp_path / "site")
        (info / "METADATA").write_bytes(b"Name: lmcache\nAuthor: J\xf6rg\nVersion: 0.5.6\n\n\xff\xfe")
        assert find(Target(python=python(tmp_path / "site"))).version == "0.5.6"

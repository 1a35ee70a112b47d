"""`apply` warns of a vllm-gaudi beside LMCache that does not go with it: no required level can see that."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.cli import gaudi_patch


@pytest.mark.wheels
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vllm_gaudi-0.21.0.dist-info", "does not go with vllm-gaudi 0.21.0, which {site} has; LMCache 0.4.7 does"),
        ("vllm_gaudi-0.21.0-py3.11.egg-info", "does not go with vllm-gaudi 0.21.0, which {site} has; LMCache 0.4.7"),
        ("vllm_gaudi-0.26.0.post1.dist-info", None),
        ("vllm_gaudi-\x1b[31m.dist-info", None),
        ("vllm_gaudi-0.21.0", None),
    ],
)
def test_a_plugin_that_does_not_go_with_the_release_is_told_and_the_patch_applied(
    name: str, told: str | None, lmcache_wheel: Callable[..., Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(lmcache_wheel("0.5.6")) as archive:
        archive.extractall(site)
    (site / name).mkdir()
    (site / name / "METADATA").symlink_to("/dev/zero")  # the name is enough
    for _ in range(2):  # again: nothing is written, and it still does not go
        done = gaudi_patch("apply", "--path", site, "--no-smoke", "--json")
        assert done.code == 0
        found = [text for text in done.json["warnings"] if "vllm-gaudi" in text]
        if told is None:
            assert found == []
        else:
            (text,) = found
            assert told.format(site=site) in text


def test_a_manifest_that_names_no_pairs_warns_of_none(tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    (target.site / "vllm_gaudi-0.21.0.dist-info").mkdir()
    given = ("--path", target.site, "--manifest", target.manifest.directory, "--no-smoke", "--json")
    assert not any("vllm-gaudi" in text for text in gaudi_patch("apply", *given).json["warnings"])

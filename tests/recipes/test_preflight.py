"""preflight.py: a recipe's script refuses an LMCache other than its own, before running any of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.recipes import preflight
from gaudi_patch.recipes.release import Release

FILES = {"lmcache/__init__.py": b"patched = True\n", "lmcache/gaudi/kernels.py": b"kernels = 1\n"}


def release(version: str = "0.5.6") -> Release:
    digests: dict[str, str | None] = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    return Release(version, frozenset(), None, "0.26.0", digests | {"lmcache/gone.py": None})


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return an installed LMCache whose import would fail, with the files of a series in place."""
    for name, data in FILES.items():
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    metadata = tmp_path / "site" / "lmcache-0.5.6.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: lmcache\nVersion: 0.5.6\n")
    return tmp_path / "site"


def run(site: Path, *arguments: str, version: str = "0.5.6") -> tuple[int, str]:
    script = site.parent / preflight.NAME
    script.write_text(preflight.script(release(version), "gaudi-patch apply --python /opt/venv/bin/python"))
    done = subprocess.run(
        [sys.executable, "-B", str(script), *arguments],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_an_installation_as_the_recipe_wants_it_may_serve(site: Path) -> None:
    assert run(site) == (0, "")


def test_a_patched_wheel_of_the_release_may_serve(site: Path) -> None:
    metadata = site / "lmcache-0.5.6.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.5.6", "0.5.6+gaudi.2"))
    assert run(site) == (0, "")


def test_another_release_is_refused_by_name(site: Path) -> None:
    code, said = run(site, version="0.5.5")
    assert code == 1
    assert "LMCache 0.5.6 is installed, but this recipe is for 0.5.5" in said
    assert run(site, "--release", version="0.5.5")[0] == 1


def test_an_upgrade_that_undid_the_patch_is_refused_with_what_applies_it(site: Path) -> None:
    for name in FILES:
        (site / name).write_bytes(b"as released\n")
    (site / "lmcache" / "gone.py").write_bytes(b"as released\n")
    code, said = run(site)
    assert code == 1
    assert "is not patched" in said
    assert "gaudi-patch apply --python /opt/venv/bin/python" in said
    assert run(site, "--release")[0] == 0, "a host that needs no patch"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("gone", [True, False])
def test_one_file_that_differs_is_named(site: Path, name: str, gone: bool) -> None:
    file = site / name
    file.unlink() if gone else file.write_bytes(file.read_bytes() + b"# edited\n")
    code, said = run(site)
    assert code == 1
    assert f"differs from the patched release ({name})" in said or "not installed" in said


def test_a_file_that_the_series_removes_must_be_gone(site: Path) -> None:
    (site / "lmcache" / "gone.py").write_text("still = here\n")
    assert "lmcache/gone.py" in run(site)[1]


def test_no_lmcache_is_refused(site: Path) -> None:
    code, said = run(site.parent / "elsewhere")
    assert (code, "LMCache is not installed" in said) == (1, True)

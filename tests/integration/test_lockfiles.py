"""The patched wheel from a private index: lockfiles of pip and uv keep it, and an upgrade away from it is detected.

The index is a directory (--find-links) with the patched wheel, the release, and a newer release.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import patched_wheel
from tests.support.cli import gaudi_patch
from tests.support.fake_wheel import fake_wheel
from tests.support.installers import Venv, must, run, uv_binary, uv_project, venv
from tests.support.patched_wheel import Release
from tests.support.tiny import PRISTINE

NEXT = "0.5.7"


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return patched_wheel.release(tmp_path)


@pytest.fixture
def index(release: Release, tmp_path: Path) -> Path:
    """Return a directory with 0.5.6 unpatched and patched."""
    folder = tmp_path / "index"
    folder.mkdir()
    shutil.copy(release.wheel, folder)
    release.build(folder / "wheel")
    (folder / "wheel").rename(folder / "lmcache-0.5.6+gaudi.1-py3-none-any.whl")
    return folder


def state(target: Venv, release: Release) -> tuple[int, str]:
    done = gaudi_patch("check", "--python", target.python, "--manifest", release.manifest.directory, "--json")
    data, errors = done.json["data"], done.json["errors"]
    return done.code, errors[0]["code"] if errors else f"{data['version']} {data['state']}"


def offline_project(folder: Path, index: Path, requirement: str) -> Callable[..., str]:
    uv_project(folder, requirement, index, "no-index = true")
    env = {"UV_CACHE_DIR": str(folder.parent / "uv-cache"), "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}
    return lambda *arguments: must([uv_binary(), *arguments], env, cwd=folder)


def test_pip_takes_the_patched_wheel_for_the_release(index: Path, release: Release, tmp_path: Path) -> None:
    target = venv(tmp_path / "venv")
    source = ["--no-index", "--find-links", str(index)]
    target.pip("install", "--quiet", *source, "lmcache==0.5.6")
    assert state(target, release) == (0, "0.5.6+gaudi.1 patched")
    target.pip("check")
    target.pip("install", "--quiet", *source, "--force-reinstall", "lmcache===0.5.6")
    assert state(target, release) == (10, "0.5.6 pristine")


def test_a_requirement_with_its_hash_takes_no_other_wheel(index: Path, release: Release, tmp_path: Path) -> None:
    wheel = index / "lmcache-0.5.6+gaudi.1-py3-none-any.whl"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"lmcache==0.5.6+gaudi.1 --hash=sha256:{digest}\n")
    target = venv(tmp_path / "venv")
    source = ["--no-index", "--find-links", str(index), "--require-hashes", "--requirement", str(pins)]
    target.pip("install", "--quiet", *source)
    assert state(target, release) == (0, "0.5.6+gaudi.1 patched")
    release.build(wheel, drop_cuda=False, build=1)
    with wheel.open("ab") as stream:
        stream.write(b"\0")
    other = venv(tmp_path / "other")
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        other.pip("install", "--quiet", "--no-cache-dir", *source)


def test_uv_locks_and_syncs_it_and_finds_nothing_to_do_afterwards(
    index: Path, release: Release, tmp_path: Path
) -> None:
    uv = offline_project(tmp_path / "project", index, "lmcache==0.5.6+gaudi.1")
    uv("lock")
    locked = (tmp_path / "project" / "uv.lock").read_text()
    assert 'version = "0.5.6+gaudi.1"' in locked
    uv("sync", "--locked")
    target = Venv((tmp_path / "project" / ".venv").resolve())
    assert state(target, release) == (0, "0.5.6+gaudi.1 patched")
    uv("pip", "check")
    before = {path: path.stat().st_mtime_ns for path in target.site_packages.rglob("*")}
    uv("sync", "--locked")
    assert {path: path.stat().st_mtime_ns for path in target.site_packages.rglob("*")} == before
    # Edits since the sync are for check to detect, not for uv.
    (target.site_packages / "lmcache" / "engine.py").unlink()
    (target.site_packages / "lmcache" / "engine.py").write_bytes(b"edited\n")
    uv("sync", "--locked")
    assert state(target, release) == (1, "drift")
    uv("sync", "--locked", "--reinstall-package", "lmcache")
    assert state(target, release) == (0, "0.5.6+gaudi.1 patched")


def test_a_lock_of_the_exact_version_survives_an_upgrade(index: Path, release: Release, tmp_path: Path) -> None:
    """The upgrade is refused: the newer release is available, but the requirement excludes it."""
    fake_wheel(index, NEXT, dict(PRISTINE))
    uv = offline_project(tmp_path / "project", index, "lmcache==0.5.6+gaudi.1")
    uv("lock", "--upgrade")
    uv("sync")
    assert state(Venv((tmp_path / "project" / ".venv").resolve()), release) == (0, "0.5.6+gaudi.1 patched")


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_an_upgrade_away_from_it_is_noticed(installer: str, index: Path, release: Release, tmp_path: Path) -> None:
    """A requirement without an upper bound accepts the next release, which has no series: check says so."""
    source = ["--no-index", "--find-links", str(index)]
    target = venv(tmp_path / "venv", {"UV_CACHE_DIR": str(tmp_path / "uv-cache")})
    install = target.pip if installer == "pip" else target.uv
    install("install", "--quiet", *source, "lmcache")
    assert state(target, release) == (0, "0.5.6+gaudi.1 patched")
    fake_wheel(index, NEXT, {**PRISTINE, "lmcache/engine.py": b"NEWER = True\n"})
    install("install", "--quiet", "--upgrade", *source, "lmcache")
    assert state(target, release) == (3, "unknown-version")
    fast = gaudi_patch("check", "--fast", "--python", target.python, "--manifest", release.manifest.directory)
    assert fast.code == 3


def test_the_metadata_without_cuda_resolves_where_cuda_is_not_to_be_had(index: Path, tmp_path: Path) -> None:
    """With --drop-cuda, uv can lock over an index without any CUDA package; without it, it cannot."""
    wheels = tmp_path / "cuda"
    requires = "Requires-Dist: cupy-cuda13x\nRequires-Dist: torch\n"
    made = patched_wheel.release(wheels, requires=requires)
    outcomes = []
    for drop in (True, False):
        folder = tmp_path / f"index-{drop}"
        folder.mkdir()
        built = made.build(folder / "wheel", drop_cuda=drop)
        (folder / "wheel").rename(folder / built.name.file)
        project = uv_project(tmp_path / f"project-{drop}", "lmcache==0.5.6+gaudi.1", folder, "no-index = true")
        env = {"UV_CACHE_DIR": str(tmp_path / "uv-cache"), "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}
        outcomes.append(run([uv_binary(), "lock"], env, cwd=project).returncode)
    assert outcomes[0] == 0
    assert outcomes[1] != 0

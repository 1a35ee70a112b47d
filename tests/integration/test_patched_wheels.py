"""Patched wheels of real releases: the same bytes anywhere, valid for other readers, and equal to apply's result.

By default one release of each family; GAUDI_PATCH_TEST_FULL=1 tests all releases. Only GAUDI_PATCH_TEST_FULL=1 runs the
smoke levels on an installed wheel: `test_releases.py` runs them on the same files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gaudi_patch.authoring.toml_lines import tomllib
from gaudi_patch.series.manifest import load
from gaudi_patch.wheel.build import BuildOptions, build
from tests.integration.test_wheels import patch
from tests.scripts import upstream_tests
from tests.support.cli import environment, gaudi_patch
from tests.support.environments import EnvironmentUnavailableError
from tests.support.faults import FULL
from tests.support.installers import Venv, installed, must, run, uv_binary, uv_project
from tests.support.patched_wheel import record_faults
from tests.support.unavailable import unavailable
from tests.support.wheelhouse import REPOSITORY

pytestmark = pytest.mark.wheels

MANIFEST = load()
RELEASES = [series.versions.removeprefix("==") for series in MANIFEST.series]
#: The newest release of each build and layout of LMCache.
FAMILIES = ["0.5.6", "0.4.2", "0.3.9.post1"]
CHOSEN = RELEASES if FULL else FAMILIES
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

Wheel = Callable[..., Path]


def built(wheel: Path, folder: Path, **options: int | bool) -> Path:
    """Build in this process, under the wheel's required name."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "wheel").open("wb") as stream:
        made = build(MANIFEST, wheel, stream, BuildOptions(**options))  # type: ignore[arg-type]
    return (folder / "wheel").rename(folder / made.name.file)


def interpreter(version: str) -> str | None:
    """Return a working Python of this version: on PATH, or one of pyenv's, whose shims may all fail."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = shutil.which(f"python{version}")
    installed_there = map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")))
    for name in [*([on_path] if on_path else []), *installed_there]:
        if subprocess.run([name, "-c", "import venv, zlib"], capture_output=True, check=False).returncode == 0:
            return name
    return None


def other_python(version: str, folder: Path) -> str:
    """Return an interpreter of this version, in an environment with gaudi-patch; without one, skip with the reason."""
    name = interpreter(version)
    if name is None:
        pytest.skip(f"no Python {version} that runs: neither python{version} on PATH nor one of pyenv's")
    must([name, "-m", "venv", folder / version], {})
    python = folder / version / "bin" / "python"
    must([python, "-m", "pip", "install", "--quiet", REPOSITORY], {})
    return str(python)


def tree(target: Venv) -> Mapping[str, str]:
    """Return LMCache's files by their hashes, without bytecode; files outside the package are state and metadata."""
    package = target.site_packages / "lmcache"
    return {
        path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_a_python_behind_a_shim_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim mistaken for the Python itself would silently leave the other versions untested."""
    shim, real = tmp_path / "shims" / "python3.12", tmp_path / "versions" / "3.12.1" / "bin" / "python3.12"
    for path, code in ((shim, 127), (real, 0)):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\nexit {code}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert interpreter("3.12") == str(real)
    real.unlink()
    assert interpreter("3.12") is None


def test_a_python_that_is_missing_is_skipped_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"no Python 3\.12 that runs"):
        other_python("3.12", tmp_path)


def built_away(python: str, wheel: Path, folder: Path) -> Path:
    """Build with the command, under another umask, time zone, locale, hash seed, directory and mtime."""
    away = folder / "ein anderer Ort"
    away.mkdir()
    shutil.copy(wheel, away)
    setting = {"TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "99", "PYTHONUTF8": "0"}
    command = [python, "-m", "gaudi_patch", "wheel", str(away / wheel.name), "--out", str(folder / "out")]
    done = subprocess.run(
        ["/bin/sh", "-c", 'umask 077; exec "$@"', "sh", *command],
        env=environment(**setting), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = (folder / "out").iterdir()
    return made


@pytest.mark.parametrize("version", CHOSEN)
def test_two_machines_build_the_same_bytes(version: str, lmcache_wheel: Wheel, tmp_path: Path) -> None:
    wheel = lmcache_wheel(version)
    here, away = built(wheel, tmp_path / "here"), built_away(sys.executable, wheel, tmp_path)
    assert (away.name, away.read_bytes() == here.read_bytes()) == (here.name, True)


@pytest.mark.skipif(not FULL, reason="an environment for each Python; GAUDI_PATCH_TEST_FULL=1 runs it")
@pytest.mark.parametrize("python", [one for one in PYTHONS if one != ".".join(map(str, sys.version_info[:2]))])
def test_every_other_python_builds_the_same_bytes(python: str, lmcache_wheel: Wheel, tmp_path: Path) -> None:
    wheel = lmcache_wheel(FAMILIES[0])
    here, away = built(wheel, tmp_path / "here"), built_away(other_python(python, tmp_path), wheel, tmp_path)
    assert (away.name, away.read_bytes() == here.read_bytes()) == (here.name, True)


@pytest.mark.parametrize("version", CHOSEN)
def test_other_readers_find_it_whole(version: str, lmcache_wheel: Wheel, tmp_path: Path) -> None:
    """csv and hashlib read RECORD, Info-ZIP reads the archive, twine and check-wheel-contents read the rest."""
    wheel = lmcache_wheel(version)
    new = built(wheel, tmp_path / "new", drop_cuda=True)
    assert record_faults(new) == []
    if shutil.which("unzip"):
        must(["unzip", "-tqq", new], {})
    assert "PASSED" in must([sys.executable, "-m", "twine", "check", "--strict", new], {"NO_COLOR": "1"})
    findings = [
        sorted(run([sys.executable, "-m", "check_wheel_contents", one], {}).stdout.replace(str(one), "").splitlines())
        for one in (wheel, new)
    ]
    assert findings[0] == findings[1]  # the same findings as for the release itself, and no more


@pytest.mark.parametrize("installer", ["pip", "uv"])
@pytest.mark.parametrize("version", CHOSEN)
def test_installed_it_is_what_apply_makes_of_the_release(
    version: str, installer: str, manifest: Path, lmcache_wheel: Wheel, tmp_path: Path
) -> None:
    wheel = lmcache_wheel(version)
    new = built(wheel, tmp_path / "new", drop_cuda=True)
    applied = installed(tmp_path / "applied" / "venv", wheel, installer)
    assert patch("apply", applied, manifest).code == 0
    target = installed(tmp_path / "built" / "venv", new, installer)
    assert tree(target) == tree(applied)
    checked = gaudi_patch("check", "--python", target.python, "--json")
    assert (checked.code, checked.json["data"]["state"]) == (0, "patched")
    assert checked.json["data"]["built"]["release"] == version
    (inside,) = target.site_packages.glob("lmcache-*.dist-info/gaudi-patch/attestation.json")
    assert gaudi_patch("check", "--python", target.python, "--against", inside).code == 0
    again = patch("apply", target, manifest, "--json")
    assert (again.code, again.json["data"]["changed"]) == (0, False)
    back = gaudi_patch("rollback", "--python", target.python, "--json")
    assert (back.code, back.code_of_error) == (1, "built-in")
    if installer == "pip":
        target.pip("uninstall", "--quiet", "--yes", "lmcache")
    else:
        target.uv("uninstall", "--quiet", "lmcache")
    assert [path.name for path in target.site_packages.glob("lmcache*")] == []


def test_uv_locks_and_syncs_it_with_all_that_lmcache_requires(lmcache_wheel: Wheel, tmp_path: Path) -> None:
    """The real metadata against the real index: no CUDA in the lock, and pip finds no broken requirement."""
    python = ".".join(map(str, sys.version_info[:2]))
    built(lmcache_wheel("0.5.6", python), tmp_path / "wheels", drop_cuda=True)
    only = "environments = [\"sys_platform == 'linux' and platform_machine == 'x86_64'\"]"
    project = uv_project(
        tmp_path / "project", "lmcache==0.5.6+gaudi.1", tmp_path / "wheels", only, python=f"=={python}.*"
    )
    env = {"UV_PYTHON_DOWNLOADS": "never"}
    locked = run([uv_binary(), "lock", "--python", sys.executable], env, cwd=project)
    if "error sending request" in locked.stderr or "Failed to fetch" in locked.stderr:
        unavailable(EnvironmentUnavailableError(f"uv reaches no index: {locked.stderr.strip()}"))
    assert locked.returncode == 0, locked.stderr
    names = {package["name"] for package in tomllib.loads((project / "uv.lock").read_text())["package"]}
    assert {"lmcache", "safetensors", "transformers"} <= names
    assert {name for name in names if name == "torch" or "cuda" in name or name.startswith("nvidia")} == set()
    must([uv_binary(), "sync", "--locked", "--python", sys.executable], env, cwd=project)
    target = Venv((project / ".venv").resolve())
    target.pip("check")
    must([uv_binary(), "pip", "check"], env, cwd=project)
    checked = gaudi_patch("check", "--python", target.python, "--json")
    assert (checked.code, checked.json["data"]["state"]) == (0, "patched")


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tags_of_every_python_stay(python: str, lmcache_wheel: Wheel, tmp_path: Path) -> None:
    wheel = lmcache_wheel("0.5.6", python)
    new = built(wheel, tmp_path)
    assert new.name == wheel.name.replace("-0.5.6-", "-0.5.6+gaudi.1-")
    texts = []
    for one in (wheel, new):
        with zipfile.ZipFile(one) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
            texts.append([line for line in archive.read(name).splitlines() if not line.startswith(b"Generator")])
    assert texts[0] == texts[1]


@pytest.mark.torch
@pytest.mark.skipif(not FULL, reason="minutes a release; GAUDI_PATCH_TEST_FULL=1 runs it")
@pytest.mark.parametrize("version", FAMILIES)
def test_kernels_and_engine_pass_on_the_wheel_before_it_is_written(
    version: str, lmcache_wheel: Wheel, torch_python: Path, tmp_path: Path
) -> None:
    levels = "kernels,engine"
    done = gaudi_patch(
        "wheel", lmcache_wheel(version), "--out", tmp_path, "--smoke", levels, "--require", levels,
        "--python", torch_python, "--report", "--json", timeout=1500,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {one["status"] for one in done.json["data"]["smoke"]} == {"passed"}


def test_the_real_sdist_has_the_files_of_the_series_and_all_others_as_they_were(tmp_path: Path) -> None:
    try:
        release = upstream_tests.sdist("0.5.6")
    except EnvironmentUnavailableError as error:
        unavailable(error)
    done = gaudi_patch("wheel", release, "--out", tmp_path)
    assert done.code == 0, done
    before, after = _members(release), _members(tmp_path / "lmcache-0.5.6+gaudi.1.tar.gz")
    series = MANIFEST.by_id("0.5.6")
    assert series is not None
    locked = MANIFEST.locked_files(series)
    assert {name: after.get(name) for name in locked} == {name: file.after for name, file in locked.items()}
    ours = {*locked, "PKG-INFO", "lmcache.egg-info/PKG-INFO", "lmcache.egg-info/SOURCES.txt"}
    ours |= {name for name in after if name.startswith("gaudi-patch/")}
    assert {name: digest for name, digest in before.items() if name not in ours} == {
        name: digest for name, digest in after.items() if name not in ours
    }


def _members(sdist: Path) -> dict[str, str]:
    """Return the files of an sdist, below its root, by their hashes."""
    with tarfile.open(sdist) as archive:
        return {
            info.name.partition("/")[2]: hashlib.sha256(archive.extractfile(info).read()).hexdigest()  # type: ignore[union-attr]
            for info in archive
            if info.isfile()
        }

"""The environments that other tests rely on have the promised properties."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import environments
from tests.support.environments import Environment, EnvironmentUnavailableError, changed_files

RELEASE = "0.5.6"

pytestmark = [pytest.mark.wheels, pytest.mark.torch]


def test_overlay_runs_the_release_over_the_torch_environment(
    lmcache_overlay: Callable[[str], Environment],
) -> None:
    environment = lmcache_overlay(RELEASE)
    done = environment.run("-c", "import torch, lmcache; print(torch.__version__); print(lmcache.__file__)")
    assert done.returncode == 0, done.stderr
    torch_version, file = done.stdout.split()
    assert torch_version.startswith("2.")
    assert Path(file).is_relative_to(environment.site_packages)
    assert not changed_files(environment)


def test_copy_shares_no_file_and_runs_itself(
    lmcache_overlay: Callable[[str], Environment], lmcache_copy: Callable[[str], Environment]
) -> None:
    pristine, copy = lmcache_overlay(RELEASE), lmcache_copy(RELEASE)

    def inodes(environment: Environment) -> set[tuple[int, int]]:
        files = (p for p in environment.prefix.rglob("*") if p.is_file() and not p.is_symlink())
        return {(p.stat().st_dev, p.stat().st_ino) for p in files}

    assert not inodes(pristine) & inodes(copy)
    assert not changed_files(copy)
    assert not list(copy.prefix.rglob("__pycache__"))
    done = copy.run("-c", "import sys, torch, lmcache; print(sys.prefix); print(lmcache.__file__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(copy.prefix), str(copy.site_packages / "lmcache" / "__init__.py")]
    script = copy.prefix / "bin" / "lmcache"
    assert script.read_text().splitlines()[0] == f"#!{copy.python}"
    assert subprocess.run([script, "--help"], capture_output=True, check=False).returncode == 0


def test_a_changed_file_is_noticed(lmcache_copy: Callable[[str], Environment]) -> None:
    copy = lmcache_copy(RELEASE)
    target = copy.site_packages / "lmcache" / "__init__.py"
    target.write_bytes(target.read_bytes() + b"\n")
    assert changed_files(copy) == ["lmcache/__init__.py"]


def _worker(cache: str, torch_python: str, queue: multiprocessing.Queue[str]) -> None:
    os.environ["GAUDI_PATCH_TEST_CACHE"] = cache
    os.environ["GAUDI_PATCH_TEST_TORCH_PYTHON"] = torch_python
    queue.put(str(environments.overlay(RELEASE).prefix))


def test_concurrent_processes_make_an_overlay_once(
    lmcache_overlay: Callable[[str], Environment], torch_python: Path, tmp_path: Path
) -> None:
    lmcache_overlay(RELEASE)
    (tmp_path / "wheels").symlink_to(environments.cache_dir() / "wheels")
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=_worker, args=(str(tmp_path), str(torch_python), queue)) for _ in range(3)]
    for process in processes:
        process.start()
    prefixes = {queue.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert len(prefixes) == 1
    (prefix,) = prefixes
    assert Path(prefix + ".complete").exists()


def test_an_unknown_release_is_said_to_be_unavailable() -> None:
    with pytest.raises(EnvironmentUnavailableError, match=r"0\.0\.999"):
        environments.wheel("0.0.999")


def test_a_missing_torch_interpreter_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAUDI_PATCH_TEST_TORCH_PYTHON", "/does/not/exist")
    with pytest.raises(EnvironmentUnavailableError, match="does not exist"):
        environments.torch_python()

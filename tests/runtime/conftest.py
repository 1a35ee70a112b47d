"""The runtime's sources, and runs of the tests that need PyTorch.

The modules in ``inside/`` import torch, so they run with the pytest of the interpreter that has PyTorch.
"""

from __future__ import annotations

import importlib.util
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gaudi_patch
from gaudi_patch.series import patch_files
from gaudi_patch.series.manifest import load
from tests.support import environments
from tests.support.environments import Environment, clean_environment

REPOSITORY = Path(gaudi_patch.__file__).parents[1]
PATCHES = REPOSITORY / "patches"
EMULATOR = REPOSITORY / "gaudi_patch" / "emulator"
INSIDE = Path(__file__).parent / "inside"
COVERAGE_FILE = "RUNTIME_COVERAGE_FILE"  # set with --cov: where processes write the runtime's coverage

collect_ignore = ["inside"]

# Modules of pytest and hypothesis, and their dependencies that the environment with PyTorch lacks.
_TEST_PACKAGES = (
    "pytest",
    "_pytest",
    "py",
    "pluggy",
    "iniconfig",
    "hypothesis",
    "_hypothesis_globals",
    "sortedcontainers",
    "attr",
    "attrs",
    "exceptiongroup",
    "coverage",
    "tomli",
)


@pytest.fixture(scope="session", autouse=True)
def _runtime_coverage(pytestconfig: pytest.Config) -> Iterator[None]:
    """With --cov, include the runtime's modules in the report: combine the data files of all processes."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.pluginmanager.hasplugin("_cov"):
            patch.setenv(COVERAGE_FILE, str(REPOSITORY / ".coverage"))
        yield


@pytest.fixture(scope="session")
def runtime_tree() -> Path:
    """Return the directory that holds only ``lmcache/gaudi``, as source, and no other part of LMCache."""
    return PATCHES / "runtime"


@pytest.fixture(scope="session")
def test_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with this interpreter's pytest and hypothesis, both pure Python."""
    folder = tmp_path_factory.mktemp("packages")
    for name in _TEST_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            source = Path(spec.origin)
            source = source.parent if source.name == "__init__.py" else source
            (folder / source.name).symlink_to(source)
    return folder


@pytest.fixture(scope="session")
def inside(torch_python: Path, runtime_tree: Path, test_packages: Path) -> Callable[[str, str], None]:
    """``inside(module, rules)``: run a module of ``inside/``; rules are ``lazy``, ``eager`` or ``host`` (no device)."""

    environment = clean_environment() | {"PYTHONPATH": f"{runtime_tree}:{test_packages}", "OMP_NUM_THREADS": "1"}

    def run(module: str, rules: str) -> None:
        arguments = ["-q", "-W", "error", "-p", "no:cacheprovider", "-c", "/dev/null", "-rs"]
        arguments += ["--rootdir", str(INSIDE), str(INSIDE / module)]
        device = [] if rules == "host" else [str(EMULATOR), f"--{rules}"]
        done = subprocess.run(
            [str(torch_python), "-B", *device, str(INSIDE / "run.py"), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=1200,
            check=False,
        )
        print(done.stdout[-1000:])
        assert done.returncode == 0, f"{done.stdout[-12000:]}\n{done.stderr[-4000:]}"
        assert " skipped" not in done.stdout.splitlines()[-1], done.stdout

    return run


@pytest.fixture(scope="session")
def patched(
    lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Environment]:
    """``patched(version)``: the release's environment, patched with git alone; one copy per run, do not change it."""
    made: dict[str, Environment] = {}

    def get(version: str) -> Environment:
        if version not in made:
            lmcache_overlay(version)
            copy = environments.overlay_copy(version, tmp_path_factory.mktemp("patched"))
            _patch(copy.site_packages, version)
            made[version] = copy
        return made[version]

    return get


@pytest.fixture(scope="session")
def patched_tree(
    lmcache_wheel: Callable[..., Path], torch_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``patched_tree(version)``: an unpacked wheel's directory, patched with git alone; made once, do not change it."""
    made: dict[str, Path] = {}

    def get(version: str) -> Path:
        if version not in made:
            tree = tmp_path_factory.mktemp(f"lmcache-{version}")
            python = environments._interpreter(torch_python).version
            with zipfile.ZipFile(lmcache_wheel(version, python)) as archive:
                archive.extractall(tree)
            _patch(tree, version)
            made[version] = tree
        return made[version]

    return get


def _patch(tree: Path, version: str) -> None:
    series = load(PATCHES).by_id(version)
    assert series is not None
    for name in series.patches:
        subprocess.run(
            ["git", "apply", "-p1", "--whitespace=nowarn"],
            cwd=tree,
            input=patch_files.read(PATCHES, name),
            check=True,
            env=_outside_any_repository(tree),
        )


def _outside_any_repository(tree: Path) -> dict[str, str]:
    # Without this variable, git apply inside a checkout silently skips files outside its work tree.
    return clean_environment() | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}

"""Real environments for tests: an interpreter with PyTorch, and LMCache releases installed over it.

Everything is made once and kept in a cache directory shared by all test runs of a user, so the second run works without
a network. Several processes (pytest-xdist) may call all functions at once: a file lock per object makes the others
wait, and an object counts as made only once it is complete.

Environment variables:

``GAUDI_PATCH_TEST_CACHE``
    the cache directory; default ``~/.cache/gaudi-patch-tests``.
``GAUDI_PATCH_TEST_TORCH_PYTHON``
    an existing interpreter with PyTorch and LMCache's import dependencies, to save their installation
    (about 1.5 GB).
``GAUDI_PATCH_TEST_BASE_PYTHON``
    the interpreter to make the PyTorch environment from; default the one that runs the tests.

If an environment is not available (no network, no such release), ``EnvironmentUnavailableError`` says what failed and
how.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements-torch.txt")

#: Part of every cache key: increment it when the way environments are made changes.
_LAYOUT = "1"


class EnvironmentUnavailableError(RuntimeError):
    """An environment or a wheel is not available here; the message says what was tried and the answer."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one LMCache release over the PyTorch environment.

    ``python`` is its interpreter, ``site_packages`` the directory that holds ``lmcache`` (and nothing of the
    PyTorch environment, which a .pth file adds), ``prefix`` its root, ``version`` the LMCache release.
    """

    prefix: Path
    python: Path
    site_packages: Path
    version: str

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter with ``arguments`` and return its exit code and output, whatever they are.

        ``env`` adds to the environment. No bytecode is written, so that the environment stays
        as it is installed.
        """
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            env=clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(env or {}),
            check=False,
        )


def clean_environment() -> dict[str, str]:
    """Return the process's environment without variables that leak a parent's Python setup or device into a child.

    HPU_EMULATOR_CACHE stays: the place of the compiled device affects no test.
    """
    dropped = (
        "PYTHON",
        "VIRTUAL_ENV",
        "HPU_EMULATOR_",
        "PT_HPU_",
        "HABANA_",
        "HLS_",
        "LMCACHE_",
        "COVERAGE_",
        "COV_CORE_",
        "PYTEST_",
    )
    kept = {"HPU_EMULATOR_CACHE"}
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(dropped)}


def cache_dir() -> Path:
    """Return the cache directory, created if missing."""
    given = os.environ.get("GAUDI_PATCH_TEST_CACHE")
    folder = Path(given).expanduser().absolute() if given else Path.home() / ".cache" / "gaudi-patch-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wheel(version: str, python: str = "3.11", *, name: str = "lmcache") -> Path:
    """Return the wheel of a release for CPython ``python`` on this platform, downloaded once into the cache."""
    tag = "cp" + python.replace(".", "")
    folder = cache_dir() / "wheels" / tag

    def cached() -> Path | None:
        # A wheel's name never refers to a partial file: it is downloaded elsewhere and then moved here.
        found = sorted(folder.glob(f"{name}-{version}-*.whl"))
        return found[0] if found else None

    if (hit := cached()) is not None:
        return hit
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{name}-{version}"):
        if (hit := cached()) is not None:
            return hit
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            selection = ["--no-deps", "--only-binary", ":all:", "--python-version", python]
            _call(
                [*_pip(), "download", "--quiet", *selection, "--dest", scratch, f"{name}=={version}"],
                f"cannot download {name} {version} for Python {python}",
            )
            (downloaded,) = Path(scratch).glob("*.whl")
            target = folder / downloaded.name
            downloaded.replace(target)
            return target


def torch_python() -> Path:
    """Return an interpreter with PyTorch and LMCache's imports, made once from ``requirements-torch.txt``."""
    return _torch_python(os.environ.get("GAUDI_PATCH_TEST_TORCH_PYTHON", ""))


@functools.cache
def _torch_python(given: str) -> Path:
    if given:
        python = Path(given).expanduser().absolute()
        if not python.exists():
            raise EnvironmentUnavailableError(f"GAUDI_PATCH_TEST_TORCH_PYTHON names {python}, which does not exist")
        return python
    base = os.environ.get("GAUDI_PATCH_TEST_BASE_PYTHON") or sys.executable
    version = _call([base, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], f"cannot run {base}").strip()
    key = _digest(_LAYOUT.encode(), version.encode(), REQUIREMENTS.read_bytes())
    prefix = cache_dir() / "torch" / f"py{version}-{key}"
    python = prefix / "bin" / "python"
    with _made_once(prefix) as missing:
        if missing:
            what = f"cannot make the PyTorch environment {prefix}"
            _call([base, "-m", "venv", str(prefix)], what)
            _call(
                [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)],
                what,
                3600,
            )
            _call([str(python), "-c", "import torch"], what)
    return python


@dataclass(frozen=True)
class _Interpreter:
    """The facts about the PyTorch environment that a venv over it needs."""

    version: str
    purelib: str
    platlib: str


@functools.cache
def _interpreter(python: Path) -> _Interpreter:
    query = (
        "import json, sys, sysconfig; print(json.dumps({'version': '%d.%d' % sys.version_info[:2],"
        "'purelib': sysconfig.get_path('purelib'), 'platlib': sysconfig.get_path('platlib')}))"
    )
    return _Interpreter(**json.loads(_call([str(python), "-I", "-c", query], f"cannot run {python}")))


def overlay(version: str) -> Environment:
    """Return the shared, pristine environment of an LMCache release. Read it and run it, never write into it.

    It is made once per wheel and PyTorch environment. The first call of a process checks its package by hash against
    the wheel; a test that changes files uses ``overlay_copy``.
    """
    return _overlay(version, torch_python(), cache_dir())


@functools.cache
def _overlay(version: str, base: Path, cache: Path) -> Environment:
    about = _interpreter(base)
    package = wheel(version, about.version)
    key = _digest(_LAYOUT.encode(), str(base).encode(), about.version.encode(), package.read_bytes())
    prefix = cache / "overlays" / f"lmcache-{version}-{key}"
    with _made_once(prefix) as missing:
        if missing:
            _make_overlay(prefix, base, package)
    environment = _environment(prefix, about.version, version)
    if changed := changed_files(environment):
        raise EnvironmentUnavailableError(
            f"the shared environment {prefix} was modified ({', '.join(changed[:3])}); remove that directory"
        )
    return environment


def overlay_copy(version: str, tmp_path: Path) -> Environment:
    """Return a private copy of a release's environment, at ``tmp_path / "lmcache-<version>"``, which may be changed.

    It shares no file with the pristine environment. Its console scripts and their RECORD rows name the copy's
    interpreter. It has no bytecode, as after an installation with ``--no-compile``.
    """
    pristine = overlay(version)
    prefix = tmp_path / f"lmcache-{version}"
    shutil.copytree(pristine.prefix, prefix, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    copy = _environment(prefix, _interpreter(torch_python()).version, version)
    _retarget_scripts(copy, pristine)
    return copy


def changed_files(environment: Environment) -> list[str]:
    """Return the RECORD paths that are missing or differ from RECORD, in order; empty for an intact package."""
    changed = []
    for row in csv.reader(_record(environment).read_text(encoding="utf-8").splitlines()):
        path, expected = row[0], row[1]
        if not expected:  # RECORD itself
            continue
        file = environment.site_packages / path
        if not file.is_file() or _record_hash(file.read_bytes()) != expected:
            changed.append(path)
    return changed


def _make_overlay(prefix: Path, base: Path, package: Path) -> None:
    what = f"cannot make the environment {prefix}"
    about = _interpreter(base)
    _call([str(base), "-m", "venv", "--without-pip", str(prefix)], what)
    site_packages = prefix / "lib" / f"python{about.version}" / "site-packages"
    paths = dict.fromkeys([about.purelib, about.platlib])
    (site_packages / "_torch_environment.pth").write_text("".join(f"{path}\n" for path in paths))
    options = ["--quiet", "--no-deps", "--no-compile", "--no-index"]
    _call([*_pip(), "--python", str(prefix / "bin" / "python"), "install", *options, str(package)], what)


def _retarget_scripts(copy: Environment, pristine: Environment) -> None:
    record = _record(copy)
    rows = list(csv.reader(record.read_text(encoding="utf-8").splitlines()))
    shebang = f"#!{pristine.python}".encode()
    for row in rows:
        script = copy.site_packages / row[0]
        if not row[0].startswith("../") or not script.is_file():
            continue
        content = script.read_bytes()
        if content.startswith(shebang):
            content = content.replace(shebang, f"#!{copy.python}".encode(), 1)
            script.write_bytes(content)
            row[1:] = [_record_hash(content), str(len(content))]
    with record.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def _environment(prefix: Path, python: str, version: str) -> Environment:
    return Environment(
        prefix=prefix,
        python=prefix / "bin" / "python",
        site_packages=prefix / "lib" / f"python{python}" / "site-packages",
        version=version,
    )


def _record(environment: Environment) -> Path:
    return environment.site_packages / f"lmcache-{environment.version}.dist-info" / "RECORD"


def _record_hash(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _made_once(prefix: Path) -> Iterator[bool]:
    """Hold the lock of ``prefix`` and yield whether it must be made.

    Scripts in a venv name its path, so it is made in place. A marker next to it, written last, distinguishes a complete
    venv from the remains of a killed process.
    """
    marker = prefix.with_name(prefix.name + ".complete")
    if marker.exists() and prefix.exists():
        yield False
        return
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with _locked(prefix):
        if marker.exists() and prefix.exists():
            yield False
            return
        marker.unlink(missing_ok=True)
        if prefix.exists():
            shutil.rmtree(prefix)
        yield True
        marker.touch()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(path.name + ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _pip() -> list[str]:
    """Return a pip to run: that of the running interpreter, else that of the PyTorch environment."""
    for python in (sys.executable, os.environ.get("GAUDI_PATCH_TEST_TORCH_PYTHON")):
        if (
            python
            and subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
        ):
            return [python, "-m", "pip"]
    raise EnvironmentUnavailableError(f"no pip: {sys.executable} -m pip does not run")


def _call(command: list[str], what: str, timeout: float = 600) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=clean_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentUnavailableError(f"{what}: {error}") from error
    if done.returncode:
        raise EnvironmentUnavailableError(
            f"{what}: {' '.join(command)} ended with {done.returncode}\n{done.stderr.strip()}"
        )
    return done.stdout

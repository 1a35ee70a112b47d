"""The device is compiled once per PyTorch and source, safely, and an obstacle is reported.

The compiler is a script that records its calls and returns the library made by the real compiler. The tests check when
it is called and what happens to its output. Every other test of the device runs on the real compilation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.support import EMULATOR, REPOSITORY, ForkServer, run_python
from tests.support.environments import clean_environment

pytestmark = pytest.mark.torch

ACTIVATE = "import gaudi_patch.emulator as e; print(e.activate(lazy=False).library)"


class Compiler:
    """A compiler that records its calls; ``mode`` "copy" makes the library, "fail" fails after a partial output."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self.library = folder, library
        self.path = folder / "c++-for-tests"
        self.log = folder / "calls"
        self.use("copy")

    def use(self, mode: str, delay: float = 0.0) -> None:
        self.path.write_text(
            textwrap.dedent(f"""\
                #!{sys.executable} -I
                import os, pathlib, shutil, sys, time
                output = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
                if not any(name.endswith("device.cpp") for name in sys.argv):
                    output.touch()  # an empty library to link with
                    sys.exit()
                with open({str(self.log)!r}, "a") as log:
                    log.write("call\\n")
                output.write_bytes(b"partial")
                time.sleep({delay})
                if {mode!r} == "kill":
                    os.kill(os.getppid(), 9)
                    sys.exit(1)
                if {mode!r} == "fail":
                    sys.exit("device.cpp:1: error: no such thing")
                shutil.copy({str(self.library)!r}, output)
            """)
        )
        self.path.chmod(0o755)

    @property
    def calls(self) -> int:
        return self.log.read_text().count("call") if self.log.exists() else 0


@pytest.fixture(scope="session")
def library(forks: ForkServer) -> Path:
    """Return the library made by the real compiler."""
    done = forks.run(ACTIVATE)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def compiler(tmp_path: Path, library: Path) -> Compiler:
    return Compiler(tmp_path, library)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def run(forks: ForkServer, compiler: Compiler, cache: Path) -> Callable[..., Any]:
    """Run a program with the recording compiler and an empty cache."""

    def go(program: str = ACTIVATE, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {"HPU_EMULATOR_CACHE": str(cache), "CXX": str(compiler.path), **env}
        return forks.run(program, variables)

    return go


def _libraries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.so"))


def test_the_first_use_compiles_and_the_second_does_not(
    run: Callable[..., Any], compiler: Compiler, cache: Path
) -> None:
    for _ in range(2):
        done = run()
        assert done.returncode == 0, done.stderr
    assert compiler.calls == 1
    (library,) = _libraries(cache)
    assert str(library) == done.stdout.strip()
    assert library.read_bytes().startswith(compiler.library.read_bytes())


def test_another_source_is_another_library(
    run: Callable[..., Any], compiler: Compiler, cache: Path, tmp_path: Path
) -> None:
    """Any changed file of the source counts; before the change, the copy yields the same library as the original."""
    assert run().returncode == 0
    package = tmp_path / "changed" / "gaudi_patch"
    shutil.copytree(EMULATOR, package / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("")
    program = f"import sys; sys.path.insert(0, {str(package.parent)!r}); {ACTIVATE}"
    assert run(program).returncode == 0
    assert compiler.calls == 1
    sources = sorted(path for ending in ("*.cpp", "*.h") for path in package.rglob(ending))
    for number, source in enumerate({sources[0], sources[-1], *package.rglob("device.cpp")}):
        source.write_text(source.read_text() + "// one comment more\n")
        done = run(program)
        assert done.returncode == 0, done.stderr
        assert compiler.calls == number + 2, source.name
    assert len(_libraries(cache)) == compiler.calls


def test_another_pytorch_is_another_library(run: Callable[..., Any], compiler: Compiler, cache: Path) -> None:
    assert run().returncode == 0
    pretend = "import torch; torch.__version__ = type(torch.__version__)('2.99.0+cpu'); "
    done = run(pretend + ACTIVATE)
    assert done.returncode == 0, done.stderr
    assert compiler.calls == 2
    assert len(_libraries(cache)) == 2


def test_processes_that_start_together_compile_once(
    torch_python: Path, compiler: Compiler, cache: Path, tmp_path: Path
) -> None:
    compiler.use("copy", delay=2.0)
    variables = {"HPU_EMULATOR_CACHE": str(cache), "CXX": str(compiler.path), "PYTHONPATH": str(REPOSITORY)}
    program = ACTIVATE + "; import torch; assert torch.ones(3, device='hpu').sum().item() == 3"
    command = [str(torch_python), "-B", "-c", program]
    started = [
        subprocess.Popen(
            command, env=clean_environment() | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 3, outputs
    assert len({out for out, _ in outputs}) == 1
    assert compiler.calls == 1


def test_a_killed_compilation_leaves_no_library(run: Callable[..., Any], compiler: Compiler, cache: Path) -> None:
    compiler.use("kill")
    done = run()
    assert done.returncode == -9
    assert all(path.read_bytes() != b"partial" for path in cache.glob("*.so"))
    compiler.use("copy")
    again = run()
    assert again.returncode == 0, again.stderr
    assert compiler.calls == 2


def test_a_failed_compilation_shows_what_the_compiler_said(
    run: Callable[..., Any], compiler: Compiler, cache: Path
) -> None:
    compiler.use("fail")
    done = run()
    assert done.returncode == 1
    assert "EmulatorError" in done.stderr
    assert "error: no such thing" in done.stderr
    assert _libraries(cache) == []
    compiler.use("copy")
    assert run().returncode == 0


def test_without_a_compiler_the_message_names_the_package(
    torch_python: Path, forks: ForkServer, cache: Path, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    variables = {"HPU_EMULATOR_CACHE": str(cache), "PATH": str(nothing), "CXX": ""}
    done = forks.run(ACTIVATE, variables)
    assert done.returncode == 1
    assert "EmulatorError" in done.stderr
    assert "compiler" in done.stderr
    assert "g++" in done.stderr
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('the script ran without a device')\n")
    done = run_python(torch_python, EMULATOR, script, env=variables, importable=False)
    assert done.returncode == 4, done.stderr
    assert "g++" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_compiled_device_needs_no_compiler(run: Callable[..., Any], compiler: Compiler, tmp_path: Path) -> None:
    assert run().returncode == 0
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert run(PATH=str(nothing), CXX="").returncode == 0
    assert compiler.calls == 1


def test_a_cache_that_cannot_be_written_is_said_to_be_so(
    run: Callable[..., Any], compiler: Compiler, tmp_path: Path
) -> None:
    """A directory below a file cannot be created by any user."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = run(HPU_EMULATOR_CACHE=str(blocker / "cache"))
    assert done.returncode == 1
    assert "EmulatorError" in done.stderr
    assert str(blocker) in done.stderr
    assert "HPU_EMULATOR_CACHE" in done.stderr
    assert compiler.calls == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root writes into read-only directories")
def test_a_read_only_cache_is_said_to_be_so(run: Callable[..., Any], cache: Path) -> None:
    cache.mkdir(mode=0o555)
    done = run()
    cache.chmod(0o755)
    assert done.returncode == 1
    assert "EmulatorError" in done.stderr
    assert "HPU_EMULATOR_CACHE" in done.stderr


def test_a_read_only_cache_that_has_the_library_is_enough(
    run: Callable[..., Any], compiler: Compiler, cache: Path
) -> None:
    assert run().returncode == 0
    for path in [*cache.rglob("*"), cache]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path.name for path in cache.rglob("*"))
    done = run()
    after = sorted(path.name for path in cache.rglob("*"))
    cache.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert compiler.calls == 1
    assert after == before


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o730, 0o1777])
def test_a_cache_that_others_can_write_to_is_refused(
    mode: int, run: Callable[..., Any], compiler: Compiler, cache: Path
) -> None:
    """The library is code: anyone who can replace it, including members of a group, can run their own."""
    cache.mkdir()
    cache.chmod(mode)
    done = run()
    assert done.returncode == 1
    assert "EmulatorError" in done.stderr
    assert f"mode {mode:04o}" in done.stderr
    assert compiler.calls == 0


@pytest.mark.parametrize("place", ["directory", "library"])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_library_that_others_can_write_to_is_not_loaded(
    mode: int, place: str, run: Callable[..., Any], cache: Path
) -> None:
    assert run().returncode == 0
    (library,) = cache.glob("*.so")
    (cache if place == "directory" else library).chmod(mode)
    done = run()
    assert done.returncode == 1, done.stdout
    assert "EmulatorError" in done.stderr
    (cache if place == "directory" else library).chmod(0o755)
    assert run().returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_cache_of_another_user_is_refused(run: Callable[..., Any], compiler: Compiler, cache: Path) -> None:
    cache.mkdir(mode=0o755)
    os.chown(cache, 12345, 12345)
    done = run()
    assert done.returncode == 1
    assert "uid 12345" in done.stderr
    assert compiler.calls == 0


def test_a_library_that_is_a_link_is_not_loaded(run: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    assert run().returncode == 0
    (library,) = cache.glob("*.so")
    library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    done = run()
    assert done.returncode == 1, done.stdout
    assert "symbolic link" in done.stderr


def test_the_default_cache_is_the_users(forks: ForkServer, compiler: Compiler, tmp_path: Path) -> None:
    program = "import os; os.environ.pop('HPU_EMULATOR_CACHE', None)\n" + ACTIVATE
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "xdg"), "CXX": str(compiler.path)}
    (tmp_path / "home").mkdir()
    done = forks.run(program, home)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "xdg")
    done = forks.run(program, {**home, "XDG_CACHE_HOME": ""})
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home" / ".cache")

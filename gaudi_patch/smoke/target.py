"""Inspect the target's interpreter: PyTorch, LMCache, Habana's software, a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.smoke.levels import DEVICE_VARIABLE, EMULATOR_PACKAGES, Level
from gaudi_patch.target import process
from gaudi_patch.target.ask import AskError, Fields, Problem, ask

_INSPECT_SECONDS = 120.0

# Removed from the probes' environment: variables that would add another package, start-up file, LMCache configuration
# or emulator option to the check. PYTHONPYCACHEPREFIX stays: it decides which bytecode runs.
_DROPPED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PYTHONWARNINGS",
    "PYTHONOPTIMIZE",
    "PYTHONEXECUTABLE",
    "PYTHONBREAKPOINT",
)
_DROPPED_PREFIXES = ("LMCACHE_", "HPU_EMULATOR_", "PYTEST_", "COV_CORE_")
_KEPT = ("HPU_EMULATOR_CACHE", DEVICE_VARIABLE)
_PLUGIN = "habana_frameworks.torch.hpu"
# The start of the target's answer if the plugin is installed but broken, as in inside/inspect_target.py.
_BROKEN = "habana_frameworks cannot be used"
_NO_PLUGIN = "No module named 'habana_frameworks.torch"


class TargetError(RuntimeError):
    """The target interpreter cannot be run or asked."""


@dataclass(frozen=True)
class Inspection:
    """A target interpreter.

    torch, lmcache: whether the module is found. missing: the requested modules that are not found.
    hpu: whether the installed Habana software sees a device; hpu_problem: why not.
    """

    torch: bool
    lmcache: bool
    hpu: bool
    hpu_problem: str
    missing: tuple[str, ...]

    @property
    def plugin_broken(self) -> bool:
        """Return whether Habana's software is installed but fails, which differs from seeing no device."""
        broken = self.hpu_problem.startswith(_BROKEN)
        # Other Habana software shares the namespace without having a PyTorch plugin.
        return broken and not self.hpu and _NO_PLUGIN not in self.hpu_problem


def probe_environment(
    environ: Mapping[str, str], *, rules: str, scratch: Path | None, library: Path | None = None
) -> dict[str, str]:
    """Return a probe's environment: the caller's, cleaned, with the mode and a scratch directory set.

    library: the compiled device of a probe on the emulated HPU. Such a probe and its children see the emulated
    habana_frameworks first, no GPU, and a PyTorch that does not load plugins by itself.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name in _KEPT or (name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES))
    }
    kept.update(
        PT_HPU_LAZY_MODE="1" if rules == "lazy" else "0",
        PYTHONSAFEPATH="1",  # from 3.11; before, running by path puts only the probes' directory on sys.path
        PYTHONDONTWRITEBYTECODE="1",  # a check leaves nothing in the target
        NUMBA_CACHE_DIR=str(
            scratch
        ),  # otherwise numba creates __pycache__ beside the module (LMCache: cachegen_kernels.py)
        PYTHONUNBUFFERED="1",  # so that a killed probe's last output is kept
        PYTHONFAULTHANDLER="1",
        OMP_NUM_THREADS="1",  # as vLLM sets it; the probes' tensors are small, and more threads only wait
        LMCACHE_TRACK_USAGE="false",
    )
    if scratch is not None:
        kept["TMPDIR"] = str(scratch)
    if library is not None:
        kept.update(
            TORCH_DEVICE_BACKEND_AUTOLOAD="0",
            PYTHONPATH=str(EMULATOR_PACKAGES),
            CUDA_VISIBLE_DEVICES="",
        )
        kept[DEVICE_VARIABLE] = str(library)
    return kept


def inspect(python: Path, environ: Mapping[str, str], scratch: Path, modules: tuple[str, ...]) -> Inspection:
    """Inspect the interpreter in a separate process, without importing LMCache.

    Raises TargetError if it cannot run or does not answer.
    """
    try:
        answer = ask(
            python,
            "inspect_target.py",
            *modules,
            timeout=_INSPECT_SECONDS,
            environ=probe_environment(environ, rules="lazy", scratch=scratch),
            flags=(),
            cwd=scratch,
        )
        fields = Fields(answer)
        return Inspection(
            torch=fields.flag("torch"),
            lmcache=fields.flag("lmcache"),
            hpu=fields.flag("hpu"),
            hpu_problem=fields.text("hpu_problem"),
            missing=fields.texts("missing"),
        )
    except AskError as error:
        if error.problem is Problem.NO_ANSWER and (crash := _plugin_crash(python, environ, scratch)):
            raise TargetError(
                f"{_BROKEN}: importing it kills {python} with {crash}; "
                "fix or reinstall Habana's software in this environment"
            ) from None
        cannot = "cannot run {}" if error.problem is Problem.NOT_STARTED else "cannot ask {} for its modules"
        raise TargetError(f"{cannot.format(python)}: {error}") from None


def _plugin_crash(python: Path, environ: Mapping[str, str], scratch: Path) -> str:
    """Return how the interpreter crashes when importing only Habana's plugin; "" if it does not."""
    endings = []
    for program in ("pass", f"import {_PLUGIN}"):
        try:
            finished = process.run([str(python), "-c", program], timeout=_INSPECT_SECONDS, environ=environ, cwd=scratch)
        except OSError:
            return ""
        endings.append(finished)
    return "" if endings[0].returncode != 0 or endings[1].returncode >= 0 else endings[1].ending


def choose_device(target: Inspection, wanted: str) -> str:
    """Return ``hpu`` or ``emulated``; ``none`` if a real HPU is requested and there is none."""
    if wanted == "emulated":
        return "emulated"
    if target.hpu:
        return "hpu"
    return "none" if wanted == "hpu" else "emulated"


def obstacle(target: Inspection, level: Level, device: str) -> str:
    """Return why the level cannot run at all; "" if it can."""
    if not target.lmcache:
        return "LMCache is not installed for this interpreter"
    if not target.torch:
        return "PyTorch is not installed for this interpreter: use another one with --python, or install torch"
    lacking = [name for name in level.needs if name in target.missing]
    if lacking:
        return f"the check needs {', '.join(lacking)}, which this interpreter lacks"
    if device == "none":
        return f"no HPU: {target.hpu_problem}"
    if device == "emulated" and target.hpu:
        return "a real HPU is present, which the emulated one must not replace"
    return ""


def fault(target: Inspection, wanted: str) -> str:
    """Return a fault of the target that prevents any level from running or passing; "" if there is none.

    An installed but broken plugin differs from a host without an HPU: the image cannot serve, whatever else is
    proved.
    """
    if wanted == "auto" and target.torch and target.lmcache and target.plugin_broken:
        return (
            f"{target.hpu_problem}; fix or reinstall Habana's software in this environment, "
            "or check the patched code alone with --device emulated"
        )
    return ""

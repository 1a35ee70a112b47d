"""What the target interpreter offers: PyTorch, LMCache, the Habana software, a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gaudi_patch.smoke.levels import DEVICE_VARIABLE, EMULATOR_PACKAGES, Level
from gaudi_patch.target import process
from gaudi_patch.target.ask import AskError, Fields, Problem, ask

_INSPECT_SECONDS = 120.0

# Dropped from the probes' environment: what would let another package, start-up file, LMCache
# configuration or emulator option take part in the check. PYTHONPYCACHEPREFIX stays: it decides which bytecode runs.
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
# How the target's answer begins where the plugin is there and does not work, as inside/inspect_target.py says it.
_BROKEN = "habana_frameworks cannot be used"
_NO_PLUGIN = "No module named 'habana_frameworks.torch"


class TargetError(RuntimeError):
    """The target interpreter cannot be run or asked."""


@dataclass(frozen=True)
class Inspection:
    """A target interpreter.

    torch, lmcache: whether the module is found. missing: of the modules asked for, those not found.
    hpu: whether the installed Habana software sees a device; hpu_problem: why not.
    """

    torch: bool
    lmcache: bool
    hpu: bool
    hpu_problem: str
    missing: tuple[str, ...]

    @property
    def plugin_broken(self) -> bool:
        """Whether Habana's software is installed and fails, which is not the same as seeing no device."""
        broken = self.hpu_problem.startswith(_BROKEN)
        # Other software of Habana's has a share in the namespace, and no plugin for PyTorch.
        return broken and not self.hpu and _NO_PLUGIN not in self.hpu_problem


def probe_environment(
    environ: Mapping[str, str], *, rules: str, scratch: Path | None, library: Path | None = None
) -> dict[str, str]:
    """Return the environment of a probe: the caller's, cleaned, with the mode and a scratch directory set.

    library: the compiled device of a probe on the emulated HPU. Such a probe and its children see the emulated
    habana_frameworks first, no GPU, and a PyTorch that loads no plugin by itself.
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
        NUMBA_CACHE_DIR=str(scratch),  # else numba makes __pycache__ beside the module (LMCache: cachegen_kernels.py)
        PYTHONUNBUFFERED="1",  # so that a killed probe's last words are kept
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
    """Ask the interpreter, in a process of its own, without importing LMCache.

    Raises TargetError where it cannot be run or does not answer.
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
                f"{_BROKEN}: importing it ends {python} with {crash}; "
                "fix or reinstall Habana's software in this environment"
            ) from None
        cannot = "cannot run {}" if error.problem is Problem.NOT_STARTED else "{} cannot be asked what it has"
        raise TargetError(f"{cannot.format(python)}: {error}") from None


def _plugin_crash(python: Path, environ: Mapping[str, str], scratch: Path) -> str:
    """Return how the interpreter dies of importing Habana's plugin, and of that alone; empty where it does not."""
    endings = []
    for program in ("pass", f"import {_PLUGIN}"):
        try:
            finished = process.run([str(python), "-c", program], timeout=_INSPECT_SECONDS, environ=environ, cwd=scratch)
        except OSError:
            return ""
        endings.append(finished)
    return "" if endings[0].returncode != 0 or endings[1].returncode >= 0 else endings[1].ending


def choose_device(target: Inspection, wanted: str) -> str:
    """``hpu`` or ``emulated``; ``none`` where a real one is asked for and there is none."""
    if wanted == "emulated":
        return "emulated"
    if target.hpu:
        return "hpu"
    return "none" if wanted == "hpu" else "emulated"


def obstacle(target: Inspection, level: Level, device: str) -> str:
    """Return why the level cannot be run at all; empty where it can."""
    if not target.lmcache:
        return "LMCache is not installed for this interpreter"
    if not target.torch:
        return "PyTorch is not installed for this interpreter: name the one that serves by --python, or install torch"
    lacking = [name for name in level.needs if name in target.missing]
    if lacking:
        return f"the check needs {', '.join(lacking)}, which this interpreter does not have"
    if device == "none":
        return f"no HPU: {target.hpu_problem}"
    if device == "emulated" and target.hpu:
        return "a real HPU is present, and the emulated one does not stand in for it"
    return ""


def fault(target: Inspection, wanted: str) -> str:
    """Return what is wrong with the target, so that no level may run and none may pass; empty where nothing is.

    A plugin that is there and fails is no host without an HPU: the image cannot serve, whatever else is proved.
    """
    if wanted == "auto" and target.torch and target.lmcache and target.plugin_broken:
        return (
            f"{target.hpu_problem}; fix or reinstall Habana's software in this environment, "
            "or check the patched code alone with --device emulated"
        )
    return ""

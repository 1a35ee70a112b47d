"""Level imports: the modules that the vLLM path needs can be imported on a Gaudi host, and are the right ones.

It runs twice, each time in a fresh interpreter: with LMCache imported first, and with habana_frameworks first. CUDA
libraries are hidden from the import system, so that a module that needs one fails as on a host without them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _bytecode, _children, _environment, _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _bytecode
    import _children
    import _environment
    import _probe
    from _kv import lmcache as kv_lmcache

NEEDED = (
    "lmcache",
    "lmcache.v1.config",
    "lmcache.v1.memory_management",
    "lmcache.v1.token_database",
    "lmcache.v1.gpu_connector",
    "lmcache.v1.storage_backend.local_cpu_backend",
    "lmcache.v1.storage_backend.local_disk_backend",
    "lmcache.v1.storage_backend.remote_backend",
    "lmcache.v1.cache_engine",
    "lmcache.integration.vllm.utils",
)
RUNTIME = "lmcache.gaudi"
VLLM_ADAPTER = "lmcache.integration.vllm.vllm_v1_adapter"
SERVERS = ("lmcache.v1.server.__main__", "lmcache.v1.multiprocess.server")


class HideCuda(importlib.abc.MetaPathFinder):
    """A finder that reports CUDA libraries as missing, and notes which were requested."""

    EXTENSIONS = ("lmcache.c_ops", "lmcache.cuda_ops")

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Raise ModuleNotFoundError for a CUDA library; leave everything else to the other finders."""
        if fullname.partition(".")[0] in _environment.CUDA_LIBRARIES or fullname in self.EXTENSIONS:
            self.asked.add(fullname)
            raise ModuleNotFoundError(f"No module named {fullname!r} (CUDA only)", name=fullname)
        return None


def body(probe: _probe.Probe) -> None:
    """Import with LMCache first in this process, and with habana_frameworks first in another."""
    second = "--habana-first" in sys.argv
    other = None if second else _start_other(probe)
    order = "habana_frameworks first" if second else "lmcache first"
    with probe.section(order):
        check_imports(probe, habana_first=second)
    if other is not None:
        _merge(probe, *other)


def check_imports(probe: _probe.Probe, *, habana_first: bool) -> None:
    """Check one import order."""
    if habana_first:
        _load_habana()
    elif "habana_frameworks.torch" in sys.modules:
        probe.fail("habana_frameworks.torch was loaded before the probe began: this order was not tested")
    hidden = HideCuda()
    sys.meta_path.insert(0, hidden)
    for name in NEEDED:
        _import(probe, hidden, name)
    with probe.section("device"):
        device = kv_lmcache.detected_device()
        probe.check(device == "hpu", f"LMCache detects the device {device!r}, not 'hpu'")
    if probe.check(
        _environment.is_patched(),
        f"LMCache {_environment.lmcache_version()} has no {RUNTIME}: the HPU runtime is missing",
    ):
        for name in kv_lmcache.runtime_modules():
            _import(probe, hidden, name)
    if _environment.installed("vllm"):
        _import(probe, hidden, VLLM_ADAPTER)
    elif habana_first:
        probe.summary.append("vLLM adapter not checked (no vLLM)")
    for name in SERVERS:
        _import_server(probe, hidden, name, say=habana_first)
    with probe.section("source"):
        _check_sources(probe)
    with probe.section("libraries"):
        _check_libraries(probe)


def _load_habana() -> None:
    """Import habana_frameworks; skip the level if it is the emulated one and is unavailable here."""
    try:
        _probe.load("habana_frameworks.torch")
    except Exception as error:
        if type(error).__name__ == "EmulatorError":
            raise _probe.Skip(f"no emulated HPU here: {error}") from error
        raise


def _import(probe: _probe.Probe, hidden: HideCuda, name: str) -> None:
    with probe.section(name):
        hidden.asked.clear()
        try:
            _probe.load(name)
        except ImportError as error:
            if hidden.asked and error.name in hidden.asked:
                probe.fail(f"it needs the CUDA library {error.name}")
                return
            raise
        probe.check(True, "imported")


def _import_server(probe: _probe.Probe, hidden: HideCuda, name: str, *, say: bool) -> None:
    """Import the servers, which are not on vLLM's path: report what they lack without ending the level."""
    if name == "lmcache.v1.multiprocess.server" and not kv_lmcache.serves_multiprocess():
        if say:
            probe.summary.append("multiprocess server not checked (this release's is for CUDA only)")
        return
    try:
        _import(probe, hidden, name)
    except _probe.Skip as skip:
        if say:
            reason = str(skip).partition(";")[0]
            probe.summary.append(f"{name} not checked ({reason})")


def _check_sources(probe: _probe.Probe) -> None:
    lmcache = sys.modules.get("lmcache")
    if lmcache is None:
        return
    for name, problem in _bytecode.stale_modules("lmcache"):
        probe.fail(f"{name} {problem}")
    loaded = [name for name in sys.modules if name == "lmcache" or name.startswith("lmcache.")]
    probe.checks += len(loaded)
    probe.counters["modules_compared_with_source"] = len(loaded)


def _check_libraries(probe: _probe.Probe) -> None:
    """Check that no LMCache extension linked to CUDA was loaded; torch's own libraries are not examined."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    mapped = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    for extension in HideCuda.EXTENSIONS:
        stem = extension.rpartition(".")[2]
        found = [path for path in mapped if Path(path).name.startswith(stem + ".") and "/lmcache/" in path]
        probe.check(not found, f"the CUDA extension {', '.join(found)} is loaded")


def _start_other(probe: _probe.Probe) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the same probe again, with the same arguments and the other order."""
    answer = probe.scratch / "habana-first.json"
    command = list(sys.orig_argv)
    command[0] = sys.executable
    command[command.index("--result") + 1] = str(answer)
    return _children.start([*command, "--habana-first"]), answer


def _merge(probe: _probe.Probe, process: subprocess.Popen[bytes], answer: Path) -> None:
    status = process.wait()
    with probe.section("habana_frameworks first"):
        try:
            data = json.loads(answer.read_bytes())
        except (OSError, ValueError):
            probe.fail(f"the second interpreter ended with status {status} and gave no result")
            return
        if data["status"] == "skipped":
            # The other order needs the same dependency, so its failure says nothing about LMCache.
            probe.failures.clear()
            raise _probe.Skip(data["reason"])
        probe.checks += data["checks"]
        told = {_cause_of(failure.message) for failure in probe.failures}
        for failure in data["failures"]:
            check, message = failure.pop("check"), failure.pop("message")
            if _cause_of(message) not in told:
                probe.failures.append(_probe.Failure(check, message, failure))
        if status != _probe.EXIT[data["status"]]:
            probe.fail(f"the second interpreter reported {data['status']} but ended with status {status}")
        probe.summary += data["summary"]


def _cause_of(message: str) -> str:
    """Return what a failure says, without where it was seen, which depends on the order of the imports."""
    return message.partition(" (seen as: ")[0]


if __name__ == "__main__":
    _probe.main("imports", body)

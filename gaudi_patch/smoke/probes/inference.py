"""Level inference: a vLLM engine answers prompts from LMCache, with the same tokens as without it.

Each case is a process of its own (``inference_case.py``), with LMCache's servers beside it where it needs one. The
platform is vllm-gaudi where it is installed, else the plugin in ``vllm_plugin``, which hands KV caches over as
vllm-gaudi does. Options, beside a probe's own: ``--model DIR`` a real checkpoint (Llama's architecture, or any under
vllm-gaudi) in place of tiny random ones; ``--cases A,B`` some of the cases, slow ones too; ``--block-size N``,
``--kv-cache-dtype fp8_inc`` and ``--no-prefix-caching`` for vLLM's engine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._vllm import children as vllm_children
    from gaudi_patch.smoke.probes._vllm import processes as vllm_processes
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _environment
    import _probe
    from _kv import lmcache as kv_lmcache
    from _vllm import children as vllm_children
    from _vllm import processes as vllm_processes
    from _vllm import setup as vllm_setup

CASES = (
    "answers",
    "latent-attention",
    "disk",
    "file-store",
    "lm-server",
    "multiprocess",
    "two-ranks",
    "two-ranks-latent-attention",
    "preemption",
    "multi-connector",
    "contiguous-attention",
    "short-pool",
)
#: Cases that take too long for every image: they run if they are named.
SLOW_CASES = ("dead-server",)
_CASE_SECONDS = 300.0
_MP_CONNECTOR = ("distributed", "kv_transfer", "kv_connector", "v1", "lmcache_mp_connector.py")
#: vLLM's connector, from 0.22 on, hands over to this one if LMCache has it.
_LMCACHES_OWN = b"lmcache.integration.vllm.lmcache_mp_connector"


class Level:
    """The common part of the cases."""

    def __init__(self, probe: _probe.Probe) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--habana-packages", default="")
        parser.add_argument("--model")
        parser.add_argument("--cases", default=",".join(CASES))
        parser.add_argument("--case-seconds", type=float, default=_CASE_SECONDS)
        options, _ = parser.parse_known_args()
        self.probe, self.model, self.seconds = probe, options.model, options.case_seconds
        self.habana_packages = options.habana_packages
        self.cases = [name.strip() for name in options.cases.split(",") if name.strip()]
        if unknown := sorted(set(self.cases) - {*CASES, *SLOW_CASES}):
            raise ValueError(f"no such case: {', '.join(unknown)}; there are {', '.join((*CASES, *SLOW_CASES))}")

    def run(self, name: str, *extra: str, case: str = "", folder: str = "") -> bool:
        """Run one case in its process; return whether it passed."""
        script = str(Path(__file__).with_name("inference_case.py"))
        command = [script, "--case", case or name, "--shared", str(self.probe.scratch), *extra]
        if self.model:
            command += ["--model", self.model]
        engine = vllm_setup.engine_options()
        command += ["--block-size", str(engine.block_size), "--kv-cache-dtype", engine.kv_cache_dtype]
        command += [] if engine.prefix_caching else ["--no-prefix-caching"]
        with vllm_processes.socket_folder() as sockets:
            environ = vllm_processes.environment(sockets, self.habana_packages)
            return vllm_processes.run_case(
                self.probe, name, command, environ, self.probe.scratch / (folder or name), self.seconds
            )

    def server_environment(self, sockets: Path) -> dict[str, str]:
        """Return a server's environment, the same as a case's."""
        return vllm_processes.environment(sockets, self.habana_packages)

    def file_store(self) -> None:
        """Check LMCache's file store: one engine fills it and ends, another is served from it."""
        store = self.probe.scratch / "file-store-content"
        store.mkdir()
        self._outlives("file-store", f"fs://localhost:0{store}/")

    def lm_server(self) -> None:
        """Check LMCache's own server, which outlives the engine that filled it."""
        port = vllm_processes.free_port()
        folder = self.probe.scratch / "lm-server-process"
        command = ["-m", "lmcache.v1.server", "127.0.0.1", str(port)]
        with vllm_processes.socket_folder() as sockets, self.probe.section("lm-server"):
            environ = self.server_environment(sockets)
            with vllm_processes.server(command, environ, folder, port, self.seconds):
                self._outlives("lm-server", f"lm://127.0.0.1:{port}")

    def _outlives(self, name: str, storage: str) -> None:
        stored = self.run(name, "--storage", storage, "--phase", "store", case="outlives", folder=f"{name}-stores")
        if stored and name not in self.probe.not_checked:
            self.run(name, "--storage", storage, "--phase", "load", case="outlives", folder=f"{name}-loads")

    def short_pool(self) -> None:
        """Check host memory smaller than the longest request: refused, served at the advised size, and a control."""
        if self._phase("short-pool", "refused"):
            self._phase("short-pool", "served")
            self._phase("short-pool", "control")

    def contiguous_attention(self) -> None:
        """An engine that reads other blocks: refused, or right; and not refused without LMCache's rule for it."""
        if self._phase("contiguous-attention", "refused"):
            self._phase("contiguous-attention", "control")

    def _phase(self, name: str, phase: str) -> bool:
        return self.run(name, "--phase", phase, folder=f"{name}-{phase}")

    def multiprocess(self) -> None:
        """Check LMCache's multiprocess mode, for the pairs that have it."""

        def phases(below: Path) -> None:
            if self._over(below, "multiprocess", "store") and "multiprocess" not in self.probe.not_checked:
                # A new server has nothing in memory, so what it finds comes from the directory below it.
                self._over(below, "multiprocess", "load")

        self._with_multiprocess("multiprocess", phases)

    def dead_server(self) -> None:
        """Check a server that dies between a lookup and its load."""
        self._with_multiprocess("dead-server", lambda below: self._over(below, "dead-server", "store"))

    def _with_multiprocess(self, name: str, phases: Callable[[Path], object]) -> None:
        if reason := _no_multiprocess():
            vllm_processes.not_checked(self.probe, name, reason)
            return
        below = (self.probe.scratch / f"{name}-content").resolve()  # the server has its own directory
        below.mkdir()
        try:
            phases(below)
        except _probe.Skip as skip:  # only the server needs it: the other cases continue
            vllm_processes.not_checked(self.probe, name, str(skip))

    def _over(self, below: Path, name: str, phase: str) -> bool:
        """Run a case with a multiprocess server over the directory ``below``, started as in `recipe multiprocess`."""
        port = vllm_processes.free_port()
        evicts = {"max_capacity_gb": 0.5, "eviction": {"eviction_policy": "LRU"}}
        adapter = {"type": "fs_native", "base_path": str(below), "relative_tmp_dir": "tmp", **evicts}
        command = [
            *("-m", "lmcache.v1.multiprocess.server", "--host", "127.0.0.1", "--port", str(port)),
            *("--chunk-size", str(vllm_setup.chunk_size()), "--l1-size-gb", "0.25", "--eviction-policy", "LRU"),
            *("--no-l1-use-lazy", "--shm-name", f"gaudi-patch-{port}", "--supported-transfer-mode", "auto"),
            *("--prometheus-port", str(vllm_processes.free_port()), "--l2-adapter", json.dumps(adapter)),
        ]
        folder = self.probe.scratch / f"{name}-server-{phase}"
        with _shared_memory(port), vllm_processes.socket_folder() as sockets, self.probe.section(name):
            environ = self.server_environment(sockets)
            with vllm_processes.server(command, environ, folder, port, self.seconds) as server:
                options = ("--port", str(port), "--phase", phase, "--storage", str(below), "--server", str(server))
                return self.run(name, *options, folder=f"{name}-{phase}")
        return False


@contextlib.contextmanager
def _shared_memory(port: int) -> Iterator[None]:
    """Remove the shared memory that a server leaves behind when ended by a signal."""
    try:
        yield
    finally:
        Path("/dev/shm", f"lmcache_l1_pool_gaudi-patch-{port}").unlink(missing_ok=True)  # noqa: S108 - LMCache's name


def _no_multiprocess() -> str:
    if not kv_lmcache.serves_multiprocess():
        return "this release's server is for CUDA only"
    if kv_lmcache.release() < (0, 5, 5):
        return "LMCache before 0.5.5 refuses vllm-gaudi's layout there"
    version = importlib.metadata.version(_vllm_distribution())
    if tuple(int(part) for part in version.split(".")[:2]) < (0, 14):
        return "this vLLM has no LMCacheMPConnector"
    # Found and read, not imported: only the processes of the cases import vLLM. It may be an editable installation.
    found = importlib.util.find_spec("vllm")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder, *_MP_CONNECTOR)
        if file.is_file() and _LMCACHES_OWN not in file.read_bytes():
            return f"vLLM {version} has an LMCacheMPConnector of its own, made for older releases of LMCache"
    return ""


def _vllm_distribution() -> str:
    names = importlib.metadata.packages_distributions().get("vllm", ["vllm"])
    return names[0]


def body(probe: _probe.Probe) -> None:
    """Run the cases; after a failure on an unpatched LMCache, none of the others."""
    level = Level(probe)
    vllm_children.adopt_orphans()
    steps = {
        "file-store": level.file_store,
        "lm-server": level.lm_server,
        "multiprocess": level.multiprocess,
        "dead-server": level.dead_server,
        "short-pool": level.short_pool,
        "contiguous-attention": level.contiguous_attention,
    }
    for name in level.cases:
        if name in steps:
            steps[name]()
        elif not (level.model and "latent-attention" in name):
            level.run(name)
        if probe.failures and not _environment.is_patched():
            probe.summary.append("the other cases were not run")
            break
    vllm_processes.require_one(probe, level.cases)


if __name__ == "__main__":
    _probe.main("inference", body)

"""Where a case's engine runs: the platform, its sizes, and what vLLM and LMCache read from the environment."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
else:  # run by path, beside this file
    import _probe
    from _kv import lmcache as kv_lmcache

PLUGIN_FOLDER = Path(__file__).resolve().parents[2] / "vllm_plugin"
PLUGIN = "gaudi_smoke_hpu"
BLOCK = 32
# For processes that share a cache. LMCache's default, Python's hash(), is in general not the same in two processes
# before Python 3.12, whatever PYTHONHASHSEED says: a key contains None, whose hash is its address (processes_agree).
SHARED_KEYS: dict[str, object] = {"pre_caching_hash_algorithm": "sha256_cbor"}
_ENTRY_POINTS = f"""[vllm.platform_plugins]
{PLUGIN} = {PLUGIN}:register
[vllm.general_plugins]
{PLUGIN} = {PLUGIN}:register_models
"""
_METADATA = f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 0\n"


def stored_keys() -> dict[str, object]:
    """Settings under which two processes find one another's chunks in a store.

    Raises Skip where there are none: vLLM's sha256_cbor gives bytes from 0.11 on, and LMCache before 0.3.13 writes
    keys as numbers.
    """
    if kv_lmcache.release() >= (0, 3, 13):
        return SHARED_KEYS
    if processes_agree():
        return {"pre_caching_hash_algorithm": "builtin"}
    raise _probe.Skip(
        "LMCache before 0.3.13 has keys that processes of this Python do not share (measured; before Python 3.12 they "
        "contain an address)"
    )


def processes_agree() -> bool:
    """Return whether processes of this interpreter, on this host, compute the same hash(None).

    Its address in general before Python 3.12, and a fixed one where Python is no position-independent executable.
    """
    command = [sys.executable, "-S", "-c", "print(hash(None))"]
    found = {subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for _ in range(4)}
    return len(found) == 1


def uses_vllm_gaudi() -> bool:
    """Return whether the engine runs on the real platform: where it is installed, unless the plugin has been chosen."""
    return os.environ.get("VLLM_PLUGINS") != PLUGIN and importlib.util.find_spec("vllm_gaudi") is not None


def block_size() -> int:
    """Tokens in a block: vllm-gaudi's kernels want 128."""
    return 128 if uses_vllm_gaudi() else BLOCK


def chunk_size() -> int:
    """Tokens in one of LMCache's chunks: two blocks."""
    return 2 * block_size()


def shared_folder(scratch: Path) -> Path:
    """Return what the cases of a level share: the level says where it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=scratch)
    found: Path = parser.parse_known_args()[0].shared
    return found


def tiny_checkpoint(scratch: Path, *, mla: bool) -> Path:
    """Return the tiny checkpoint; at one path for all cases, since the path is the model's name and part of
    LMCache's keys.
    """
    folder: Path = _probe.load("gaudi_smoke_hpu.tiny").write(
        shared_folder(scratch) / ("tiny-mla" if mla else "tiny-llama"), mla=mla
    )
    return folder


def max_model_len() -> int:
    """Return the longest request, in tokens."""
    return 1024 if block_size() == BLOCK else 2048


def prepare_environment(scratch: Path, settings: dict[str, object], *, own_platform: bool) -> None:
    """Set what vLLM and LMCache read from the environment when they are imported; children inherit it.

    settings: LMCache's configuration. own_platform: use the plugin even where vllm-gaudi is installed.
    """
    paths = [str(PLUGIN_FOLDER)]
    if own_platform or not uses_vllm_gaudi():
        info = scratch / "entry_points" / f"{PLUGIN}-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(_METADATA, encoding="utf-8")
        (info / "entry_points.txt").write_text(_ENTRY_POINTS, encoding="utf-8")
        paths.append(str(info.parent))
        os.environ["VLLM_PLUGINS"] = PLUGIN
    else:
        # Online defragmentation moves blocks under LMCache, and contiguous paged attention turns prefix caching off.
        os.environ.setdefault("VLLM_CONTIGUOUS_PA", "false")
        os.environ.setdefault("VLLM_DEFRAG", "false")
        if "HPU_EMULATOR_DEVICE" in os.environ:
            # vllm-gaudi pads indices with -1, which a Gaudi takes and the emulated device refuses everywhere else.
            os.environ.setdefault("HPU_EMULATOR_TOLERANT_INDEX", "1")
            # It copies sampled tokens without blocking into memory that is not pinned, and waits for an event.
            os.environ.setdefault("HPU_EMULATOR_BOUNCES", "waited")
            # For what it does on a CPU in place of the device: one_hot of a padding token, for one.
            os.environ.setdefault("VLLM_USE_FAKE_HPU", "1")
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update(
        VLLM_CACHE_ROOT=str(shared_folder(scratch) / "vllm-cache"),
        VLLM_CONFIG_ROOT=str(scratch / "vllm-config"),
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_USE_V1="1",
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
        VLLM_NO_USAGE_STATS="1",
        VLLM_HOST_IP="127.0.0.1",
        DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"),
        GLOO_SOCKET_IFNAME=os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        LMCACHE_TRACK_USAGE="false",
        VLLM_SKIP_WARMUP="true",
    )
    defaults = {"chunk_size": chunk_size(), "local_cpu": True, "max_local_cpu_size": 0.25}
    for name, value in {**defaults, **settings}.items():
        os.environ[f"LMCACHE_{name.upper()}"] = str(value)

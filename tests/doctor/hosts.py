"""A simulated Gaudi host: files, environment, tools on PATH, and a target environment whose modules are doubles.

Everything goes through the doctor's one seam, ``Host``, and through real processes of a real interpreter. Only the
modules that these processes import are stand-ins: torch, habana_frameworks, pyhlml and LMCache's configuration. Each
does no more than the doctor needs.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gaudi_patch.commands.doctor import rendered
from gaudi_patch.doctor.examine import examine
from gaudi_patch.doctor.host import Host
from gaudi_patch.output.report import Result
from gaudi_patch.series import manifest as manifests
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target.search import Target
from tests.support import tiny
from tests.support.tiny import Tiny

CARDS = [f"0000:{bus:02x}:00.0" for bus in range(0x10, 0x18)]

PACKAGES = {
    "torch": "2.11.0+hpu.1.24.1.350.gitabcdef0",
    "habana_torch_plugin": "1.24.1.350",
    "habana_pyhlml": "1.24.1.350",
    "vllm": "0.26.0+empty",
    "vllm_gaudi": "0.26.0",
    "transformers": "5.9.0",
    "numpy": "2.2.6",
}

ENTRY_POINTS = """\
    [vllm.general_plugins]
    01.hpu_custom_utils = vllm_gaudi:register_utils
    02.hpu_custom_ops = vllm_gaudi:register_ops

    [vllm.platform_plugins]
    hpu = vllm_gaudi:register
    """

HPU = """\
    import torch, types
    torch.hpu = types.SimpleNamespace(is_available=lambda: True, device_count=lambda: 8)
    """

#: LMCache's configuration in short: defaults, a file, LMCACHE_* variables, warnings, a validation.
CONFIG = """\
    import json, logging, os

    logger = logging.getLogger("lmcache.v1.config")
    logger.propagate = False
    _CONFIG_ALIASES = {"nixl_role": "pd_role", "external_backends": "storage_plugins"}
    _DEPRECATED_CONFIGS = {"external_backends": "external_backends is deprecated, use storage_plugins instead"}
    DEFAULTS = {
        "chunk_size": 256, "local_cpu": True, "max_local_cpu_size": 5.0, "local_disk": None, "max_local_disk_size": 0.0,
        "remote_url": None, "remote_serde": "naive", "use_layerwise": False, "enable_blending": False,
        "enable_p2p": False, "enable_pd": False, "pd_role": None, "pd_buffer_device": None, "nixl_buffer_device": None,
        "gds_path": None, "weka_path": None, "save_unfull_chunk": False, "enable_lazy_memory_allocator": False,
        "extra_config": None, "pre_caching_hash_algorithm": "builtin", "storage_plugins": None,
        "enable_scheduler_bypass_lookup": False, "blocking_timeout_secs": 10, "remote_storage_plugins": None,
        "internal_api_server_enabled": False, "internal_api_server_host": "127.0.0.1", "pd_peer_host": None,
        "internal_api_server_port_start": 6999, "internal_api_server_include_index_list": None,
        "internal_api_server_socket_path_prefix": None, "pd_peer_init_port": None, "pd_peer_query_port": None,
        "enable_controller": False, "lmcache_worker_ports": None,
    }

    class LMCacheEngineConfig:
        def __init__(self):
            vars(self).update(DEFAULTS)

        def put(self, key, value, source):
            if key in _DEPRECATED_CONFIGS:
                logger.warning("%s (source: %s)", _DEPRECATED_CONFIGS[key], source)
            elif key not in DEFAULTS:
                logger.warning("Unknown configuration key: %s (source: %s)", key, source)
            elif isinstance(DEFAULTS[key], (int, float)) and not isinstance(value, (int, float)):
                logger.warning(f"Failed to convert value for {key}={value!r}: invalid literal")
                setattr(self, key, None)
            else:
                setattr(self, key, value)

        @classmethod
        def from_env(cls):
            self = cls()
            self.update_config_from_env()
            return self

        @classmethod
        def from_file(cls, path):
            self = cls()
            with open(path) as file:
                for key, value in json.load(file).items():
                    self.put(key, value, f"file: {path}")
            return self

        def update_config_from_env(self):
            for key in DEFAULTS:
                if f"LMCACHE_{key.upper()}" in os.environ:
                    self.put(key, json.loads(os.environ[f"LMCACHE_{key.upper()}"]), "environment variables")

        def validate(self):
            if self.enable_blending:
                logger.warning("Automatically setting save_unfull_chunk=True because enable_blending=True")
            if self.enable_pd:
                assert self.pd_buffer_device is not None
    """


@dataclass
class Gaudi:
    """A host, its target environment, LMCache's configuration and vLLM's command line; a test may break any of them."""

    folder: Path
    manifest: Manifest
    environ: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    kv: dict[str, Any] = field(default_factory=dict)
    options: str = ""
    ranks: int = 8

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def prefix(self) -> Path:
        return self.folder / "venv"

    @property
    def site(self) -> Path:
        return self.prefix / "lib/python{}.{}/site-packages".format(*sys.version_info[:2])

    @property
    def python(self) -> Path:
        return self.prefix / "bin/python"

    @property
    def target(self) -> Tiny:
        return Tiny(self.site, self.manifest)

    def file(self, path: str, text: str) -> None:
        """Write a file of the host."""
        _write(self.root / path.lstrip("/"), text)

    def remove(self, path: str) -> None:
        """Remove a file or directory of the host."""
        _remove(self.root / path.lstrip("/"))

    def module(self, path: str, text: str) -> None:
        """Write a module of the target."""
        _write(self.site / path, textwrap.dedent(text))

    def tool(self, name: str, script: str) -> None:
        """Put a program on PATH."""
        _write(self.folder / "bin" / name, f"#!/bin/sh\n{script}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def hl_smi(self, count: int) -> None:
        """Put an hl-smi on PATH that lists ``count`` cards."""
        rows = "".join(f"{number}, {number}, HL-325L, 1.24.1-350\\n" for number in range(count))
        self.tool(
            "hl-smi", f"test \"$*\" = '-Q index,module_id,name,driver_version -f csv,noheader' && printf '{rows}'"
        )

    def package(self, name: str, version: str | None, requires: str = "") -> None:
        """Install this version of a distribution (metadata only), or remove the distribution if ``version`` is None."""
        for old in self.site.glob(f"{name}-*.dist-info"):
            shutil.rmtree(old)
        if version is not None:
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
            _write(self.site / f"{name}-{version}.dist-info/METADATA", text)

    def run(self, *, arguments: bool = True) -> Result:
        """Return the doctor's result for this host."""
        config = self.folder / "lmcache.yaml"
        config.write_text(json.dumps(self.config))
        line = None
        if arguments:
            kv = ["--kv-transfer-config", json.dumps(self.kv)] if self.kv else []
            words = ["vllm", "serve", "a-model", "-tp", str(self.ranks), "--no-enable-prefix-caching", *kv]
            line = f"{shlex.join(words)} {self.options}"
        host = Host(self.root, {**self.environ, "PATH": str(self.folder / "bin")}, sample=1024 * 1024)
        return rendered(examine(self.manifest, Target(python=self.python), config=config, vllm_args=line, host=host))


def findings(result: Result) -> dict[str, Mapping[str, str]]:
    """Return the findings by identifier."""
    return {one["id"]: one for one in result.data["findings"]}


def not_ok(result: Result) -> dict[str, str]:
    """Return the level of every finding that is not ok."""
    return {one["id"]: one["level"] for one in result.data["findings"] if one["level"] != "ok"}


def build(folder: Path) -> None:
    """Lay out a healthy host in ``folder``."""
    gaudi = Gaudi(folder, _manifest(folder))
    _environment(gaudi)
    for number, address in enumerate(CARDS):
        gaudi.file(f"/sys/bus/pci/devices/{address}/vendor", "0x1da3\n")
        gaudi.file(f"/dev/accel/accel{number}", "")
        gaudi.file(f"/dev/accel/accel_controlD{number}", "")
    gaudi.file("/sys/bus/pci/devices/0000:00:00.0/vendor", "0x8086\n")
    gaudi.file("/sys/module/habanalabs/version", "1.24.1-350\n")
    gaudi.file("/proc/meminfo", "MemTotal:       1056000000 kB\nMemFree: 1 kB\n")
    gaudi.file("/sys/fs/cgroup/memory.max", "max\n")
    gaudi.file(
        "/var/lib/dpkg/status",
        "Package: habanalabs-graph\nStatus: install ok installed\nVersion: 1.24.1-350\n\nPackage: zlib\nVersion: 1\n",
    )
    (gaudi.root / "cache").mkdir()
    gaudi.hl_smi(len(CARDS))


def _manifest(folder: Path) -> Manifest:
    pristine = {**tiny.PRISTINE, "lmcache/v1/config.py": textwrap.dedent(CONFIG).encode()}
    made = tiny.make(folder / "tiny", pristine)
    return made.manifest._replace(pairs=manifests.load().pairs)


def _environment(gaudi: Gaudi) -> None:
    """Create a virtual environment with the packages of a Gaudi image, and LMCache with the series applied."""
    gaudi.python.parent.mkdir(parents=True)
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    gaudi.python.symlink_to(base)
    _write(gaudi.prefix / "pyvenv.cfg", f"home = {base.parent}\ninclude-system-site-packages = false\n")
    gaudi.site.parent.mkdir(parents=True)
    (gaudi.folder / "tiny/site").rename(gaudi.site)
    gaudi.target.apply()
    for name, version in PACKAGES.items():
        gaudi.package(name, version)
    gaudi.package("vllm_gaudi", "0.26.0", "Requires-Dist: transformers<6,>=5.4\n")
    gaudi.module("vllm_gaudi-0.26.0.dist-info/entry_points.txt", ENTRY_POINTS)
    (gaudi.site / "yaml").symlink_to(Path(yaml.__file__).parent)  # vLLM brings it
    gaudi.module("torch/__init__.py", "__version__ = '2.11.0'\n")
    gaudi.module("torch/version.py", "cuda: Optional[str] = None\n")
    gaudi.module("habana_frameworks/__init__.py", "")
    gaudi.module("habana_frameworks/torch/__init__.py", HPU)
    gaudi.module("pyhlml.py", "hlmlInit = hlmlShutdown = lambda: None\nhlmlDeviceGetCount = lambda: 8\n")


def healthy(template: Path, folder: Path, server: socket.socket) -> Gaudi:
    """Return a faultless copy of the template that serves over disk and a remote store on eight cards."""
    shutil.copytree(template, folder, symlinks=True)
    manifest = manifests.load(folder / "tiny/patches")._replace(pairs=manifests.load().pairs)
    return Gaudi(
        folder,
        manifest,
        environ={"PT_HPU_LAZY_MODE": "0", "HABANA_VISIBLE_DEVICES": "all", "PYTHONHASHSEED": "0"},
        config={
            "chunk_size": 256,
            "max_local_cpu_size": 20.0,
            "local_disk": "/cache",
            "max_local_disk_size": 0.01,
            "remote_url": f"lm://127.0.0.1:{server.getsockname()[1]}",
            "pre_caching_hash_algorithm": "sha256_cbor",
        },
        kv={"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

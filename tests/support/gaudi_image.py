"""A stand-in for a Gaudi image in a build: Intel's plugin is installed, without a card or driver.

It shares these parts with the real image: the plugin's structure in both forms (a namespace package, and a package
whose ``__init__`` holds the entry point), the entry point by which ``import torch`` calls it, its metadata with the
vendor's version, and a PyTorch whose metadata has a vendor's version. The plugin's code is a stand-in: like the real
one, it registers ``torch.hpu`` when its ``torch`` package is imported, and reports that there is no device.

``broken`` makes the plugin fail as real ones do: ``import`` (a library is missing), ``segfault`` (during its import),
``busy`` (there is a card, but another process uses it).
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.support import environments
from tests.support.environments import Environment

PLUGIN_VERSION = "1.24.0.17"
TORCH_VERSION = "2.9.0a0+gitb2fb688"
FORMS = ("namespace", "package", "nspkg")
#: Printed by any import of the stand-in's own torch package, which must not be mixed with the emulated device.
MARK = "GAUDI_IMAGE_PLUGIN_IMPORTED"

_AUTOLOAD = '''
"""Called by `import torch`."""
import os


def __autoload():
    lazy = os.environ.get("PT_HPU_LAZY_MODE", "1") != "0"
    wanted = os.environ.get("PT_HPU_AUTOLOAD")
    if wanted == "1" or (wanted is None and not lazy):
        import habana_frameworks.torch  # noqa: F401


start = __autoload
'''
_TORCH = f"""
import os
os.environ["{MARK}"] = "1"
import torch
import habana_frameworks.torch.core
import habana_frameworks.torch.hpu
"""
_CORE = """
import torch
from habana_frameworks.torch import hpu
torch._register_device_module("hpu", hpu)
def mark_step(*arguments, **options):
    return None
"""
_HPU = """
def is_available():
    return False
def device_count():
    return 0
def current_device():
    raise RuntimeError("synStatus=19 [No device found] Device acquire failed.")
def synchronize():
    raise RuntimeError("synStatus=19 [No device found] Device acquire failed.")
"""
_BUSY = """
def is_available():
    return True
def device_count():
    raise RuntimeError("synStatus=26 [Generic failure] Device acquire failed. No devices found: device is busy")
"""
_INTERNAL = """
import os
def is_lazy():
    return os.environ.get("PT_HPU_LAZY_MODE", "1") != "0"
"""
_BROKEN = {
    "import": 'raise ImportError("libSynapse.so: cannot open shared object file: No such file or directory")\n',
    "segfault": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
}


def install_plugin(site_packages: Path, form: str = "namespace", broken: str = "") -> None:
    """Install the stand-in plugin into ``site_packages``; ``form`` is one of FORMS.

    ``nspkg`` is the namespace with the .pth file of an old setuptools, which puts the namespace into ``sys.modules``
    when the interpreter starts.
    """
    package = site_packages / "habana_frameworks"
    files = {
        "autoload/__init__.py": _AUTOLOAD,
        "mediapipe/__init__.py": "",
        "torch/__init__.py": _BROKEN.get(broken, "") + _TORCH,
        "torch/core/__init__.py": _CORE,
        "torch/hpu/__init__.py": _BUSY if broken == "busy" else _HPU,
        "torch/utils/__init__.py": "",
        "torch/utils/internal.py": _INTERNAL,
    }
    entry = "habana_frameworks.autoload:__autoload"
    if form == "package":
        files["__init__.py"] = "from habana_frameworks.autoload import start as __autoload\n"
        entry = "habana_frameworks:__autoload"
    for name, text in files.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip("\n"))
    if form == "nspkg":
        (site_packages / "habana_frameworks-nspkg.pth").write_text(
            "import sys, types, importlib.machinery as m, importlib.util as u; "
            f"s = m.PathFinder.find_spec('habana_frameworks', [{str(site_packages)!r}]); "
            "sys.modules.setdefault('habana_frameworks', u.module_from_spec(s))\n"
        )
    info = site_packages / f"habana_torch_plugin-{PLUGIN_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: habana_torch_plugin\nVersion: {PLUGIN_VERSION}\n")
    (info / "entry_points.txt").write_text(f"[torch.backends]\ndevice_backend = {entry}\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("")


def give_torch_a_vendor_version(site_packages: Path) -> None:
    """Put metadata of a vendor's PyTorch before that of the original one."""
    info = site_packages / f"torch-{TORCH_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH_VERSION}\n")
    (info / "RECORD").write_text("")


@dataclass(frozen=True)
class GaudiImage:
    """An environment like that of a Gaudi image, with LMCache in it."""

    environment: Environment
    form: str

    @property
    def python(self) -> Path:
        return self.environment.python


def make(version: str, directory: Path, *, form: str = "namespace", broken: str = "") -> GaudiImage:
    """Return a private copy of an LMCache release's environment, as in a Gaudi image."""
    environment = environments.overlay_copy(version, directory)
    install_plugin(environment.site_packages, form, broken)
    give_torch_a_vendor_version(environment.site_packages)
    return GaudiImage(environment, form)


def script(text: str, file: Path) -> Path:
    """Write a program for the image's interpreter."""
    file.write_text(textwrap.dedent(text))
    return file

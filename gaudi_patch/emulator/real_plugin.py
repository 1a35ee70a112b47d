"""Keep an installed real habana_frameworks out of an emulated process and its children.

The real plugin is a namespace package. PyTorch imports it through an entry point at the end of ``import torch``,
unless ``TORCH_DEVICE_BACKEND_AUTOLOAD`` is 0. With a card present, activation is refused: use the real plugin.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from types import ModuleType

from .options import EmulatorError

PACKAGES = Path(__file__).resolve().parent / "packages"
AUTOLOAD_VARIABLE = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_NAME = "habana_frameworks"


def export(environ: MutableMapping[str, str]) -> None:
    """Set ``environ`` for an emulated process: no autoload of plugins, and the emulated package first on the path.

    Every child inherits both, however it is started; vLLM's model inspection, for example, is a separate process.
    """
    environ[AUTOLOAD_VARIABLE] = "0"
    others = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(PACKAGES)]
    environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGES), *others])


def refuse() -> None:
    """Refuse to replace a real plugin that is, or could be, in use in this process.

    :raises EmulatorError: if it is imported, or if it is installed and a device is present.
    """
    loaded = sys.modules.get(_NAME)
    if loaded is not None and not _is_emulated(loaded) and (not _is_bare(loaded) or f"{_NAME}.torch" in sys.modules):
        message = (
            "the real habana_frameworks is already imported in this process (PyTorch imports it by itself if it was "
            f"imported first); start the process with {AUTOLOAD_VARIABLE}=0, or by `python -m gaudi_patch.emulator`"
        )
        raise EmulatorError(message)
    if not _is_installed():
        return
    nodes = [*Path("/dev/accel").glob("accel[0-9]*"), *Path("/dev").glob("hl[0-9]*")]
    if nodes:
        message = f"habana_frameworks is installed and a device is present ({nodes[0]}); use the real one"
        raise EmulatorError(message)


def put_in_front() -> None:
    """Make ``import habana_frameworks`` find the emulated package, here and in child processes.

    :raises EmulatorError: if the import still finds another package of that name.
    """
    export(os.environ)
    if str(PACKAGES) in sys.path:
        sys.path.remove(str(PACKAGES))
    sys.path.insert(0, str(PACKAGES))
    _drop_namespace()
    importlib.invalidate_caches()
    confirm()


def take_back() -> None:
    """Undo :func:`put_in_front` after a failure: the emulated package is no longer importable."""
    sys.path[:] = [entry for entry in sys.path if entry != str(PACKAGES)]
    kept = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry != str(PACKAGES)]
    if any(kept):
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)


def confirm() -> None:
    """Check that ``import habana_frameworks`` gives the emulated package.

    :raises EmulatorError: if it does not.
    """
    module = importlib.import_module(_NAME)
    if not _is_emulated(module):
        places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None) or ""]
        message = (
            f"`import {_NAME}` gives {places[0] or 'an unknown place'}, which is not the emulated package, although "
            f"{PACKAGES} is first on sys.path; nothing was run on it"
        )
        raise EmulatorError(message)


def _is_emulated(module: ModuleType) -> bool:
    return bool(getattr(module, "IS_EMULATED", False))


def _is_bare(module: ModuleType) -> bool:
    """Return whether ``module`` is a namespace package: directories without code of its own."""
    return getattr(module, "__file__", None) is None


def _is_installed() -> bool:
    """Return whether a habana_frameworks other than the emulated one is importable."""
    loaded = sys.modules.get(_NAME)
    if loaded is not None:
        return not _is_emulated(loaded)
    try:
        spec = importlib.util.find_spec(_NAME)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    return not any(PACKAGES in Path(place).resolve().parents for place in places)


def _drop_namespace() -> None:
    # PyTorch or a .pth file may have put the real plugin's namespace into sys.modules.
    loaded = sys.modules.get(_NAME)
    if loaded is None or _is_emulated(loaded):
        return
    for name in [name for name in sys.modules if name == _NAME or name.startswith(f"{_NAME}.")]:
        del sys.modules[name]

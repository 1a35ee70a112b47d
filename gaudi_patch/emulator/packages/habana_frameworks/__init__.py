# mypy: ignore-errors
"""The emulated stand-in for Habana's ``habana_frameworks``; see the emulator's README.md.

Importing it activates the emulated device if needed. So a child process that inherits ``sys.path``
(``multiprocessing`` with spawn) or ``Emulator.environment()`` gets the same device.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

IS_EMULATED = True


def _emulator() -> ModuleType:
    if "hpu_emulator" in sys.modules:
        return sys.modules["hpu_emulator"]
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "hpu_emulator", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        message = f"the emulator is not at {root}"
        raise ImportError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hpu_emulator"] = module
    spec.loader.exec_module(module)
    return module


if _emulator().active() is None:
    _emulator().activate(autoload=False)

"""An emulated HPU: a real ``hpu`` device for stock PyTorch, stricter than the hardware.

Importing this module is cheap; :func:`activate` imports torch and compiles the device on first use. The package is
self-contained: it runs by path in an environment with PyTorch but without this project. See README.md.
"""

import sys

# However this package was loaded, scripts reach its only instance as ``hpu_emulator``.
sys.modules[__name__] = sys.modules.setdefault("hpu_emulator", sys.modules[__name__])

from .device import Counters, Emulator, activate, active, current  # noqa: E402 - after the line above
from .options import EmulatorError, Options  # noqa: E402 - after the line above

__all__ = ["Counters", "Emulator", "EmulatorError", "Options", "activate", "active", "current"]

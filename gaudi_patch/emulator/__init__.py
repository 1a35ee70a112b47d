"""An emulated HPU: a real ``hpu`` device for stock PyTorch, stricter than the hardware.

Importing this module is cheap; :func:`activate` imports torch and compiles the device on first use. The package stands
alone: it runs by path in an environment that has PyTorch and nothing else of this project. See README.md here.
"""

import sys

# Scripts reach the running device as ``hpu_emulator``, whichever way this package was loaded, and there is one only.
sys.modules[__name__] = sys.modules.setdefault("hpu_emulator", sys.modules[__name__])

from .device import Counters, Emulator, activate, active, current  # noqa: E402 - after the line above
from .options import EmulatorError, Options  # noqa: E402 - after the line above

__all__ = ["Counters", "Emulator", "EmulatorError", "Options", "activate", "active", "current"]

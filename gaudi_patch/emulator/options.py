"""Options of the emulated device, set in code or in the environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any

ENVIRONMENT_PREFIX = "HPU_EMULATOR_"
LAZY_VARIABLE = "PT_HPU_LAZY_MODE"
SFG_VARIABLE = "PT_HPU_ENABLE_SFG"
#: Names the emulated host, whose cards a process and its children share; set by the first process.
HOST_VARIABLE = "HPU_EMULATOR_HOST"
#: Names a compiled device to use instead of building one.
DEVICE_VARIABLE = "HPU_EMULATOR_DEVICE"
# Read elsewhere: the cache in build.py, the prebuilt device in prebuilt.py, the device's memory size in
# habana_frameworks/torch/hpu/memory.py.
_OTHER_VARIABLES = {"HPU_EMULATOR_CACHE", DEVICE_VARIABLE, "HPU_EMULATOR_MEMORY_BYTES", HOST_VARIABLE}

_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": ("lazy", "reversed", "sync"),
    "strict": ("off", "count", "raise"),
    "noncontiguous_d2h": ("copy", "raise", "bridge"),
    "bounces": ("late", "waited"),
}
#: Options that follow the bridge's variable unless set: the variable and its default.
_FOLLOWING = {"lazy": (LAZY_VARIABLE, "1"), "sfg": (SFG_VARIABLE, "0")}
_NUMBERS = {"cards": 1, "pinned_bytes": 0}  # and their minimum values


class EmulatorError(RuntimeError):
    """The emulated device cannot be built, loaded or activated; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the emulated device.

    Each can be set through the environment as ``HPU_EMULATOR_<NAME>``, which child processes inherit.
    """

    lazy: bool | None = None
    """Lazy mode (operators gather in a graph until it is cut) or eager mode (each is a launch of its own).
    None: use PT_HPU_LAZY_MODE, whose default in the bridge is 1."""

    schedule: str = "lazy"
    """``lazy``: nothing runs before something waits for it. ``reversed``: the same, but a device-wide wait
    runs the streams in reverse order. ``sync``: everything runs when it is launched."""

    poison: bool = True
    """Fill fresh and freed device memory, and the host buffer of an unfinished copy, with 0xDB."""

    strict: str = "count"
    """For operators without a kernel on the device: ``off`` runs them; ``count`` counts them as CPU fallbacks and
    waits, as a fallback does; ``raise`` raises NotImplementedError."""

    noncontiguous_d2h: str = "copy"
    """For copies to the host that bridge 1.19 loses (lazy: the host tensor is not contiguous) or misplaces (eager: the
    source is not contiguous and the host tensor has a storage offset). ``copy`` copies correctly, ``raise`` refuses,
    ``bridge`` does what the bridge does."""

    int64_as_int32: bool = False
    """Store int64 as int32 on the device: copies of out-of-range values raise, results wrap around."""

    tolerant_index: bool = False
    """Clamp out-of-range indices in index_select and wrap them in index_copy, for vLLM runners that pad with -1.
    If off, they are device errors, raised by the next wait."""

    signature_offsets: bool = True
    """Count the storage offsets of views as part of a graph's signature, as lazy mode does."""

    eager_stream_join: bool = False
    """In eager mode, make a new stream wait for the default one that it replaces (HPUStream.cpp:229). Off is
    stricter than the bridge."""

    bounces: str = "late"
    """For non-blocking copies of unpinned host memory. ``late``: no event and no wait covers them, as in the
    bridge's threads. ``waited``: they run in stream order, for programs that rely on luck."""

    sfg: bool | None = None
    """Events do not cover copies to the host in lazy mode. None: use PT_HPU_ENABLE_SFG."""

    cards: int = 8
    """The number of processes that can hold a card at the same time, counting the first and its children."""

    pinned_bytes: int = 0
    """The limit of host memory that this process can pin, in bytes; 0: no limit."""

    autoload: bool = True
    """Register ``torch.hpu`` on activation. False: only when ``habana_frameworks.torch`` is imported, as on a host in
    lazy mode, where PyTorch's autoload is off."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                message = f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                raise ValueError(message)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _NUMBERS:
                if not isinstance(value, int) or isinstance(value, bool) or value < _NUMBERS[field.name]:
                    message = f"{field.name} must be a number of at least {_NUMBERS[field.name]}, not {value!r}"
                    raise ValueError(message)
            elif (
                field.name not in _CHOICES
                and not isinstance(value, bool)
                and not (field.name in _FOLLOWING and value is None)
            ):
                message = f"{field.name} must be true or false, not {value!r}"
                raise ValueError(message)

    @classmethod
    def read(cls, given: Mapping[str, Any], environ: Mapping[str, str]) -> Options:
        """Combine the options given in code, the environment and the defaults, in this order of precedence.

        ``lazy`` and ``sfg`` are never None in the result.

        :raises TypeError: for an unknown option in ``given``.
        :raises ValueError: for an invalid value of an option, or an unknown HPU_EMULATOR_ variable.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environ.items():
            name = variable[len(ENVIRONMENT_PREFIX) :].lower()
            if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _OTHER_VARIABLES:
                continue
            if name not in names:
                message = f"{variable} is not an option; options: {', '.join(sorted(names))}"
                raise ValueError(message)
            values[name] = text if name in _CHOICES else _parsed(variable, name, text)
        unknown = sorted(set(given) - names)
        if unknown:
            message = f"unknown option {', '.join(unknown)}; options: {', '.join(sorted(names))}"
            raise TypeError(message)
        values.update(given)
        for name, (variable, default) in _FOLLOWING.items():
            if values.get(name) is None:
                values[name] = environ.get(variable, default).strip().lower() not in ("0", "false", "")
        return cls(**values)

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child process these options."""
        variables = {variable: "1" if getattr(self, name) else "0" for name, (variable, _) in _FOLLOWING.items()}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in _FOLLOWING and value != field.default:
                text = value if isinstance(value, str) else str(int(value))
                variables[ENVIRONMENT_PREFIX + field.name.upper()] = text
        return variables

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Set these options in ``environ``, and remove all others."""
        wanted = self.environment()
        for field in dataclasses.fields(self):
            if field.name not in _FOLLOWING:
                environ.pop(ENVIRONMENT_PREFIX + field.name.upper(), None)
        environ.update(wanted)

    def device_settings(self) -> dict[str, int]:
        """Return the options in the form that the compiled device accepts: numbers by name."""
        settings: dict[str, int] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _CHOICES:
                settings[field.name] = _CHOICES[field.name].index(value)
            elif field.name != "autoload":
                settings[field.name] = int(value)
        return settings


def _parsed(variable: str, name: str, text: str) -> bool | int:
    if name not in _NUMBERS:
        return _boolean(variable, text)
    if not text.strip().isdecimal():
        message = f"{variable} must be a number, not {text!r}"
        raise ValueError(message)
    return int(text)


def _boolean(variable: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    message = f"{variable} must be 0 or 1, not {text!r}"
    raise ValueError(message)

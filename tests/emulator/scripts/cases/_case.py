"""A conformance case, and the comparison of two results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


class Target:
    """The device that a case runs on: the CPU for the reference, the emulated HPU for the trial."""

    def __init__(self, kind: str) -> None:
        self.type = kind
        self.is_hpu = kind == "hpu"

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of ``tensor`` on this device."""
        return tensor.to(self.type, copy=True)

    def sync(self) -> None:
        """Wait for the device; on the CPU, do nothing."""
        if self.is_hpu:
            torch.hpu.synchronize()

    def mark_step(self) -> None:
        """End the lazy graph; on the CPU, do nothing."""
        if self.is_hpu:
            import habana_frameworks.torch.core as htcore

            htcore.mark_step()


@dataclass(frozen=True)
class OnHost:
    """A result that must be on the CPU on both devices."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Target], Any]
    #: Compare strides, storage offset and flags too.
    layout: bool


CASES: dict[str, Case] = {}
CHECKS: dict[str, Callable[[], None]] = {}


def compare(function: Callable[[Target], Any]) -> Callable[[Target], Any]:
    """Register a case: it returns tensors, numbers, strings, or lists, tuples and dicts of them."""
    return _register(function, layout=True)


def compare_values(function: Callable[[Target], Any]) -> Callable[[Target], Any]:
    """Register a case like ``compare``, for an operator that may choose its output strides."""
    return _register(function, layout=False)


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register an assertion about the device that has no counterpart on the CPU."""
    assert function.__name__ not in CHECKS, function.__name__
    CHECKS[function.__name__] = function
    return function


def _register(function: Callable[[Target], Any], layout: bool) -> Callable[[Target], Any]:
    name = function.__name__
    assert name not in CASES, name
    CASES[name] = Case(name, function, layout)
    return function


def pattern(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return a CPU tensor with random bits: every integer value; for floats also NaNs, infinities and denormals."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    count = 1
    for extent in shape:
        count *= extent
    raw = torch.randint(0, 256, (count * size,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return a CPU tensor of ordinary numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def raises(
    expected: type[BaseException] | tuple[type[BaseException], ...],
    action: Callable[[], Any],
    synchronize: bool = True,
) -> str:
    """Run ``action``, which must raise ``expected`` no later than at a synchronize; return the message."""
    try:
        action()
        if synchronize:
            torch.hpu.synchronize()
    except expected as error:
        return str(error)
    raise AssertionError(f"no {expected} was raised")


def difference(reference: Any, trial: Any, layout: bool, where: str = "result") -> str | None:
    """Return how ``trial`` differs from ``reference``, bit for bit; None if they are equal."""
    if type(reference) is not type(trial):
        return f"{where}: {type(trial).__name__} instead of {type(reference).__name__}"
    if isinstance(reference, OnHost):
        if trial.tensor.device.type != "cpu":
            return f"{where}: on {trial.tensor.device}, not on the CPU"
        return _tensor_difference(reference.tensor, trial.tensor, layout, where)
    if isinstance(reference, torch.Tensor):
        if trial.device != torch.device("hpu", 0):
            return f"{where}: on {trial.device}, not on hpu:0"
        return _tensor_difference(reference, trial, layout, where)
    if isinstance(reference, dict):
        if list(reference) != list(trial):
            return f"{where}: keys {list(trial)} instead of {list(reference)}"
        return _first(difference(reference[key], trial[key], layout, f"{where}[{key!r}]") for key in reference)
    if isinstance(reference, list | tuple):
        if len(reference) != len(trial):
            return f"{where}: {len(trial)} items instead of {len(reference)}"
        pairs = enumerate(zip(reference, trial, strict=True))
        return _first(difference(a, b, layout, f"{where}[{index}]") for index, (a, b) in pairs)
    if reference != trial and not (reference != reference and trial != trial):
        return f"{where}: {trial!r} instead of {reference!r}"
    return None


def _first(differences: Any) -> str | None:
    return next((found for found in differences if found), None)


def _tensor_difference(reference: torch.Tensor, trial: torch.Tensor, layout: bool, where: str) -> str | None:
    for name in ("dtype", "shape", "requires_grad"):
        a, b = getattr(reference, name), getattr(trial, name)
        if a != b:
            return f"{where}: {name} {b} instead of {a}"
    if layout:
        about = ((t.stride(), t.storage_offset(), t.is_inference(), t.is_leaf) for t in (reference, trial))
        a, b = about
        if a != b:
            return f"{where}: stride, offset, inference, leaf {b} instead of {a}"
    a, b = _bytes(reference), _bytes(trial)
    if torch.equal(a, b):
        return None
    wrong = (a != b).nonzero().flatten()
    first = int(wrong[0])
    return (
        f"{where}: {len(wrong)} of {len(a)} bytes differ, first at {first}: {int(b[first])} instead of {int(a[first])}"
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8)

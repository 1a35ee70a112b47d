"""Run the measuring script for each shape and code, in processes of the target's interpreter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gaudi_patch.bench import points, trees
from gaudi_patch.bench.points import Point
from gaudi_patch.bench.workload import (
    BLOCK,
    CHUNK,
    Shape,
    Skipped,
    held_tokens,
    length_text,
    none_fits,
    too_long,
    whole_lengths,
)
from gaudi_patch.engine.situation import Situation
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.inside.measurement import Work
from gaudi_patch.smoke import runner, target
from gaudi_patch.smoke.levels import Level
from gaudi_patch.smoke.outcome import LevelResult

MEASURE = Level("bench", str(Path(__file__).resolve().with_name("measure.py")), needs=("numpy",))


@dataclass(frozen=True)
class Request:
    """What to measure, where, and with how much memory in bytes. through: of ``workload.THROUGH``."""

    shapes: Sequence[Shape]
    contexts: Sequence[int]
    device: str = "auto"
    rules: str = "lazy"
    memory: int = 0
    timeout: float = 1800.0
    through: str = "connector"


@dataclass
class Measured:
    """The results. ``failures``: code, shape and reason of each process without figures.

    connectors: name of the class that moved the KV, by code.
    """

    device: str
    points: list[Point] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    connectors: dict[str, str] = field(default_factory=dict)


def run(situation: Situation, python: Path, request: Request, say: Callable[[str], None]) -> Measured:
    """Measure both codes of an installation, without writing into it.

    Raises ``cannot-measure`` if the interpreter has no PyTorch, or neither a device nor a way to emulate one.
    """
    with tempfile.TemporaryDirectory(prefix="gaudi-patch-bench-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        try:
            offered = target.inspect(python, os.environ, scratch, MEASURE.needs)
        except target.TargetError as error:
            raise _cannot(str(error)) from None
        device = target.choose_device(offered, request.device)
        if reason := target.obstacle(offered, MEASURE, device):
            raise _cannot(reason)
        codes = trees.codes(situation, scratch / "tree")
        if request.through == "engine":
            codes = _with_ring(codes)
        measured = Measured(device)
        for shape in request.shapes:
            contexts, held = _fitting(measured, shape, request)
            if not held:
                continue
            for code in codes:
                lengths = ", ".join(map(length_text, contexts))
                say(f"{shape.name}, {code.name}: measuring {lengths} on {_device_text(device)} ...")
                folder = scratch / f"{shape.name}-{code.name}"
                folder.mkdir()
                work = _work(shape, contexts, held, code, situation.installation.package, request.through)
                arguments = ("--work", work.to_text())
                result = runner.run_probe(
                    python, MEASURE, request.rules, device, request.timeout, os.environ, folder, arguments
                )
                good = result.status == "passed"
                say(f"  {result.status} in {result.seconds:.0f} s: {result.reason if good else _reason(code, result)}")
                _add(measured, code, shape.name, contexts, result)
    return measured


def available_bytes() -> int:
    """Return the free memory in bytes of this machine, or of this process's control group if less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int((group / limit).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(free, 0)


def _fitting(measured: Measured, shape: Shape, request: Request) -> tuple[Sequence[int], int]:
    """Return the lengths to measure and the tokens to hold, 0 if there are none; what does not fit is skipped."""
    contexts, limit = request.contexts, request.memory
    if request.through == "connector":
        held = held_tokens(shape, contexts, limit)
        measured.skipped += [] if held else none_fits(shape, contexts, limit)
        return contexts, held
    fitting = whole_lengths(shape, contexts, limit)
    measured.skipped += too_long(shape, [tokens for tokens in contexts if tokens not in fitting], limit)
    return fitting, -(-max(fitting, default=0) // CHUNK) * CHUNK


def _with_ring(codes: Sequence[trees.Code]) -> list[trees.Code]:
    """Return the codes, with the patched one once more before it: with every byte through its pinned ring."""
    ring = [code._replace(name=trees.RING) for code in codes if code.name == trees.PATCHED]
    return [*codes[:1], *ring, *codes[1:]]


def _work(shape: Shape, contexts: Sequence[int], held: int, code: trees.Code, package: str, through: str) -> Work:
    return Work(
        layers=shape.layers,
        heads=shape.heads,
        head_size=shape.head_size,
        mla=shape.mla,
        token_bytes=shape.token_bytes,
        contexts=tuple(contexts),
        held=held,
        chunk=CHUNK,
        block=BLOCK,
        tree=str(code.root) if code.laid_out else "",
        expected=str(code.root / package) + os.sep,
        through=through,
        pinned=code.name != trees.RING,
    )


def _add(measured: Measured, code: trees.Code, shape: str, contexts: Sequence[int], result: LevelResult) -> None:
    if result.status == "skipped":  # the device is nearly full, which is no fault of either code
        new = [Skipped(shape, tokens, result.reason) for tokens in contexts]
        measured.skipped += [case for case in new if case not in measured.skipped]
        return
    if result.status != "passed":
        # If a comparison failed, the figures measure wrong work.
        measured.failures.append((code.name, shape, _reason(code, result)))
        return
    reported = result.counters.document
    connector = reported.get("connector")
    try:
        if not isinstance(connector, str):
            raise ValueError("no connector is named")
        figures = points.read(code.name, shape, reported.get("points"))
    except ValueError as error:
        measured.failures.append((code.name, shape, f"the report of the measuring process cannot be read: {error}"))
        return
    measured.connectors[code.name] = connector
    measured.points += figures


def _reason(code: trees.Code, result: LevelResult) -> str:
    """Return why there are no figures: the script's first failure if any, with paths relative to the code's root."""
    told = result.failures[0].message if result.failures else result.reason
    return told.replace(f"{code.root}{os.sep}", "")


def _device_text(device: str) -> str:
    return "an HPU" if device == "hpu" else "the emulated HPU"


def _cannot(reason: str) -> GaudiPatchError:
    return GaudiPatchError(
        Exit.ENVIRONMENT,
        "cannot-measure",
        f"nothing was measured: {reason}",
        "point --python at an interpreter with LMCache and PyTorch",
    )

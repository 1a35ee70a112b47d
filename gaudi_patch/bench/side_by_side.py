"""`bench`: the patched and the stock code side by side, and the start-up of the tool itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaudi_patch.bench import chart, points, svg, workload
from gaudi_patch.bench.runs import Measured, Request, available_bytes, run
from gaudi_patch.engine.situation import look
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Result, Table, Text, narrate
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.smoke.checks import interpreter_of
from gaudi_patch.target.locate import Installation

HOW = (
    "Time, CPU time: multiples of a memcpy of the same bytes by one thread. Next length: graphs "
    "compiled for a prompt of another length after that. Bounced: copied once more by the bridge, "
    "since the memory is not pinned.\n"
)
NOTES = {
    "emulated": "Emulated HPU: counts and bytes follow the device's rules. Times compare the two codes where the "
    "host does the device's work. Bounces take their time there; the copies of whole caches "
    "behind views are counted and take none, and compiling takes none either. They are no times of a Gaudi.\n",
    "hpu": "Times and compiled graphs of this HPU; it counts nothing else that can be read.\n",
}


@dataclass(frozen=True)
class Options:
    """What `bench` was asked for; lists as given on the command line. memory: in GiB, 0 for half of what is free."""

    shapes: str = ",".join(shape.name for shape in workload.SHAPES)
    contexts: str = workload.CONTEXTS
    device: str = "auto"
    rules: str = "lazy"
    memory: float = 0.0
    timeout: float = 1800.0
    svg: Path | None = None
    quiet: bool = False


def bench(manifest: Manifest, installation: Installation, options: Options) -> Result:
    """Measure, and show the figures. Exit 0 when the patched code was measured, 5 when it failed.

    What the stock code cannot do is a finding, not an error; what does not fit into memory is told.
    """
    limit = int(options.memory * workload.GIB) or available_bytes() // 2
    request = Request(
        workload.shapes_of(options.shapes),
        workload.contexts_of(options.contexts),
        options.device,
        options.rules,
        limit,
        options.timeout,
    )
    if options.svg is not None and not options.svg.absolute().parent.is_dir():
        raise GaudiPatchError(Exit.USAGE, "usage", "--svg: there is no such folder", file=str(options.svg.parent))
    found = look(manifest, installation)
    say = (lambda line: None) if options.quiet else (lambda line: narrate([line]))
    measured = run(found, interpreter_of(installation), request, say)
    pairs = points.pairs_of(measured.points)
    title = f"LMCache {installation.version}: stock and patched, {options.rules} rules"
    result = Result("bench", data=_data(installation, options, limit, measured))
    result.blocks = _blocks(pairs, measured, title)
    result.warnings = [f"{code} code, {shape}: no figures: {why}" for code, shape, why in measured.failures]
    if options.svg is not None and pairs:
        where = "an HPU" if measured.device == "hpu" else "the emulated HPU"
        options.svg.write_text(svg.draw(pairs, title, f"On {where}. Shorter is better."), encoding="utf-8")
        result.data["svg"] = str(options.svg.absolute())
        result.blocks.append(Text(f"wrote {options.svg}", "good"))
    fault = _fault_of(measured)
    if fault is not None:
        result.exit, result.errors = fault.exit, [fault]
    return result


def _fault_of(measured: Measured) -> GaudiPatchError | None:
    broken = [f"{shape}: {why}" for code, shape, why in measured.failures if code == "patched"]
    if broken:
        return GaudiPatchError(
            Exit.SMOKE, "bench-failed", "the patched code failed", "gaudi-patch smoke says more", details=broken
        )
    if not measured.points:
        details = [f"{code} code, {shape}: {why}" for code, shape, why in measured.failures]
        details += [f"{one.shape} {workload.length_text(one.tokens)}: {one.reason}" for one in measured.skipped]
        return GaudiPatchError(
            Exit.ENVIRONMENT,
            "cannot-measure",
            "nothing was measured",
            "shorter --contexts, other --shapes, or more --memory",
            details=details,
        )
    return None


def _blocks(pairs: Sequence[points.Pair], measured: Measured, title: str) -> list[Block]:
    blocks: list[Block] = []
    for shape in workload.SHAPES:
        of = [one for one in pairs if one.shape == shape.name]
        if of:
            size = f"{shape.title}, {shape.token_bytes / 1024:.0f} KiB a token, stock -> patched"
            blocks.append(Table(points.COUNT_COLUMNS, [points.count_row(one) for one in of], f"{size}: counts"))
            blocks.append(Table(points.BYTE_COLUMNS, [points.byte_row(one) for one in of], f"{size}: bytes and time"))
    if not pairs:
        return blocks
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    for metric in chart.METRICS:
        drawn = chart.draw(metric.title, chart.bars(chart.longest(pairs), metric), ascii_only=plain)
        blocks += [Text(drawn, verbatim=True)] if drawn else []
    if measured.skipped:
        rows = [(one.shape, workload.length_text(one.tokens), one.reason) for one in measured.skipped]
        blocks.append(Table(("shape", "context", "why"), rows, "Not measured"))
    blocks.append(Text(f"{title}\n{points.repeated(pairs)}{HOW}{NOTES[measured.device]}"))
    return blocks


def _data(installation: Installation, options: Options, limit: int, measured: Measured) -> dict[str, Any]:
    return {
        "version": installation.version,
        "device": measured.device,
        "rules": options.rules,
        "chunk_tokens": workload.CHUNK,
        "block_tokens": workload.BLOCK,
        "memory_limit_bytes": limit,
        "shapes": [{**asdict(shape), "token_bytes": shape.token_bytes} for shape in workload.shapes_of(options.shapes)],
        "connectors": measured.connectors,
        "points": [one.as_data() for one in measured.points],
        "skipped": [asdict(one) for one in measured.skipped],
        "failures": [{"code": code, "shape": shape, "reason": why} for code, shape, why in measured.failures],
        "svg": None,
    }

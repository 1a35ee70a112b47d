"""`bench`: the cost of a KV transfer with the patched and with the unpatched code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli.options import (
    ColorOption,
    DeviceOption,
    FormatOption,
    JsonOption,
    ManifestOption,
    PathOption,
    PythonOption,
    command_app,
)
from gaudi_patch.cli.run import finish, smoke_options, target
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import progress
from gaudi_patch.output.report import Block, Color, Format, Preformatted, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.bench.hosts import Host
    from gaudi_patch.bench.points import Point
    from gaudi_patch.bench.side_by_side import Comparison

HOW = (
    "Time, CPU time: multiples of a memcpy of the same bytes by one thread. Next length: graphs "
    "compiled for a prompt of another length after that. Bounced: copied again by the bridge, "
    "since the memory is not pinned. Host copied: bounced, and copied between LMCache's objects and pinned buffers."
)
MODEL = (
    "Exposed time is computed, not measured: from the counts above and bandwidths in GB/s (PCIe {pcie:g}, device "
    "memory {hbm:g}, host copies {copy:g}, host memory {dram:g}; cards at work: {cards}). Give your own with "
    "--pcie-gbs, --hbm-gbs, --copy-gbs, --dram-gbs, --cards. Source: {source}."
)
THROUGH = {
    "connector": "through LMCache's connector",
    "engine": "through LMCache's engine over its CPU backend",
    "multiprocess": "through the worker of multiprocess mode, over shared memory",
}
NOTES = {
    "emulated": "Emulated HPU: counts and bytes follow the device's rules. Times compare the two versions where the "
    "host does the device's work. Bounces take time there; the copies of whole caches "
    "behind views are counted but take none, nor does compiling. These are not times of a Gaudi.",
    "hpu": "Times and compiled graphs of this HPU; no other counters can be read from it.",
}

app = command_app()


@app.command()
def bench(
    python: PythonOption = None,
    path: PathOption = None,
    manifest: ManifestOption = None,
    shapes: Annotated[
        str, typer.Option("--shapes", metavar="NAMES", help="Shapes of models: 8b, 70b-tp8, mla.")
    ] = "8b,70b-tp8,mla",
    contexts: Annotated[
        str, typer.Option("--contexts", metavar="LENGTHS", help="Context lengths in tokens.")
    ] = "2K,8K,32K,128K,256K",
    through: Annotated[
        str,
        typer.Option("--through", metavar="WAY", help="What moves the KV: connector, engine, multiprocess."),
    ] = "connector",
    device: DeviceOption = "auto",
    rules: Annotated[str, typer.Option("--rules", help="Mode of PT_HPU_LAZY_MODE: lazy or eager.")] = "lazy",
    memory: Annotated[
        float, typer.Option("--memory", metavar="GIB", min=0.0, help="Host memory to use (0: half of what is free).")
    ] = 0.0,
    host: Annotated[
        str,
        typer.Option("--host", metavar="NAME", help="Bandwidths: gaudi3, gaudi3-x8, gaudi2, gaudi2-x8."),
    ] = "gaudi3",
    pcie_gbs: Annotated[
        float | None, typer.Option("--pcie-gbs", metavar="GB/S", help="PCIe bandwidth per card and direction.")
    ] = None,
    hbm_gbs: Annotated[float | None, typer.Option("--hbm-gbs", metavar="GB/S", help="A card's memory.")] = None,
    copy_gbs: Annotated[
        float | None, typer.Option("--copy-gbs", metavar="GB/S", help="Copy bandwidth of the host for one card.")
    ] = None,
    dram_gbs: Annotated[
        float | None, typer.Option("--dram-gbs", metavar="GB/S", help="Memory bandwidth of the host, for all cards.")
    ] = None,
    cards: Annotated[
        int | None, typer.Option("--cards", metavar="N", min=1, help="Cards that transfer at the same time.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1.0, help="Timeout per version and shape.")
    ] = 1800.0,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Measure KV store and load with the patched and with the unpatched code, side by side.

    Both run on an HPU if there is one, otherwise on the emulated HPU. Counted are graph launches,
    compiled graphs (also for the next prompt of another length), copies, bytes and
    synchronizations. Time is compared with a plain memcpy of the same bytes. Every counted
    transfer is also compared byte by byte.

    The installation may be patched or unpatched, and is not changed: the other version is laid
    out in a temporary directory. A request too long for memory reuses the same slots and memory
    objects, and is marked with a star.

    --through engine lets LMCache's engine store and retrieve, and also measures the patched code
    with its pinned ring in the place of pinned objects. --through multiprocess measures the
    worker of multiprocess mode over shared memory, with a stand-in for the server.

    The time that the counts would take on a Gaudi host is computed from the bandwidths of
    --host or your own: the PCIe limit, the unpatched code, a pinned ring, the patched code.

    Example:

        gaudi-patch bench --shapes 8b --contexts 2K,8K
    """

    def verb() -> Result:
        from gaudi_patch.bench import hosts, workload
        from gaudi_patch.bench.side_by_side import BenchOptions, compare
        from gaudi_patch.sizing.plan import GIB

        chosen = smoke_options("", device, rules, "", timeout)
        if len(chosen.rules) != 1:
            raise GaudiPatchError(Exit.USAGE, "usage", "bench needs one mode for --rules: lazy or eager")
        lengths = workload.contexts_of(contexts)
        bandwidths = {"pcie": pcie_gbs, "hbm": hbm_gbs, "copy": copy_gbs, "dram": dram_gbs}
        options = BenchOptions(
            workload.shapes_of(shapes),
            lengths,
            device,
            chosen.rules[0],
            int(memory * GIB),
            timeout,
            hosts.host_of(host, bandwidths, cards),
            workload.through_of(through, lengths),
        )
        found = target(python, path, None, manifest)
        codes = 3 if options.through == "engine" else 2
        with progress.step("measuring", codes * len(options.shapes)) as step:

            def say(line: str) -> None:
                step.begin(line.removesuffix(" ...")) if line.endswith(" ...") else step.end(line.strip())

            compared = compare(*found, options, say)
        return rendered(compared)

    finish("bench", verb, output_format, color, as_json)


def rendered(comparison: Comparison) -> Result:
    """Return the result: exit 5 where the patched code failed, 4 where nothing was measured."""
    from gaudi_patch.bench.points import WORDS

    measured, fault = comparison.measured, comparison.fault
    return Result(
        "bench",
        fault.exit if fault else Exit.OK,
        _data(comparison),
        _blocks(comparison),
        [f"{WORDS[code]} code, {shape}: no figures: {why}" for code, shape, why in measured.failures],
        [fault] if fault else [],
    )


def _blocks(comparison: Comparison) -> list[Block]:
    from gaudi_patch.bench import chart, points, workload

    measured, pairs = comparison.measured, comparison.pairs
    if not pairs:
        return []
    blocks: list[Block] = []
    codes = " -> ".join(word for code, word in points.WORDS.items() if code != "ring" or comparison.through == "engine")
    for shape in workload.SHAPES:
        if of_shape := [pair for pair in pairs if pair.shape == shape.name]:
            size = f"{shape.title}, {shape.token_bytes / 1024:.0f} KiB per token, {codes}"
            counts, bytes_ = map(points.count_row, of_shape), map(points.byte_row, of_shape)
            blocks.append(Table(points.COUNT_COLUMNS, list(counts), f"{size}: counts"))
            blocks.append(Table(points.BYTE_COLUMNS, list(bytes_), f"{size}: bytes and time"))
            rows = [points.host_row(pair, comparison.host) for pair in of_shape]
            blocks.append(Table(points.HOST_COLUMNS, rows, f"{size}: exposed time on {comparison.host.name}, computed"))
    plain = not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    for metric in chart.METRICS:
        drawn = chart.draw(metric.title, chart.bars(chart.longest(pairs), metric), ascii_only=plain)
        blocks += [Preformatted(drawn)] if drawn else []
    if measured.skipped:
        rows = [(case.shape, workload.length_text(case.tokens), case.reason) for case in measured.skipped]
        blocks.append(Table(("shape", "context", "why"), rows, "Not measured"))
    title = (
        f"LMCache {comparison.version}: unpatched and patched, {comparison.rules} mode, {THROUGH[comparison.through]}"
    )
    model = MODEL.format(**vars(comparison.host))
    notes = (title, points.repeated(pairs), HOW, NOTES[measured.device], model)
    return [*blocks, *(Text(note) for note in notes if note)]


def _data(comparison: Comparison) -> dict[str, Any]:
    from dataclasses import asdict

    from gaudi_patch.bench import workload

    measured = comparison.measured
    return {
        "version": comparison.version,
        "device": measured.device,
        "rules": comparison.rules,
        "through": comparison.through,
        "chunk_tokens": workload.CHUNK,
        "block_tokens": workload.BLOCK,
        "memory_limit_bytes": comparison.limit,
        "host": asdict(comparison.host),
        "shapes": [{**asdict(shape), "token_bytes": shape.token_bytes} for shape in comparison.shapes],
        "connectors": measured.connectors,
        "points": [{**point.as_data(), **_exposed(point, comparison.host)} for point in measured.points],
        "skipped": [asdict(case) for case in measured.skipped],
        "failures": [{"code": code, "shape": shape, "reason": why} for code, shape, why in measured.failures],
        "svg": None,  # Kept for schema_version 1; the drawing that it named no longer exists.
    }


def _exposed(point: Point, host: Host) -> dict[str, float | None]:
    from gaudi_patch.bench.hosts import exposed_seconds, limit_seconds

    moved = point.moved
    return {
        "limit_seconds": None if moved is None else limit_seconds(moved, host),
        "exposed_seconds": None if moved is None else exposed_seconds(moved, host),
    }

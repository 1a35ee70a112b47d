"""`doctor`: each finding with its level, why it matters, a fix, and the source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import (
    ColorOption,
    FormatOption,
    JsonOption,
    ManifestOption,
    PathOption,
    PythonOption,
    RootOption,
    VerboseOption,
    command_app,
)
from gaudi_patch.cli.run import detailed, finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Color, Fields, Format, Notice, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.doctor.examine import Examination
    from gaudi_patch.doctor.finding import Finding

app = command_app()


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="LMCache's configuration (default: LMCACHE_CONFIG_FILE)."),
    ] = None,
    vllm_args: Annotated[
        str | None,
        typer.Option(
            "--vllm-args",
            metavar="'...'",
            help="Arguments of vllm serve as one word; reads its --config FILE.",
        ),
    ] = None,
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Check the host, the build and the configuration before a server is started.

    Checked are cards, driver, Gaudi software and torch.hpu; whether the releases work together; CUDA
    packages pulled in by mistake; the patch; environment variables; vLLM's KV connector; LMCache's
    configuration, as the installed LMCache loads it; the local disk, measured; and the remote store.

    Each finding is ok, a warning, a failure or unknown, with why it matters, a fix and the source.
    A check that cannot be made, as in an image build without a card, is unknown; these are counted
    in one line. --verbose shows all findings, and what each unknown needs. Nothing is guessed.
    Nothing is changed; a 64 MiB file is written into the directory of local_disk and removed.

    Exits 4 when there is a failure, 0 otherwise.

    Example:

        gaudi-patch doctor --config lmcache.yaml --vllm-args 'MODEL -tp 8'
    """

    def verb() -> Result:
        from gaudi_patch.doctor.examine import examine
        from gaudi_patch.series.manifest import load
        from gaudi_patch.target.locate import Target

        diagnosis = examine(load(manifest), Target(python, path, root), config=config, vllm_args=vllm_args)
        return rendered(diagnosis, verbose=detailed(verbose, output_format))

    finish("doctor", verb, output_format, color, as_json)


def rendered(examination: Examination, *, verbose: bool = False) -> Result:
    """Return the result: exit 4 (environment) if a check failed, else 0."""
    from gaudi_patch.doctor.finding import Level

    failures, warnings = examination.of(Level.FAILURE), examination.of(Level.WARNING)
    unknown = examination.of(Level.UNKNOWN)
    count = {level.value: number for level, number in examination.count.items()}
    plural = {"warning": "warnings", "failure": "failures"}
    words = ", ".join(f"{n} {name if n == 1 else plural.get(name, name)}" for name, n in count.items() if n)
    blocks: list[Block] = [Text(words, "bad" if failures else "good")]
    if verbose:
        seen = [finding for finding in examination.findings if finding.level is not Level.UNKNOWN]
        rows = [(finding.level.value, finding.id, finding.what) for finding in seen]
        blocks.append(Table(("level", "check", "found"), rows, state_column=0))
        blocks += _reasons(unknown)
    else:
        blocks += _summary(unknown)
    for finding in warnings:
        rows_of_warning = [("why", finding.why), ("fix", finding.fix), ("source", finding.source)]
        blocks += [Text(""), Text(f"warning: {finding.id}: {finding.what}", "next"), Fields(rows_of_warning)]
    blocks.append(Text(_next(len(failures), len(warnings)), "next"))
    return Result(
        "doctor",
        Exit.ENVIRONMENT if failures else Exit.OK,
        {"findings": [_data(finding) for finding in examination.findings], "count": count},
        blocks,
        errors=[_error(finding) for finding in failures],
        notices=[Notice(finding.id, f"{finding.what}; fix: {finding.fix}") for finding in warnings],
    )


def _next(failures: int, warnings: int) -> str:
    if failures:
        return "next: fix the failures below, then run the same command again"
    return "next: weigh the warnings, then start the server" if warnings else "next: start the server"


def _data(finding: Finding) -> dict[str, str]:
    return {**finding._asdict(), "level": finding.level.value}


def _error(finding: Finding) -> GaudiPatchError:
    """Return a failure as other commands report one: on stderr, and as an annotation."""
    details = [f"why: {finding.why}", f"source: {finding.source}"]
    return GaudiPatchError(Exit.ENVIRONMENT, finding.id, f"{finding.id}: {finding.what}", finding.fix, details=details)


def _summary(unknown: Sequence[Finding]) -> list[Block]:
    """Return one line for all checks that could not be made."""
    if not unknown:
        return []
    checks = "1 check" if len(unknown) == 1 else f"{len(unknown)} checks"
    return [Text(f"unknown: {checks} could not be made here; --verbose shows which, and why")]


def _reasons(unknown: Sequence[Finding]) -> list[Block]:
    """Return a table with one row per reason."""
    reasons: dict[str, list[str]] = {}
    for finding in unknown:
        reasons.setdefault("; ".join(part for part in (finding.what, finding.fix) if part), []).append(finding.id)
    rows = [(reason, ", ".join(names)) for reason, names in reasons.items()]
    return [Table(("unknown, and what is needed", "check"), rows)] if rows else []

"""`demo`: check, apply, prove and roll back in a throwaway environment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, VerboseOption, command_app
from gaudi_patch.cli.run import detailed, exclude, finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Color, Fields, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.demo.story import Step, Story
    from gaudi_patch.smoke.outcome import LevelResult

app = command_app()


@app.command()
def demo(
    version: Annotated[
        str,
        typer.Option("--version", metavar="VERSION", help="The LMCache release (default: the newest with a series)."),
    ] = "",
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Create the environment in DIR and keep it."),
    ] = None,
    torch: Annotated[
        str,
        typer.Option("--torch", metavar="REQUIREMENT", help="The PyTorch (CPU build) to install for the smoke checks."),
    ] = "torch==2.13.0",
    no_smoke: Annotated[
        bool, typer.Option("--no-smoke", help="Install LMCache alone and run no smoke checks.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also install vLLM, and answer prompts from the patched LMCache.")
    ] = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Run the whole story in a throwaway environment.

    First LMCache from PyPI, without PyTorch, is checked, patched and rolled back, and every byte is
    compared. This takes seconds; --no-smoke stops there.

    Then PyTorch is installed, without LMCache's CUDA packages. If pip's index offers a CUDA build,
    PIP_EXTRA_INDEX_URL at PyTorch's CPU index gives a smaller one. The smoke checks run on the
    emulated HPU, before and after the patch; -v shows what it counted.

    Before any download it checks for pip, the release, g++ and disk space. It leaves nothing behind.
    --full takes about 15 minutes and 2 GB, and adds a table of prompts, cache hits, answers and
    times.

    Example:

        gaudi-patch demo --version 0.4.2 --no-smoke
    """

    def verb() -> Result:
        from gaudi_patch.demo.story import DemoOptions
        from gaudi_patch.demo.story import demo as run

        exclude("--full", "--no-smoke", full and no_smoke)
        options = DemoOptions(version, keep, "" if no_smoke else torch, as_json, full)
        return rendered(run(options), verbose=detailed(verbose, output_format))

    finish("demo", verb, output_format, color, as_json)


def rendered(story: Story, *, verbose: bool = False) -> Result:
    """Return the result: exit 1 if a step failed."""
    from gaudi_patch.commands import levels as rendering

    counted = [
        Table(("counted on the emulated HPU", "unpatched", "patched"), rows, f"{request} (lazy mode, after warm-up)")
        for request, rows in story.counters().items()
        if verbose or any(unpatched != "-" for _, unpatched, _ in rows)  # nothing to compare with is noise
    ]
    steps = Table(("step", "status", "result", "time"), _rows(story), f"LMCache {story.version}", 1)
    result = Result("demo", data=_data(story))
    if story.failed:
        names = ", ".join(dict.fromkeys(step.name for step in story.failed))
        result.blocks = [Text(f"the demo failed at {names}", "bad"), steps]
        if story.patched:
            result.blocks += rendering.blocks(story.patched, verbose=verbose)
        again = "fix that, and run the same command again"
        if story.kept:  # the demo refuses a directory that is not empty
            result.blocks.append(Text(f"the environment is in {story.kept}", verbatim=True))
            again = f"look at {story.kept}, then `{shlex.join(['rm', '-rf', str(story.kept)])}` and run it again"
        result.exit = Exit.REFUSED
        result.errors = [
            GaudiPatchError(
                Exit.REFUSED,
                "demo-failed",
                f"demo failed at {names}: {story.failed[0].ending}",
                again,
                details=[f"{step.name}: {step.ending}" for step in story.failed],
            )
        ]
        return result
    done = f"demo succeeded: LMCache {story.version} was patched, verified, and rolled back byte for byte"
    result.blocks = [Text(done, "good"), Fields(_summary(story)), *counted, *_answers(story)]
    if verbose:
        result.blocks += [*rendering.blocks(story.patched), steps] if story.patched else [steps]
    left = f"the environment is in {story.kept}" if story.kept else "nothing was left behind"
    result.blocks += [Text(left, verbatim=True), Text("next: gaudi-patch guide quick-start", "next")]
    return result


def _summary(story: Story) -> list[tuple[str, str]]:
    """Return a summary for a reader who was not there: what was done, what was proved, and on which device."""
    rows = [
        ("core", f"{story.core_seconds:.0f} s with PyPI's wheel, without PyTorch: afterwards every byte as installed")
    ]
    if not story.patched:
        return [*rows, ("proof", "left out (--no-smoke)")]
    passed = [level for level in story.patched if level.status == "passed"]
    checks, seconds = sum(level.checks for level in passed), sum(level.seconds for level in passed)
    rows.append(
        ("proof", f"{len(passed)} of {len(story.patched)} smoke checks passed, {checks} comparisons in {seconds:.0f} s")
    )
    rows += [("unpatched", f"level {level.level} {level.status}: {_why(level)}") for level in story.stock]
    return [*rows, ("device", "an emulated HPU; no Gaudi was used")]


def _why(level: LevelResult) -> str:
    """Return what failed, without the probe's advice: it names an environment that is gone when this is read."""
    if not level.failures:
        return level.reason
    first, more = level.failures[0], len(level.failures) - 1
    return f"{first.check}: {first.message}" + (f" (and {more} more)" if more else "")


def _rows(story: Story) -> list[tuple[str, str, str, str]]:
    return [
        (step.name, _status(step), step.ending, "" if step.seconds is None else f"{step.seconds:.3f} s")
        for step in story.steps
    ]


def _status(step: Step) -> str:
    return "ok" if step.good else "failed"


def _answers(story: Story) -> list[Block]:
    """Return vLLM's prompts and answers; empty if no engine has run."""
    from gaudi_patch.demo.vllm import answered

    rows = [
        (
            answer.name,
            str(answer.prompt),
            str(answer.vllm),
            str(answer.lmcache),
            "-" if answer.stock is None else str(answer.stock),
            " ".join(map(str, answer.answer)),
            f"{answer.seconds:.3f} s",
        )
        for answer in answered(story.stock, story.patched)
    ]
    head = ("request", "prompt", "vLLM had", "LMCache had", "unpatched", "answer (tokens)", "time")
    title = (
        "vLLM on the patched LMCache (lazy mode, a tiny model); unpatched: hits of LMCache as released; "
        "control: its KV was corrupted on purpose, so the answer must differ"
    )
    return [Table(head, rows, title)] if rows else []


def _data(story: Story) -> dict[str, Any]:
    keys = ("step", "status", "result", "seconds")
    return {
        "version": story.version,
        "steps": [dict(zip(keys, row, strict=True)) for row in _rows(story)],
        "kept": str(story.kept) if story.kept else None,
        "smoke": {
            "stock": [level.to_json() for level in story.stock],
            "patched": [level.to_json() for level in story.patched],
        },
    }

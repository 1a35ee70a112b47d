"""`smoke`: prove that the installed LMCache works on HPU, level by level."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ColorOption,
    DeviceOption,
    FormatOption,
    JsonOption,
    PathOption,
    PythonOption,
    RequireOption,
    TimeoutOption,
    VerboseOption,
    command_app,
)
from gaudi_patch.cli.run import detailed, finish, smoke_options
from gaudi_patch.output.report import Color, Format, Result, Text
from gaudi_patch.target.installation import Target

if TYPE_CHECKING:
    from gaudi_patch.smoke.checks import Proof

app = command_app()


@app.command()
def smoke(
    levels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LEVEL]...",
            help="imports, kernels, engine (default: these three); connector, inference.",
            autocompletion=completion.levels,
        ),
    ] = None,
    python: PythonOption = None,
    path: PathOption = None,
    device: DeviceOption = "auto",
    rules: Annotated[
        str,
        typer.Option(
            "--rules",
            metavar="RULES",
            help="Mode of PT_HPU_LAZY_MODE: lazy, eager, or both.",
            autocompletion=completion.rules,
        ),
    ] = "lazy,eager",
    require: RequireOption = "",
    timeout: TimeoutOption = 300.0,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="DIR", help="For level inference: a checkpoint instead of a tiny random model."
        ),
    ] = None,
    cases: Annotated[
        str, typer.Option("--cases", metavar="NAMES", help="For level inference: only these cases, e.g. answers,disk.")
    ] = "",
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Prove that the installed LMCache works on HPU, level by level.

    imports: LMCache comes up without CUDA and finds the HPU. kernels: gathering and scattering KV blocks matches an
    independent oracle bit for bit. engine: LMCache's own engine stores, looks up and retrieves over CPU, disk and a
    server. connector: vLLM's scheduler and LMCache's adapter move KV bit for bit through hits, shared prefixes,
    preemption and failed loads. inference: a vLLM engine answers from the cache as it does without. The last two need
    vLLM and run only when named.

    Each level runs in a process of the target's interpreter, on a real HPU where there is one,
    else on the emulated HPU (which needs PyTorch and g++). A skipped level is not a pass.

    Example:

        gaudi-patch smoke kernels engine --python /opt/venv/bin/python

    Example, on a Gaudi host with vllm-gaudi:

        gaudi-patch smoke inference --device hpu --model /models/Llama-3.2-1B
    """

    def verb() -> Result:
        from dataclasses import replace

        from gaudi_patch.smoke.checks import known_levels, prove
        from gaudi_patch.target.locate import locate

        chosen = smoke_options(",".join(levels or ()), device, rules, require, timeout, quiet=as_json)
        extra = [*(("--model", str(model.resolve())) if model else ()), *(("--cases", cases) if cases else ())]
        chosen = replace(chosen, arguments={"inference": extra})
        known_levels(chosen)
        named = Target(python, path)
        return rendered(prove(locate(named), chosen), named, verbose=detailed(verbose, output_format))

    finish("smoke", verb, output_format, color, as_json)


def rendered(proof: Proof, target: Target | None = None, *, verbose: bool = False) -> Result:
    """Return the result: exit 5 if a level failed, a required level was skipped, or nothing was proved."""
    from gaudi_patch.commands import levels as rendering
    from gaudi_patch.target.invocation import command_line

    levels = [rendering.data(level) for level in proof.levels]
    result = Result("smoke", data={"levels": levels}, blocks=[_headline(proof)])
    result.blocks += rendering.blocks(proof.levels, verbose=verbose, fault=proof.fault)
    if proof.fault is not None:
        result.exit, result.errors = proof.fault.exit, [proof.fault]
    else:
        result.blocks.append(Text(f"next: {command_line('doctor', target=target or Target())}", "next", verbatim=True))
    return result


def _headline(proof: Proof) -> Text:
    total = len(proof.levels)
    failed = sum(level.status == "failed" for level in proof.levels)
    if failed:
        return Text(f"failed: {failed} of {total} smoke checks", "bad")
    if proof.fault is not None:
        every = all(level.status == "skipped" for level in proof.levels)
        what = "every smoke check was skipped" if every else "a required smoke check was skipped"
        return Text(f"not proved: {what}", "bad")
    skipped = ", ".join(proof.skipped)
    return Text("passed" + (f"; not run: {skipped}" if skipped else f": all {total} smoke checks"), "good")

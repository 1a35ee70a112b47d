"""`requirements`: what an LMCache release imports, without CUDA packages, as files for pip and uv."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, PythonOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Color, Format, Preformatted, Result, Text

if TYPE_CHECKING:
    from gaudi_patch.target.requirements import Distributions, Needs

app = command_app()


@app.command()
def requirements(
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="An LMCache release, e.g. 0.5.6; it need not be installed.")
    ],
    python: PythonOption = None,
    constraints: Annotated[
        bool, typer.Option("--constraints", help="Print the installed packages as a constraints file instead.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Write requirements.txt and constraints.txt into DIR."),
    ] = None,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Print what LMCache imports on a Gaudi, as a requirements file.

    LMCache's own metadata names CUDA packages and another PyTorch. So install LMCache with
    --no-deps, and its imports on a Gaudi from this list. With --python, the list has only what
    that interpreter lacks. The constraints file pins every installed package, so that no package
    of the image changes.

    Example, in a Dockerfile:

        gaudi-patch requirements 0.5.6 --python python3 --output /tmp/lm
        cd /tmp/lm && pip install -r requirements.txt -c constraints.txt
        pip install --no-deps lmcache==0.5.6
    """

    def verb() -> Result:
        import os

        from gaudi_patch.target.interpreter import named_python
        from gaudi_patch.target.requirements import distributions, needs

        if python is None and (constraints or output is not None):
            option = "--constraints" if constraints else "--output"
            raise GaudiPatchError(
                Exit.USAGE, "usage", f"{option} needs an interpreter", "give the image's own with --python"
            )
        interpreter = None if python is None else Path(named_python(python, os.environ))
        there = None if interpreter is None else distributions(interpreter)
        return _report(needs(version, there), there, interpreter, only_constraints=constraints, output=output)

    finish("requirements", verb, output_format, color, as_json)


def _report(
    needs: Needs, there: Distributions | None, python: Path | None, *, only_constraints: bool, output: Path | None
) -> Result:
    from gaudi_patch.target.requirements import constraints

    pins = constraints(there, needs) if there is not None else []
    data = {
        "version": needs.version,
        "missing": list(needs.missing),
        "kept": [{"requirement": requirement, "installed": installed} for requirement, installed in needs.other],
        "left_out": list(needs.left_out),
        "constraints": pins,
    }
    result = Result("requirements", data=data)
    result.warnings += _cautions(needs.version, there, python) if there is not None and python is not None else []
    lines = pins if only_constraints else _requirements_file(needs, python)
    if output is None:
        result.blocks.append(Preformatted("\n".join(lines)))
        return result
    files = {"requirements.txt": _requirements_file(needs, python), "constraints.txt": pins}
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (output / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    result.blocks += [
        Text(f"{len(needs.missing)} missing; to install them:"),
        Preformatted(install_command(python, output)),
    ]
    return result


def _cautions(lmcache: str, there: Distributions, python: Path) -> list[str]:
    """Return why LMCache will not serve there."""
    from gaudi_patch.series import pairs
    from gaudi_patch.series.manifest import load

    if "torch" not in there.versions:  # e.g. gaudi-patch's own interpreter
        return [f"{python} has no PyTorch; --python has to name the interpreter that runs vLLM"]
    plugin = there.versions.get("vllm-gaudi")
    told = pairs.mismatch(load(), lmcache, plugin, python) if plugin else None
    return [told] if told else []


def _requirements_file(needs: Needs, python: Path | None) -> list[str]:
    what = f"only what {python} lacks" if python else "everything"
    lines = [f"# LMCache {needs.version} on a Gaudi: {what}. Written by gaudi-patch requirements.", *needs.missing]
    lines += [f"# {requirement}: {installed} is already installed" for requirement, installed in needs.other]
    lines += [f"# {requirement}: left out" for requirement in needs.left_out]
    return lines


def install_command(python: Path | None, output: Path) -> str:
    """Return the command that installs from the two files in ``output``."""
    files = ["-r", str(output / "requirements.txt"), "-c", str(output / "constraints.txt")]
    return shlex.join([str(python or "python3"), "-m", "pip", "install", *files])

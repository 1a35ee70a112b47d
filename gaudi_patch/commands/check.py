"""`check`: report what is installed, which series fits, and the state of each file. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import (
    AgainstOption,
    ColorOption,
    FormatOption,
    IfInstalledOption,
    JsonOption,
    ManifestOption,
    PathOption,
    PythonOption,
    RootOption,
    VerboseOption,
    VerifyKeyOption,
    command_app,
)
from gaudi_patch.cli.run import detailed, exclude, finish, needs, target
from gaudi_patch.output.report import Color, Fields, Format, Result, Table, Text
from gaudi_patch.output.wrapping import Whole

if TYPE_CHECKING:
    from pathlib import Path

    from gaudi_patch.series.manifest import Manifest
    from gaudi_patch.target.installation import Installation

app = command_app()


@app.command()
def check(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    against: AgainstOption = None,
    verify_key: VerifyKeyOption = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Run no interpreter: check files by hash, bytecode by header.")
    ] = False,
    verbose: VerboseOption = False,
    if_installed: IfInstalledOption = False,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Say what is installed, which series fits, and what state it is in.

    Changes nothing and works on read-only media. The state of a file is decided by its
    sha256 alone: pristine, patched, modified or missing.

    Exits 0 when the series is applied (or none is needed), 10 when it would apply,
    1 when files differ from both the release and the series, 3 when the version has no series.

    With --against FILE it exits 0 when files, version and series are as `apply --report FILE`
    attested them, 1 when anything differs (each difference is listed), 2 when FILE is damaged.
    --verify-key also requires a signature of FILE by that key, in FILE.minisig.

    --fast runs no interpreter, for entry points and probes. It therefore misses PYTHONPATH and a
    copy of LMCache that comes earlier on the path.

    Example, as a step of an image build that must fail when unpatched:

        gaudi-patch check --python /opt/venv/bin/python

    Example, in a running container:

        gaudi-patch check --python python3 --against /etc/gaudi-patch.json

    Example, in an entry point or a probe:

        gaudi-patch check --fast --python /opt/venv/bin/python
    """

    def run() -> Result:
        if against is not None:
            exclude("--against", "--if-installed", if_installed)
            found = target(python, path, root, manifest, ask=not fast)
            return compared(*found, against, verify_key, verbose=detailed(verbose, output_format))
        if verify_key is not None:
            raise needs("--verify-key", "--against FILE")
        return checked(*target(python, path, root, manifest, ask=not fast), verbose=detailed(verbose, output_format))

    finish("check", run, output_format, color, as_json, if_installed)


def checked(manifest: Manifest, installation: Installation, *, verbose: bool = False) -> Result:
    """Return the result of `check`: the state, the files if ``verbose``, and the next step."""
    from gaudi_patch.commands import describe
    from gaudi_patch.commands.verdict import headline, where
    from gaudi_patch.engine import verdicts
    from gaudi_patch.engine.plan import State

    assessed = verdicts.assess(manifest, installation)
    situation = assessed.situation
    result = Result("check", assessed.exit, describe.data(situation), [headline(situation, assessed.fault)])
    result.blocks += describe.blocks(situation) if verbose else [where(situation)]
    result.warnings += [*installation.warnings, *assessed.warnings]
    if assessed.fault is not None:
        result.errors = [assessed.fault]
    elif situation.state is not State.PATCHED and situation.state is not None:
        result.blocks.append(Text(f"next: {verdicts.next_step(situation)}", "next", verbatim=True))
    elif not assessed.warnings:
        result.blocks.append(Text(f"next: {situation.command('doctor')}", "next", verbatim=True))
    return result


def compared(
    manifest: Manifest, installation: Installation, path: Path, key: Path | None = None, *, verbose: bool = False
) -> Result:
    """Return the result of `check --against`: exit 0 if everything is as attested, else 1.

    Every difference is in a table where ``verbose``; the error names the first ones.
    """
    from gaudi_patch.attestation.against import compare_with
    from gaudi_patch.commands import describe
    from gaudi_patch.engine.plan import State

    compared = compare_with(manifest, installation, path, key)
    against = {
        "path": str(path.resolve()),
        "sha256": compared.sha256,
        "differences": [difference._asdict() for difference in compared.differences],
        "signed_by": compared.signed or None,
    }
    result = Result("check", data={**describe.data(compared.situation), "against": against})
    result.warnings += installation.warnings
    result.warnings += [
        f"{package.sentence()}: the attested smoke results are for another version" for package in compared.packages
    ]
    fault, count = compared.fault, len(compared.differences)
    unpatched = "; LMCache is pristine, not patched" if compared.situation.state is State.PRISTINE else ""
    files = f"{compared.files} file{'s' if compared.files != 1 else ''}"
    result.blocks.append(
        Text(f"as attested: version, series, and {files} by their sha256", "good")
        if fault is None
        else Text(f"not as attested: {count} difference{'s' if count != 1 else ''}{unpatched}", "bad")
    )
    result.blocks.append(
        Fields(
            [
                ("attested", f"{compared.created} by gaudi-patch {compared.tool}"),
                ("package", compared.package),
                ("series", compared.series),
                ("smoke", compared.smoke),
                ("signature", _signature(compared.signed, key)),
                ("found", Whole(f"{installation.package} {installation.version} in {installation.root}")),
            ]
        )
    )
    if fault is not None:
        if verbose:
            rows = [(gap.what, _short(gap.attested), _short(gap.found)) for gap in compared.differences]
            result.blocks.append(Table(("what", "attested", "found"), rows))
        result.exit, result.errors = fault.exit, [fault]
    return result


def _signature(comment: str, key: Path | None) -> str:
    """Say whether a signature vouches for the attestation: anyone who edits it can recompute its sha256."""
    if key is None:
        return "not verified: without --verify-key, anyone could have written it"
    return f"by the key in {key} ({' '.join(comment.split())})"


def _short(text: str) -> str:
    """Return a shortened hash for people; the JSON has the full one."""
    first, space, rest = text.partition(" ")
    return f"{first[:12]}{space}{rest}" if len(first) == 64 else text

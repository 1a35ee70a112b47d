"""The options of `check`."""

from __future__ import annotations

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
    verb_app,
)
from gaudi_patch.cli.run import exclude, finish, target
from gaudi_patch.output.report import Color, Format, Result

app = verb_app()


@app.command()
def check(
    python: PythonOption = None,
    path: PathOption = None,
    root: RootOption = None,
    manifest: ManifestOption = None,
    against: AgainstOption = None,
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
    attested them, 1 when anything differs (each difference is named), 2 when FILE is damaged.

    Example, as a step of an image build that must not go on unpatched:

        gaudi-patch check --python /opt/venv/bin/python

    Example, in a running container:

        gaudi-patch check --python python3 --against /etc/gaudi-patch.json
    """

    def verb() -> Result:
        if against is not None:
            from gaudi_patch.attestation.against import check_against

            exclude("--against", "--if-installed", if_installed)
            return check_against(*target(python, path, root, manifest), against)
        from gaudi_patch.engine.verdicts import check as run

        return run(*target(python, path, root, manifest))

    finish("check", verb, output_format, color, as_json, if_installed)

"""`attest`: convert an attestation for other tools, sign it, or verify its signature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, SignKeyOption, VerifyKeyOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Color, Fields, Format, Preformatted, Result, Text

if TYPE_CHECKING:
    from gaudi_patch.disk import Disk

app = command_app()


@app.command()
def attest(
    report: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="What apply --report or wheel --report wrote."),
    ] = None,
    in_toto: Annotated[
        Path | None,
        typer.Option("--in-toto", metavar="FILE", help="Write an in-toto statement to this file."),
    ] = None,
    cyclonedx: Annotated[
        Path | None,
        typer.Option("--cyclonedx", metavar="FILE", help="Write a CycloneDX 1.6 document to this file."),
    ] = None,
    sign_key: SignKeyOption = None,
    verify_key: VerifyKeyOption = None,
    schema: Annotated[
        str, typer.Option("--schema", metavar="NAME", help="Print a schema: attestation or predicate.")
    ] = "",
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Write an attestation in other tools' forms, sign it, or verify its signature.

    FILE itself is not changed. An in-toto statement has the patched files as its subjects;
    a CycloneDX document has one component, whose pedigree names each patch by its sha256.

    --sign-key signs FILE and each file written with a minisign secret key. Each signature is
    a file of its own (FILE.minisig). GAUDI_PATCH_SIGN_PASSWORD holds the key's password, if any.

    Exits 0 when everything was written or verified, 1 when the signature is missing or does
    not match these bytes and this key, 2 when FILE is not an attestation.

    Example, for an auditor:

        gaudi-patch attest gaudi-patch.json --cyclonedx bom.json --sign-key key

    Example, for a recipient:

        gaudi-patch attest gaudi-patch.json --verify-key key.pub
    """

    def run() -> Result:
        if schema:
            return printed(schema)
        if report is None:
            raise GaudiPatchError(
                Exit.USAGE, "usage", "no attestation was given", "`gaudi-patch attest FILE`, or --schema NAME"
            )
        from gaudi_patch.disk import Disk

        return attested(report, in_toto, cyclonedx, sign_key, verify_key, Disk())

    finish("attest", run, output_format, color, as_json)


def printed(name: str) -> Result:
    """Return the result that prints a published schema."""
    from gaudi_patch.attestation.forms import SCHEMAS

    if name not in SCHEMAS:
        names = ", ".join(SCHEMAS)
        raise GaudiPatchError(Exit.USAGE, "usage", f"no such schema: {name}", f"schemas: {names}")
    text = SCHEMAS[name].read_text(encoding="utf-8")
    return Result("attest", data={"schema": name, "text": text}, blocks=[Preformatted(text)])


def attested(
    report: Path,
    in_toto: Path | None,
    cyclonedx: Path | None,
    sign_key: Path | None,
    verify_key: Path | None,
    disk: Disk,
) -> Result:
    """Return the result of `attest` for the attestation in ``report``."""
    from gaudi_patch.attestation import cyclonedx as bom
    from gaudi_patch.attestation import file, forms, intoto
    from gaudi_patch.engine import layout
    from gaudi_patch.target.installation import Target
    from gaudi_patch.target.invocation import command_line

    anew = command_line("apply", "--report", str(report.absolute()), target=Target())
    document, comment = file.read_signed(report, verify_key, anew)
    signer = None
    if sign_key is not None:
        from gaudi_patch.attestation.signing import Signer

        signer = Signer(sign_key)
    wanted = [
        (file.destination(path), make)
        for path, make in ((in_toto, intoto.statement), (cyclonedx, bom.document))
        if path is not None
    ]
    made = [(path, forms.text(make(document))) for path, make in wanted]
    for path, text in made:
        file.put(path, text, disk)
    written = [path for path, _ in made]
    if signer is not None:
        seconds = layout.stamp_ns() // layout.SECOND
        written += [signer.sign(path, seconds, disk) for path in (report.resolve(), *written)]
    signature = f"by the key in {verify_key} ({' '.join(comment.split())})" if comment else "not verified"
    package = document["package"]
    series = document["series"]
    rows = [
        ("attested", f"{document['created']} by gaudi-patch {document['tool']['version']}"),
        ("package", f"{package['name']} {package['version']}".rstrip()),
        ("series", series["id"] if series else "none needed"),
        ("smoke", f"{document['smoke']['status']} ({document['smoke']['reason']})"),
        ("signature", signature),
        *(("written", str(path)) for path in written),
    ]
    data = {
        "path": str(report.resolve()),
        "sha256": document["sha256"],
        "signed_by": comment or None,
        "written": [str(path) for path in written],
    }
    done = "signature verified" if comment else "a whole attestation"
    return Result("attest", data=data, blocks=[Fields(rows), Text(f"{done}: {report}", "good", verbatim=True)])

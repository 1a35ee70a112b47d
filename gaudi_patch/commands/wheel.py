"""`wheel`: build a release's wheel with its series applied, for a private index."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ColorOption,
    DeviceOption,
    FormatOption,
    JsonOption,
    ManifestOption,
    PythonOption,
    RequireOption,
    SignKeyOption,
    TimeoutOption,
    command_app,
)
from gaudi_patch.cli.run import finish, smoke_options
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Color, Fields, Format, Result, Text

if TYPE_CHECKING:
    from gaudi_patch.series.manifest import Manifest
    from gaudi_patch.wheel.output import Output, OutputOptions, Written

app = command_app()


@app.command()
def wheel(
    release: Annotated[
        list[str], typer.Argument(metavar="VERSION|FILE...", help="A release, or files of its wheels or its sdist.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Output directory; created if missing.")] = Path(),
    build: Annotated[
        int, typer.Option("--build", metavar="N", min=1, max=999_999_999, help="The N of the version +gaudi.N.")
    ] = 1,
    drop_cuda: Annotated[
        bool, typer.Option("--drop-cuda", help="Leave out requirements on CUDA packages and PyTorch.")
    ] = False,
    python_version: Annotated[
        list[str] | None,
        typer.Option("--python-version", metavar="X.Y", help="Only for this Python version; may be repeated."),
    ] = None,
    manifest: ManifestOption = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write attestation, in-toto statement and CycloneDX next to it.")
    ] = False,
    sign_key: SignKeyOption = None,
    smoke: Annotated[
        str,
        typer.Option(
            "--smoke",
            metavar="LEVELS",
            help="Prove it in a throwaway environment first.",
            autocompletion=completion.levels,
        ),
    ] = "",
    python: PythonOption = None,
    require: RequireOption = "",
    device: DeviceOption = "auto",
    timeout: TimeoutOption = 300.0,
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Build the wheel of a release with its series applied.

    Its version is the release's plus +gaudi.N, which installers prefer over the release. For a
    VERSION, pip downloads the wheels of every Python version; or give the FILES. Each file of the
    release is compared with its RECORD, and what the series changes with the lock. RECORD, METADATA
    and tags are updated; the wheel contains the attestation, a CycloneDX document and SHA256SUMS.

    The build is reproducible: the same input gives the same bytes anywhere, at any time. No build
    time goes in (SOURCE_DATE_EPOCH can only make it earlier), and nothing is recompressed.

    --drop-cuda leaves out what a Gaudi image must not install: CUDA packages, and PyTorch, which
    the image already has.

    --smoke LEVELS first installs the wheel with the packages of --python (an interpreter with
    PyTorch), and writes nothing unless the levels pass.

    From an sdist (FILE.tar.gz, as on PyPI) it makes a patched sdist, for those who build LMCache
    themselves.

    A wheel with the same name but other content is never replaced: raise --build.

    Example, for a private index:

        gaudi-patch wheel 0.5.6 --drop-cuda --out wheels

    Example, proved and signed:

        gaudi-patch wheel 0.5.6 --smoke engine --python python3 --sign-key key
    """

    def run() -> Result:
        from gaudi_patch.series.manifest import load
        from gaudi_patch.wheel.build import BuildOptions
        from gaudi_patch.wheel.output import OutputOptions

        chosen = None
        if smoke or require:
            chosen = smoke_options(smoke or require, device, "lazy,eager", require, timeout)
        signer = None
        if sign_key is not None:
            from gaudi_patch.attestation.signing import Signer

            signer = Signer(sign_key)
        options = OutputOptions(
            out, BuildOptions(build, drop_cuda), report, signer, chosen, python or _own() if chosen else None
        )
        return built(load(manifest), release, python_version or [], options)

    finish("wheel", run, output_format, color, as_json)


def built(manifest: Manifest, given: list[str], pythons: list[str], options: OutputOptions) -> Result:
    """Return the result of `wheel` for a release or files of its wheels."""
    from gaudi_patch.wheel.output import write
    from gaudi_patch.wheel.release import Wheels, wheels_of

    files = [Path(name) for name in given if name.endswith((".whl", ".tar.gz"))]
    if len(files) not in (0, len(given)) or (not files and len(given) > 1):
        raise _usage("give one release, or files of its wheels", " ".join(given))
    if options.smoke is not None and any(file.suffix != ".whl" for file in files):
        raise _usage("--smoke and --require need wheels: build one from the sdist first", " ".join(given))
    if files and pythons:
        raise _usage("--python-version needs a release, not files", " ".join(given))
    for file in files:
        if not file.is_file():
            raise _usage("no such file", str(file))
    wheels = Wheels(tuple(files)) if files else wheels_of(manifest, given[0], pythons)
    return rendered(write(manifest, wheels.files, options), wheels.without)


def rendered(output: Output, without: tuple[str, ...] = ()) -> Result:
    """Return text and JSON of what was built."""
    from gaudi_patch.commands import levels as rendering

    result = Result("wheel", data={"wheels": [_data(written) for written in output.wheels], "without": list(without)})
    for written in output.wheels:
        result.blocks += _blocks(written)
    if without:
        result.warnings.append(f"the release has no wheel for Python {', '.join(without)}")
    if output.proof is not None:
        proof = output.proof
        result.data["smoke"] = [rendering.data(level) for level in proof.levels]
        result.data["proved"] = {"wheel": proof.wheel, "python": str(proof.python)}
        result.blocks += rendering.blocks(proof.levels)
        result.blocks.append(Text(f"proved before it was written: {proof.wheel}", "good"))
    first = output.wheels[0]
    release = f"{first.wheel.name.name}=={first.wheel.name.version}"
    words = ["pip", "install", "--no-deps", "--no-index", "--find-links", str(first.path.parent), release]
    if first.path.suffix != ".whl":
        words = ["pip", "wheel", "--no-deps", "--no-build-isolation", str(first.path)]
    result.blocks.append(Text(f"next: {shlex.join(words)}", "next", verbatim=True))
    return result


def _data(written: Written) -> dict[str, object]:
    wheel = written.wheel
    return {
        "path": str(written.path),
        "version": wheel.name.version,
        "release": wheel.release,
        "series": wheel.series,
        "sha256": wheel.sha256,
        "size": wheel.size,
        "changed": written.changed,
        "dropped": list(wheel.dropped),
        "beside": [str(path) for path in written.beside],
    }


def _blocks(written: Written) -> list[Block]:
    wheel = written.wheel
    rows = [
        ("wheel", str(written.path)),
        ("sha256", wheel.sha256),
        ("series", f"{wheel.series} on {wheel.name.name} {wheel.release}"),
    ]
    if wheel.dropped:
        rows.append(("left out", ", ".join(wheel.dropped)))
    if written.beside:
        rows.append(("beside", ", ".join(path.name.removeprefix(written.path.name) for path in written.beside)))
    done = (
        "built; read back from disk" if written.changed else "already there, with the same bytes; nothing was written"
    )
    return [Fields(rows), Text(done, "good")]


def _usage(what: str, given: str) -> GaudiPatchError:
    hint = "`gaudi-patch wheel 0.5.6 --out DIR`, or `gaudi-patch wheel FILE.whl... --out DIR`"
    return GaudiPatchError(Exit.USAGE, "usage", f"{what}: {given}; nothing was written", hint)


def _own() -> Path:
    import sys

    return Path(sys.executable)

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.manual import Manual
from gaudi_patch.output.report import Color, Format


class _App(typer.Typer):
    """An app whose commands show their help as a manual page."""

    def command(self, name: str | None = None, **more: Any) -> Any:  # noqa: ANN401 - typer's own annotations
        return super().command(name, cls=Manual, **more)


def command_app(text: str | None = None) -> typer.Typer:
    """Return the app of one command, or of a group if ``text`` is given; it lacks the program's own options."""
    return _App(help=text, no_args_is_help=text is not None, add_completion=False, rich_markup_mode=None)


PythonOption = Annotated[
    Path | None,
    # An interpreter has to be executable, not readable.
    typer.Option(
        "--python", metavar="PYTHON", readable=False, help="The target's interpreter, e.g. /opt/venv/bin/python."
    ),
]
PathOption = Annotated[
    Path | None,
    typer.Option("--path", metavar="DIR", help="A site-packages directory, or a git checkout of LMCache."),
]
RootOption = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="The root of an unpacked image; nothing in it is run."),
]
ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest", metavar="DIR", help="A directory with manifest.lock and patches, instead of the built-in one."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object (schema_version 1) on stdout.")]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--output-format", help="github adds annotations and a job summary, gitlab a section.", show_default=True
    ),
]
ColorOption = Annotated[Color, typer.Option("--color", help="NO_COLOR and FORCE_COLOR are honoured.")]
NoPagerOption = Annotated[
    bool, typer.Option("--no-pager", help="Use no pager; GAUDI_PATCH_PAGER and PAGER replace less.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also show each file, smoke check or finding, with details.")
]
IfInstalledOption = Annotated[bool, typer.Option("--if-installed", help="Exit 0 when LMCache is not installed.")]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write an attestation of what was applied, as JSON."),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option("--against", metavar="FILE", help="Compare with the attestation that apply --report wrote."),
]
SignKeyOption = Annotated[
    Path | None,
    typer.Option("--sign-key", metavar="FILE", help="Sign the output with this minisign secret key."),
]
VerifyKeyOption = Annotated[
    Path | None,
    typer.Option("--verify-key", metavar="FILE", help="The minisign public key that must have signed it."),
]
LockOption = Annotated[
    float,
    typer.Option("--lock-timeout", metavar="SECONDS", min=0.0, help="How long to wait for another run to finish."),
]
NoLockOption = Annotated[
    bool,
    typer.Option(
        "--no-lock",
        help="Take no lock, for file systems without locks. Two runs at once, or one beside pip, can then mix their "
        "files: use it only while nothing else changes the installation.",
    ),
]

DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="auto, hpu or emulated.", autocompletion=completion.devices),
]
RequireOption = Annotated[
    str,
    typer.Option(
        "--require",
        metavar="LEVELS",
        help="Levels that must not be skipped, e.g. kernels,engine.",
        autocompletion=completion.levels,
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--smoke-timeout", metavar="SECONDS", min=1.0, help="Limit for each smoke level.")
]

ModelConfigOption = Annotated[
    Path | None,
    typer.Option("--model-config", metavar="FILE", help="The model's config.json, or its directory."),
]
RanksOption = Annotated[
    int, typer.Option("--tensor-parallel-size", metavar="N", min=1, help="Cards that share each layer.")
]
PromptsOption = Annotated[
    int, typer.Option("--prompts", metavar="N", min=1, help="Requests of that length to keep in host memory.")
]
ChunkOption = Annotated[
    int,
    typer.Option(
        "--chunk-size", metavar="TOKENS", min=1, help="LMCache's chunk: a multiple of vllm-gaudi's block of 128."
    ),
]

WheelOption = Annotated[
    Path | None,
    typer.Option("--wheel", metavar="FILE", help="The release's wheel, instead of downloading it."),
]
FewerHunksOption = Annotated[
    bool, typer.Option("--fewer-hunks", help="Accept that a patch has fewer hunks in a file than the lock says.")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The worktree.")]

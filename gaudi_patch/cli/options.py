"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.manual import Manual
from gaudi_patch.output.report import Color, Format


class _App(typer.Typer):
    """Its commands have the help of a manual page."""

    def command(self, name: str | None = None, **more: Any) -> Any:  # noqa: ANN401 - typer's own annotations
        return super().command(name, cls=Manual, **more)


def command_app(text: str | None = None) -> typer.Typer:
    """Return the app of one command, or with ``text`` of a group of them; without the program's own options."""
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
        "--manifest", metavar="DIR", help="A directory with manifest.lock and patches, in place of the built-in one."
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
    bool, typer.Option("--no-pager", help="Print at once; GAUDI_PATCH_PAGER and PAGER name another pager than less.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also show each file, smoke check or finding, and how it was found.")
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
    typer.Option("--sign-key", metavar="FILE", help="Sign what is written with this secret key of minisign."),
]
VerifyKeyOption = Annotated[
    Path | None,
    typer.Option("--verify-key", metavar="FILE", help="The public key of minisign that must have signed it."),
]
LockOption = Annotated[
    float, typer.Option("--lock-timeout", metavar="SECONDS", min=0.0, help="How long to wait for another run.")
]
NoLockOption = Annotated[
    bool,
    typer.Option(
        "--no-lock",
        help="Take no lock, where the file system has none. Two runs at once, or pip beside one, can then leave files "
        "of both: only for an installation that nothing else changes meanwhile.",
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
    float, typer.Option("--smoke-timeout", metavar="SECONDS", min=1.0, help="For each smoke level.")
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

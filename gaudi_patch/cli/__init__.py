"""The app: its commands, each a module of ``commands/`` that is imported when the command is invoked.

No command waits for imports that only another one needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gaudi_patch.cli.manual import summary
from gaudi_patch.cli.usage import usage_faults

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

EXIT_CODES = """
Exit codes: 0 success (including: nothing to do) - 1 refused (drift, conflict) - 2 usage, bad manifest or patch -
3 not installed, unknown or refused version - 4 environment (not writable, no space, locked, --json not
written) - 5 smoke failed (apply rolls back) - 6 manual repair needed - 10 (check) a series would apply - 70 a bug.
"""

#: In the order in which the help shows them.
COMMANDS = (
    *("check", "apply", "rollback", "smoke", "wheel", "attest", "fleet", "list", "show", "requirements"),
    *("doctor", "bench", "size", "recipe", "verify", "guide", "demo", "emulator", "dev"),
)


class Commands(TyperGroup):
    """Import each command when it is first asked for."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def make_context(self, *args: Any, **extra: Any) -> Context:  # noqa: ANN401 - click's own annotations
        """Parse the program's own arguments; report faults in them like any other error."""
        with usage_faults(COMMANDS):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Context) -> Any:  # noqa: ANN401 - click's own annotations
        """Run the command; report faults in its arguments like any other error."""
        with usage_faults(COMMANDS):
            return super().invoke(ctx)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(f"gaudi_patch.commands.{cmd_name}").app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write a line per command. Its options are not built for this: they take as long as all the rest of --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in COMMANDS])


def _summary(name: str) -> str:
    """Return the first sentence of a command's or a group's help."""
    app: typer.Typer = import_module(f"gaudi_patch.commands.{name}").app
    group = app.info.help
    return summary(group if isinstance(group, str) else app.registered_commands[0].callback.__doc__ or "")


app = typer.Typer(
    name="gaudi-patch",
    cls=Commands,
    help="Patch an installed LMCache for Intel Gaudi: check, apply, roll back, and prove the result.\n\n" + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        from gaudi_patch.cli.version import version_text

        typer.echo(version_text())
        raise typer.Exit


def _json_schema(value: bool) -> None:
    if value:
        from gaudi_patch.output import schema

        typer.echo(schema.text(), nl=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    json_schema: Annotated[
        bool,
        typer.Option("--json-schema", callback=_json_schema, is_eager=True, help="Print the schema of --json."),
    ] = False,
) -> None:
    """Handle the options of the program itself."""


def main() -> None:
    """Run the console script."""
    import sys

    from gaudi_patch.output import streams

    streams.choose_from(sys.argv[1:])
    app()

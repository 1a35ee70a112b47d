"""`fleet`: sum up reports of `check --json` from many hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaudi_patch.cli.options import ColorOption, FormatOption, JsonOption, command_app
from gaudi_patch.cli.run import finish
from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Color, Format, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.fleet.reports import Fleet

app = command_app()


@app.command()
def fleet(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Reports of check --json: HOST.json.")],
    as_json: JsonOption = False,
    output_format: FormatOption = Format.TEXT,
    color: ColorOption = Color.AUTO,
) -> None:
    """Sum up reports of `check --json` from many hosts.

    Each FILE is one host's report, named after the host. The exit code is that of the worst host.
    A file that is not a report counts as an unknown host (exit 2), never as a good one. A warning
    names hosts whose release or series differs from the rest.

    `gaudi-patch guide fleet` has an Ansible playbook and a Kubernetes Job that collect the reports.

    Example:

        gaudi-patch fleet reports/*.json
    """

    def run() -> Result:
        from gaudi_patch.fleet.reports import read

        return summed_up(read(files))

    finish("fleet", run, output_format, color, as_json)


def summed_up(fleet: Fleet) -> Result:
    """Return text and JSON for a fleet, with the exit code of its worst host."""
    hosts = [
        {
            "host": host.name,
            "file": str(host.file),
            "exit_code": int(host.exit),
            "state": host.state,
            "version": host.version,
            "series": host.series or None,
            "problem": host.problem,
        }
        for host in fleet.hosts
    ]
    result = Result("fleet", fleet.worst, {"hosts": hosts, "counts": fleet.counts})
    rows = [
        (host.state or "unknown", host.name, host.version or "-", host.series or "-", str(int(host.exit)), host.problem)
        for host in fleet.hosts
    ]
    result.blocks.append(Table(("state", "host", "LMCache", "series", "exit", "problem"), rows, state_column=0))
    if len(fleet.kinds) > 1:
        result.warnings.append(f"the hosts differ: {'; '.join(fleet.kinds)}")
    if fleet.fault is not None:
        result.errors = [fleet.fault]
    elif fleet.worst is Exit.OK:
        result.blocks.append(Text(f"{len(hosts)} hosts are in the required state", "good"))
    else:
        waiting = sum(host.exit is Exit.PENDING for host in fleet.hosts)
        result.blocks.append(Text(f"{waiting} of {len(hosts)} hosts are not patched yet", "next"))
    return result

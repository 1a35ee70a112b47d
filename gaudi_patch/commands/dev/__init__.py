"""`dev`: lint, edit, refresh and port, for maintainers of the patches."""

from __future__ import annotations

from gaudi_patch.cli.options import command_app
from gaudi_patch.commands.dev.edit import edit, refresh
from gaudi_patch.commands.dev.lint import lint
from gaudi_patch.commands.dev.port import port

app = command_app("For maintainers of the patches.")
for _command in (lint, edit, refresh, port):
    app.command()(_command)

"""The completions after `guide` and `recipe`; the other completion tests check that a shell shows them."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from gaudi_patch import cli, guides
from gaudi_patch.recipes.compose import MODES


@pytest.mark.parametrize(("verb", "names"), [("guide", guides.NAMES), ("recipe", tuple(MODES))])
def test_every_name_is_offered(verb: str, names: tuple[str, ...]) -> None:
    group: Any = typer.main.get_command(cli.app)
    command = group.get_command(None, verb)
    context = command.make_context(verb, [], resilient_parsing=True)
    (argument,) = [one for one in command.params if one.param_type_name == "argument"]
    assert [item.value for item in argument.shell_complete(context, "")] == list(names)
    assert [item.value for item in argument.shell_complete(context, names[0][:3])] == [names[0]]

"""The --json output of the maintainers' commands follows the published schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaudi_patch.authoring import edit, fit, lint, port
from gaudi_patch.commands.dev.edit import laid, refreshed
from gaudi_patch.commands.dev.lint import compared
from gaudi_patch.commands.dev.lint import report as linted
from gaudi_patch.commands.dev.port import aborted
from gaudi_patch.commands.dev.port import report as ported
from gaudi_patch.output.report import Result
from tests.authoring.conftest import BASE, ENGINE, Shelf, changed
from tests.authoring.test_port import UNPROVED
from tests.support import output_schema


def held(result: Result, command: str) -> None:
    output_schema.hold(result.to_json())
    assert json.loads(result.to_json())["command"] == command


def test_lint_of_a_shelf_and_of_a_release_that_it_does_not_have(shelf: Shelf) -> None:
    held(linted(lint.lint(shelf.directory, write=False)), "dev lint")
    held(linted(lint.lint(shelf.directory, write=True)), "dev lint")
    fits = shelf.release("1.0.1", {**BASE, "lmcache/engine.py": "moved = True\n" + ENGINE})
    held(compared(fit.watch(shelf.directory, fits)), "dev lint")
    differs = shelf.release("1.0.2", {"lmcache/__init__.py": ""})
    held(compared(fit.watch(shelf.directory, differs)), "dev lint")


def test_lint_of_a_stale_lock(shelf: Shelf) -> None:
    manifest = shelf.directory / "manifest.toml"
    manifest.write_text(manifest.read_text().replace('why = "because"', 'why = "otherwise"'))
    held(linted(lint.lint(shelf.directory, write=False)), "dev lint")


def test_edit_and_refresh(shelf: Shelf, tmp_path: Path) -> None:
    held(laid(edit.edit("1.0.0", tmp_path / "w", shelf.directory, None)), "dev edit")
    held(refreshed(edit.refresh(tmp_path / "w", shelf.directory)), "dev refresh")


@pytest.mark.parametrize("proved", [True, False])
def test_port_to_its_end(proved: bool, shelf: Shelf, tmp_path: Path) -> None:
    calls = {"lmcache/engine.py": changed(ENGINE, ("line_20 = 20\n", "line_20 = torch.cuda.synchronize()\n"))}
    shelf.release("1.0.1", {**BASE, **calls})
    options = () if proved else (UNPROVED,)
    result = ported(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, *options))
    assert result.data["device_calls"]
    held(result, "dev port")


def test_port_that_conflicts_and_is_given_up(shelf: Shelf, tmp_path: Path) -> None:
    shelf.release("1.0.1", {**BASE, "lmcache/engine.py": changed(ENGINE, ("line_5 = 5\n", "line_5 = 'cuda'\n"))})
    result = ported(port.port("1.0.0", "1.0.1", tmp_path / "w", shelf.directory, UNPROVED))
    assert result.data["conflict"]
    held(result, "dev port")
    port.abort(tmp_path / "w")
    held(aborted(tmp_path / "w"), "dev port")

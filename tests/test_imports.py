"""Scripts that a target's interpreter runs by path import nothing of gaudi_patch.

They are not packages, so the import contract in pyproject.toml does not cover them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gaudi_patch

ROOT = Path(gaudi_patch.__file__).parent
SCRIPTS = ("inside", "smoke/probes", "smoke/vllm_plugin", "emulator/packages")


def imported(source: str) -> set[str]:
    """Return every module that ``source`` imports, also inside functions, but not for type checkers only."""
    names: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def test_an_import_inside_a_function_is_seen() -> None:
    assert imported("def f():\n    from gaudi_patch.engine import plan\n") == {"gaudi_patch.engine"}


def test_an_import_for_annotations_alone_is_none() -> None:
    source = "if TYPE_CHECKING:\n    from gaudi_patch.engine import plan\nelse:\n    import os\n"
    assert imported(source) == {"os"}


@pytest.mark.parametrize("folder", SCRIPTS)
def test_scripts_of_the_target_import_nothing_of_gaudi_patch_but_their_neighbours(folder: str) -> None:
    own = f"gaudi_patch.{folder.replace('/', '.')}"
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    upward = {
        f"{file.name}: {name}"
        for file in files
        for name in imported(file.read_text())
        if name.partition(".")[0] == "gaudi_patch" and name != own and not name.startswith(f"{own}.")
    }
    assert upward == set()

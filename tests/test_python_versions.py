"""The code is checked for Pythons that are not installed: by ruff's parser, and by the list of removals in 3.14."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: https://docs.python.org/3/whatsnew/3.14.html#removed
REMOVED = {
    "ast.Num", "ast.Str", "ast.Bytes", "ast.NameConstant", "ast.Ellipsis",
    "asyncio.AbstractChildWatcher", "asyncio.FastChildWatcher", "asyncio.MultiLoopChildWatcher",
    "asyncio.PidfdChildWatcher", "asyncio.SafeChildWatcher", "asyncio.ThreadedChildWatcher",
    "asyncio.get_child_watcher", "asyncio.set_child_watcher",
    "importlib.abc.ResourceReader", "importlib.abc.Traversable", "importlib.abc.TraversableResources",
    "pkgutil.find_loader", "pkgutil.get_loader", "pty.master_open", "pty.slave_open",
    "sqlite3.version", "sqlite3.version_info", "urllib.parse.Quoter",
    "urllib.request.URLopener", "urllib.request.FancyURLopener",
}  # fmt: skip


def ruff(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if found is None:
        pytest.skip("no ruff: pip install -e '.[dev]'")
    command = [found, "check", "--isolated", "--no-cache", "--output-format=concise", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def used(text: str) -> set[str]:
    """Return the dotted names that a module imports or reads."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return names


@pytest.mark.parametrize(
    ("version", "places"),
    [
        ("py38", ["gaudi_patch/inside"]),
        ("py39", ["patches/runtime"]),
        ("py310", ["gaudi_patch"]),
        ("py314", ["gaudi_patch", "patches/runtime", "tests"]),
    ],
)
def test_every_module_is_written_in_the_syntax_of_the_oldest_and_the_newest_python(
    version: str, places: list[str]
) -> None:
    """B012: leaving a `finally` by a jump is a SyntaxWarning in 3.14 (PEP 765)."""
    done = ruff("--target-version", version, "--select", "E9,F7,B012", *(ROOT / place for place in places))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_parser_knows_the_versions(tmp_path: Path) -> None:
    file = tmp_path / "new.py"
    file.write_text("try:\n    pass\nexcept ValueError, TypeError:\n    pass\n")
    assert ruff("--target-version", "py314", "--select", "E9", file).returncode == 0
    done = ruff("--target-version", "py313", "--select", "E9", file)
    assert done.returncode == 1, done.stdout


def test_no_module_uses_a_name_that_python_3_14_has_removed() -> None:
    assert used("import ast, pkgutil\nfrom asyncio import get_child_watcher\npkgutil.find_loader('x')") & REMOVED
    files = [*(ROOT / "gaudi_patch").rglob("*.py"), *(ROOT / "patches/runtime").rglob("*.py")]
    assert len(files) > 150
    assert {str(file): found for file in files if (found := used(file.read_text()) & REMOVED)} == {}

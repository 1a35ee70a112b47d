"""A value has one home; if the layers forbid an import, each home is named here and all of them agree."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from gaudi_patch.doctor import internal_api
from gaudi_patch.emulator import options
from gaudi_patch.recipes import settings
from gaudi_patch.smoke import levels, outcome

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "gaudi_patch").rglob("*.py"), *(ROOT / "patches/runtime").rglob("*.py")]


def _values(tree: ast.AST) -> set[str]:
    """Return the literals of a module as source, plus "GIB" if it names 1024**3."""
    values = {repr(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named = {ast.unparse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)}
    return values | ({"GIB"} if named & {"1024 ** 3", "1 << 30", "2 ** 30"} else set())


WRITTEN = {str(file.relative_to(ROOT)): _values(ast.parse(file.read_text())) for file in SOURCES}


@pytest.mark.parametrize(
    ("value", "homes"),
    [
        ("'HPU_EMULATOR_DEVICE'", {"emulator/options.py", "smoke/levels.py", "smoke/probes/_vllm/setup.py"}),
        ("'0.0.0.0'", {"recipes/settings.py", "doctor/internal_api.py"}),
        ("20240229", {"smoke/probes/_probe.py"}),
        (
            "GIB",
            {
                "sizing/plan.py",
                "smoke/probes/_probe.py",  # these run in the target
                "smoke/vllm_plugin/gaudi_smoke_hpu/worker.py",
                "pool.py",
            },
        ),
    ],
)
def test_a_value_is_written_where_the_layers_allow_no_import_and_nowhere_else(value: str, homes: set[str]) -> None:
    folders = ("gaudi_patch/", "patches/runtime/lmcache/gaudi/")
    found = {name for name, values in WRITTEN.items() if value in values}
    assert {name.removeprefix(folders[0]).removeprefix(folders[1]) for name in found} == homes


def _alone(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"alone_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_homes_that_may_not_import_each_other_hold_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(levels.PROBES))  # where probes find each other
    assert options.DEVICE_VARIABLE == levels.DEVICE_VARIABLE
    assert settings.EVERYWHERE == internal_api._EVERYWHERE
    assert _alone(levels.PROBES / "_probe.py").EXIT == outcome.EXIT_STATUS

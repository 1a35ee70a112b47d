"""Functions exchange types: a dict with mixed values under string keys is JSON, and stays at its border."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "gaudi_patch"

#: Functions that make the JSON of a type or of a question, in any module.
MAKERS = {"to_json", "as_data", "_question"}
#: Modules that read or write other programs' JSON, YAML or TOML.
BORDERS = (
    "commands/",  # the published output
    "attestation/",  # documents of other tools, validated by their schemas
    "inside/",  # answers of scripts in the target
    "recipes/targets/",  # manifests and compose files
    "emulator/device.py",  # events of the C++ side
    "emulator/prebuilt.py",  # the trailer of a compiled device
    "engine/strict.py",  # state and journal, before they are checked
    "target/ask.py",  # answers of scripts, before they are checked
    "verify/client.py",  # answers of a server
    "authoring/source.py",  # the manifest
    "doctor/arguments.py",  # vLLM's and LMCache's settings, as given by a user
    "smoke/probes/_kv/backends.py",  # LMCache's settings
    "smoke/probes/_kv/server.py",  # LMCache's messages
    "smoke/probes/_vllm/setup.py",  # the same
)


def mixed(source: str) -> list[str]:
    """Return the functions that return dicts of mixed values under string keys."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None
        if any(kind in ast.unparse(node.returns) for kind in ("[str, Any]", "[str, object]"))
    ]


def test_no_dict_by_string_keys_goes_from_function_to_function() -> None:
    found = {
        f"{name}: {function}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if not (name := str(file.relative_to(PACKAGE))).startswith(BORDERS)
        for function in mixed(file.read_text())
        if function not in MAKERS
    }
    assert found == set()


def test_every_border_is_one() -> None:
    for border in BORDERS:
        files = PACKAGE.glob(f"{border}**/*.py") if border.endswith("/") else [PACKAGE / border]
        assert any(mixed(file.read_text()) for file in files), border


def test_a_dict_is_seen_under_any_wrapping() -> None:
    assert mixed("def one() -> list[dict[str, Any]]: ...") == ["one"]
    assert mixed("async def two() -> Mapping[str, object] | None: ...") == ["two"]
    assert mixed("def three() -> dict[str, int]: ...") == []

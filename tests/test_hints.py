"""Every hint and message of an error in the source has the form of docs/style.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaudi_patch.cli import COMMANDS
from gaudi_patch.output.typed import _COMMAND

PACKAGE = Path(__file__).parents[1] / "gaudi_patch"
#: The functions that make an error, and the position of their hint; the message is the argument before it.
HINT = {"GaudiPatchError": 3, "refusal": 2, "refused": 2, "bad_target": 1, "bad_patch": 3, "bad_manifest": 3}
#: All other functions that return an error: each of their texts is a part of it.
MAKERS = {
    node.name
    for file in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef) and getattr(node.returns, "id", "") == "GaudiPatchError"
} - set(HINT)


def _texts(node: ast.expr, end: int) -> Iterator[str]:
    """Yield the literal text at one end (0 or -1) of a hint: of each form that it can take."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr) and node.values:
        yield from _texts(node.values[end], end)
    elif isinstance(node, ast.BinOp):
        yield from _texts(node.right if end else node.left, end)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, end)
        yield from _texts(node.orelse, end)


def _literals(node: ast.AST) -> Iterator[str]:
    """Yield every literal text in order."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _literals(child)


def _hints_and_messages(tree: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """Yield each expression for a hint or a message, and whether it is a hint."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in HINT:
                place = HINT[name]
                yield from ((hint, True) for hint in node.args[place : place + 1])
                yield from ((message, False) for message in node.args[place - 1 : place] if place > 1)
            elif name in MAKERS:
                yield from ((text, False) for text in node.args)
            yield from ((keyword.value, True) for keyword in node.keywords if keyword.arg == "hint")
        elif isinstance(node, ast.Assign):
            names = {getattr(target, "id", getattr(target, "attr", "")) for target in node.targets}
            if names & {"hint", "what", "message"}:
                yield node.value, "hint" in names


def unmarked(node: ast.expr) -> list[str]:
    """Return the commands in a hint that output/typed.py does not see: without the program's path they may not run."""
    text = "{}".join(_literals(node))
    seen = {match.start() for match in _COMMAND.finditer(text)}
    return [
        f"{node.lineno}: quote the command: {match[0]}"
        for match in re.finditer(rf"\bgaudi-patch (?:{'|'.join(COMMANDS)})\b", text)
        if match.start() not in seen
    ]


def faults_of(source: str) -> list[str]:
    """Return the texts that begin with a capital or show a name in braces, and hints with a needless full stop."""
    faults = []
    for node, is_hint in _hints_and_messages(ast.parse(source)):
        for text in _texts(node, 0):
            first = text.partition(" ")[0]
            if first[:1].isupper() and first[1:].islower():  # PATH and LMCache are names
                faults.append(f"{node.lineno}: begins with a capital: {text[:60]}")
        for text in _literals(node):
            faults += [f"{node.lineno}: is shown as it is: {name}" for name in re.findall(r"\{[A-Za-z_][\w.]*\}", text)]
        if is_hint:
            faults += unmarked(node)
        inside = ". " in "x".join(_literals(node))
        for text in _texts(node, -1):
            if is_hint and text.endswith(".") and not inside:
                faults.append(f"{node.lineno}: one sentence ends with a full stop: {text[-60:]}")
    return faults


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_hints_and_messages_have_the_form_of_the_style_guide(file: Path) -> None:
    assert faults_of(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        'refusal("code", "a fault", "Give another.")',
        'bad_target("a fault", "give another" if one else f"Use {it}")',
        'hint = f"remove {it}" + "."',
        'hint = f"look at {it}, then gaudi-patch dev lint"',
        'raise GaudiPatchError(Exit.USAGE, "code", f"Damaged {it}", "look at it")',
        'raise GaudiPatchError(Exit.USAGE, "code", f"{it} is damaged", hint="Look at it")',
        'raise damaged_state(file, "Holds nothing")',
        'what = "Nothing" if empty else f"Only {it}"',
        'message = "set {VARIABLE}=0, or " f"look at {it}"',
    ],
)
def test_the_rule_finds_each_form(source: str) -> None:
    assert faults_of(source) != []

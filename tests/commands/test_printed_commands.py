"""Every command line in the source's texts parses: the command exists and accepts these options and arguments."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import gaudi_patch
from gaudi_patch import cli
from gaudi_patch.target.invocation import WITHOUT_TARGET

PACKAGE = Path(gaudi_patch.__file__).parent
#: Replaces each value that a text fills in.
FILLED = "FILLED"
QUOTED = re.compile(r"`(gaudi-patch(?: [^`]*)?)`")
#: In prose, a command ends with the clause.
BARE = re.compile(r"(?<![`\w/-])gaudi-patch [^`,;:()|\n]*")
ROOT = typer.main.get_command(cli.app)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the string literals with their lines, including docstrings, which are the commands' help."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else FILLED for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def calls(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """Yield the words that ``command_line`` makes of its arguments, after it adds target and manifest."""
    for node in ast.walk(tree):
        called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and called in ("command_line", "command"):
            given = [word for word in node.args if not isinstance(word, ast.Starred)]
            words = [word.value if isinstance(word, ast.Constant) else FILLED for word in given]
            if words and words[0] != FILLED and isinstance(words[0], str):
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                added = ["--manifest", FILLED] if called == "command" or "manifest" in options else []
                if words[0].split()[0] not in WITHOUT_TARGET and options.get("target") != "Target()":
                    added += ["--python", FILLED, "--path", FILLED]
                    added += ["--root", FILLED] if words[0] != "smoke" else []  # nothing of an image is run
                yield node.lineno, [*words[0].split(), *map(str, words[1:]), *added]


def command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the named command and the remaining words; None if the command does not exist."""
    found, rest = ROOT, list(words)
    while hasattr(found, "get_command"):
        if not rest or rest[0].startswith("-"):
            return found, rest
        found = found.get_command(typer.Context(found), rest.pop(0))
    return found, rest


def fault(words: list[str]) -> str:
    """Return why the words after ``gaudi-patch`` are not a valid command line; "" if they are."""
    found, rest = command(words)
    if found is None:
        return "no such command"
    try:
        _, more, _ = found.make_parser(typer.Context(found)).parse_args([word for word in rest if word != "..."])
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("click", "typer"):
            raise
        return str(error)
    return f"takes no {more}" if more and not hasattr(found, "get_command") else ""


def prose_fault(text: str) -> str:
    """Check only the options of a command line that may end in prose; "" if it names no command."""
    words = text.split()[1:]
    found, rest = command(words)
    if found is None or hasattr(found, "get_command"):
        return ""
    known = {name for param in found.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    strange = [word for word in rest if re.fullmatch(r"--[a-z][a-z-]*", word.partition("=")[0]) and word not in known]
    return f"has no {strange}" if strange else ""


def faults_of(source: str, name: str) -> tuple[int, list[str]]:
    tree, count, wrong = ast.parse(source), 0, list[str]()
    for line, text in texts(tree):
        for shown in QUOTED.findall(text):
            count += 1
            words = shlex.split(shown.partition(" | ")[0])[1:]
            if words[:1] != ["VERB"] and (why := fault(words)):
                wrong.append(f"{name}:{line}: {shown}: {why}")
        for shown in BARE.findall(text):
            count += 1
            if why := prose_fault(shown):
                wrong.append(f"{name}:{line}: {shown}: {why}")
    for line, words in calls(tree):
        count += 1
        if why := fault(words):
            wrong.append(f"{name}:{line}: {' '.join(words)}: {why}")
    return count, wrong


def test_every_command_line_of_a_text_parses() -> None:
    total, wrong = 0, list[str]()
    for file in sorted(PACKAGE.rglob("*.py")):
        count, found = faults_of(file.read_text(), str(file.relative_to(PACKAGE)))
        total += count
        wrong += found
    assert wrong == []
    assert total > 100  # the search works


@pytest.mark.parametrize(
    "source",
    [
        'hint = "`gaudi-patch chekc`"',
        'hint = f"`gaudi-patch check --pyton {path}`"',
        'hint = "`gaudi-patch guide one two`"',
        'hint = "see gaudi-patch list --nothing"',
        'hint = command_line("apply", "--nothing", target=target)',
        'hint = command_line("aply", target=target)',
    ],
)
def test_a_command_line_that_is_none_is_found(source: str) -> None:
    assert len(faults_of(source, "hints.py")[1]) == 1

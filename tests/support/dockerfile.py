"""A Dockerfile read as instructions, and carried out step by step in a `Container`, which is no container engine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.support.container import Container


class Instruction(NamedTuple):
    """One instruction: its word in capitals, the rest, and the line it starts at."""

    word: str
    text: str
    line: int


class BuildError(RuntimeError):
    """A step failed; the message holds its command and its output."""


def parse(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile: comments dropped, continued lines joined as the shell gets them."""
    found: list[Instruction] = []
    pending: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start if pending else number
        continued = line.rstrip().endswith("\\")
        pending.append(line.rstrip().removesuffix("\\") if continued else line)
        if not continued:
            word, _, rest = "".join(pending).strip().partition(" ")
            found.append(Instruction(word.upper(), rest.strip(), start))
            pending = []
    if pending:
        raise ValueError(f"line {start}: the last instruction is not finished")
    return found


def expand(text: str, values: Mapping[str, str]) -> str:
    """$NAME and ${NAME}, as Docker expands them in instructions other than RUN."""
    return re.sub(
        r"\$(?:\{(\w+)\}|(\w+))", lambda match: values.get(match.group(1) or match.group(2), ""), text
    )  # fmt: skip


def build(text: str, container: Container, arguments: Mapping[str, str]) -> list[Instruction]:
    """Carry out the last stage of a Dockerfile in ``container``; returns the instructions that were carried out.

    ``arguments`` are those of --build-arg; one that no ARG names is an error, as a misspelt one should be.
    """
    instructions = parse(text)
    unknown = set(arguments) - {one.text.partition("=")[0] for one in instructions if one.word == "ARG"}
    if unknown:
        raise BuildError(f"no ARG is called {', '.join(sorted(unknown))}")
    last = max(number for number, one in enumerate(instructions) if one.word == "FROM")
    before: dict[str, str] = {}
    stages: dict[str, str] = {}
    for one in instructions[: last + 1]:
        if one.word == "ARG":
            _argument(one, before, before, arguments)
        elif one.word == "FROM":
            image, _, alias = expand(one.text, before).partition(" AS ")
            stages[alias] = image
    container.start(stages[""])
    for one in instructions[last + 1 :]:
        _STEPS[one.word](one, container, stages, arguments)
    return instructions[last + 1 :]


def _argument(one: Instruction, into: dict[str, str], values: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    name, given, default = one.text.partition("=")
    if name in arguments:
        into[name] = arguments[name]
    elif given:
        into[name] = expand(shlex.split(default)[0] if default else "", values)


def _arg(one: Instruction, container: Container, stages: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    _argument(one, container.arguments, {**container.env, **container.arguments}, arguments)


def _env(one: Instruction, container: Container, stages: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    for part in shlex.split(one.text):
        name, _, value = part.partition("=")
        container.env[name] = expand(value, {**container.env, **container.arguments})


def _user(one: Instruction, container: Container, stages: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    container.user = expand(one.text, {**container.env, **container.arguments})


def _copy(one: Instruction, container: Container, stages: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    *options, source, target = one.text.split()
    if options:
        container.copy(stages[options[0].removeprefix("--from=")], source, target)
    else:
        container.copy_from_context(source, target)


def _run(one: Instruction, container: Container, stages: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    done = container.run(["/bin/sh", "-c", one.text], container.arguments)
    if done.returncode:
        raise BuildError(f"line {one.line}: {one.text}\nended with {done.returncode}\n{done.stdout}{done.stderr}")


_STEPS: Mapping[str, Callable[[Instruction, Container, Mapping[str, str], Mapping[str, str]], None]] = {
    "ARG": _arg, "COPY": _copy, "ENV": _env, "RUN": _run, "USER": _user,
}  # fmt: skip


def snippets(markdown: Path, language: str) -> Iterator[str]:
    """Yield the fenced blocks of a language in a Markdown file."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", markdown.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1]

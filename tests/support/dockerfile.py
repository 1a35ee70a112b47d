"""A Dockerfile parsed into instructions, and executed stage by stage in a stand-in for a container engine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence


class Instruction(NamedTuple):
    """One instruction: its word in capitals, the rest, and its first line number."""

    word: str
    text: str
    line: int


class BuildError(RuntimeError):
    """A step failed; the message holds its command and its output."""


class Machine(Protocol):
    """The interface that executes the steps."""

    arguments: dict[str, str]
    env: dict[str, str]
    user: str
    layered: bool

    def here(self, text: str) -> str: ...
    def start(self, image: str) -> None: ...
    def state(self) -> Any: ...
    def resume(self, state: Any) -> None: ...
    def copy(self, image: str, source: str, target: str) -> None: ...
    def copy_from_context(self, pattern: str, target: str) -> None: ...
    def copy_from_stage(self, state: Any, source: str, target: str) -> None: ...
    def run(
        self, command: Sequence[str], more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@dataclass
class Stage:
    """A stage of a Dockerfile: its base, an image or an earlier stage, and its instructions."""

    start: str
    steps: list[Instruction] = field(default_factory=list)


@dataclass
class Build:
    """One run of a Dockerfile. ``states`` maps each finished stage's alias or number to its state."""

    container: Machine
    arguments: Mapping[str, str]
    outer: dict[str, str]
    stages: dict[str, Stage]
    states: dict[str, Any] = field(default_factory=dict)
    done: list[Instruction] = field(default_factory=list)
    started: bool = False

    def carry_out(self, name: str) -> None:
        """Execute a stage after the stages that it needs and, like BuildKit, no others."""
        if name in self.states:
            return
        stage = self.stages[name]
        for needed in (*(source for one in stage.steps if (source := _source_stage(one))), stage.start):
            if needed in self.stages:
                self.carry_out(needed)
        if stage.start in self.stages:
            self.container.resume(self.states[stage.start])
        elif stage.steps or name == next(reversed(self.stages)) or self._is_started_from(name):
            assert self.container.layered or not self.started, "without layers there is one chain of stages"
            self.started = True
            self.container.start(stage.start)
        else:
            return  # an image named only by COPY --from
        self.container.arguments = {}
        for one in stage.steps:
            _STEPS[one.word](one, self)
            self.done.append(one)
        self.states[name] = self.container.state()

    def _is_started_from(self, name: str) -> bool:
        return any(stage.start == name for stage in self.stages.values())

    def values(self) -> dict[str, str]:
        return {**self.container.arguments, **self.container.env}


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
    """Expand $NAME, ${NAME}, ${NAME:-default} and ${NAME:+word}, as Docker does in instructions other than RUN."""

    def value(match: re.Match[str]) -> str:
        given = values.get(match["name"] or match["plain"], "")
        if match["how"] == ":+":
            return match["word"] if given else ""
        return given or match["word"] or ""

    return re.sub(r"\$(?:\{(?P<name>\w+)(?:(?P<how>:[-+])(?P<word>[^}]*))?\}|(?P<plain>\w+))", value, text)


def build(text: str, container: Machine, arguments: Mapping[str, str]) -> list[Instruction]:
    """Execute the last stage of a Dockerfile and the stages that it needs; return the executed steps in order.

    ``arguments`` are those of --build-arg; one that no ARG names is an error, to catch misspellings.
    """
    instructions = parse(container.here(text))
    unknown = set(arguments) - {one.text.partition("=")[0] for one in instructions if one.word == "ARG"}
    if unknown:
        raise BuildError(f"no ARG is called {', '.join(sorted(unknown))}")
    outer: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    name = ""
    for one in instructions:
        if one.word == "FROM":
            image, _, alias = expand(one.text, outer).partition(" AS ")
            name = alias or str(len(stages))
            stages[name] = Stage(image)
        elif not stages:
            assert one.word == "ARG", one
            _argument(one, outer, outer, {}, arguments)
        else:
            stages[name].steps.append(one)
    carried_out = Build(container, arguments, outer, stages)
    carried_out.carry_out(name)
    return carried_out.done


def _source_stage(one: Instruction) -> str | None:
    match = re.match(r"--from=(\S+) ", one.text) if one.word == "COPY" else None
    return match[1] if match else None


def _argument(
    one: Instruction,
    into: dict[str, str],
    values: Mapping[str, str],
    outer: Mapping[str, str],
    arguments: Mapping[str, str],
) -> None:
    name, given, default = one.text.partition("=")
    if name in arguments:
        into[name] = arguments[name]
    elif given:
        into[name] = expand(shlex.split(default)[0] if default else "", values)
    elif name in outer:
        into[name] = outer[name]


def _arg(one: Instruction, build: Build) -> None:
    _argument(one, build.container.arguments, build.values(), build.outer, build.arguments)


def _env(one: Instruction, build: Build) -> None:
    for part in shlex.split(one.text):
        name, _, value = part.partition("=")
        build.container.env[name] = expand(value, build.values())


def _user(one: Instruction, build: Build) -> None:
    build.container.user = expand(one.text, build.values())


def _copy(one: Instruction, build: Build) -> None:
    *options, source, target = one.text.split()
    if not options:
        build.container.copy_from_context(source, target)
        return
    start = options[0].removeprefix("--from=")
    stage = build.stages[start]
    if stage.steps:
        build.container.copy_from_stage(build.states[start], source, target)
    else:
        build.container.copy(stage.start, source, target)


def _run(one: Instruction, build: Build) -> None:
    done = build.container.run(["/bin/sh", "-c", one.text], build.container.arguments)
    if done.returncode:
        raise BuildError(f"line {one.line}: {one.text}\nended with {done.returncode}\n{done.stdout}{done.stderr}")


_STEPS: Mapping[str, Callable[[Instruction, Build], None]] = {
    "ARG": _arg, "COPY": _copy, "ENV": _env, "RUN": _run, "USER": _user,
}  # fmt: skip


def snippets(markdown: Path, language: str) -> Iterator[str]:
    """Yield the fenced blocks of a language in a Markdown file."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", markdown.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1]

"""Annotations and the job summary of a GitHub workflow.

Formats: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.escape import visible
from gaudi_patch.output.plain import escaped, plain
from gaudi_patch.output.result import Block, Result, Table, Text

#: Characters with a meaning in Markdown or HTML, including @ for mentions and : for links and emoji.
_MARKUP = re.compile(r"[&<>\"'`*_\[\]|\\~@#!$]|:(?=//|[a-z+-][\w+-]*:)")


def workflow_commands(result: Result) -> str:
    """Return the workflow commands: one per error, one per warning, and one if something remains to be done."""
    lines = [error_annotation(error) for error in result.errors]
    lines += [_command("warning", {}, visible(text)) for text in result.warnings]
    lines += [_command("warning", _title(notice.code), visible(notice.message)) for notice in result.notices]
    if result.exit is Exit.PENDING and not result.errors and not result.notices:
        lines.append(_command("warning", _title("pending"), pending(result)))
    return "".join(lines)


def pending(result: Result) -> str:
    """Return the meaning of exit code 10, and the next step given by the result."""
    steps = [
        visible(block.text.strip()) for block in result.blocks if isinstance(block, Text) and block.style == "next"
    ]
    state = "patched with other patches" if result.data.get("state") == "outdated" else "not patched"
    return "\n".join([f"{result.command}: {state}; a series would apply", *steps])


def error_annotation(error: GaudiPatchError) -> str:
    """Return a workflow command that marks the line of a patch in a pull request."""
    properties = {"file": error.file, "line": str(error.line) if error.line else "", **_title(error.code)}
    lines = [error.message, *error.details, error.hint]
    return _command("error", properties, "\n".join(map(visible, lines)).rstrip())


def _title(code: str) -> dict[str, str]:
    return {"title": f"gaudi-patch {code}"}


def _command(kind: str, properties: dict[str, str], message: str) -> str:
    # Escapes: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    listed = ",".join(
        f"{name}={data(visible(value)).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
        if value
    )
    return f"::{kind} {listed}::{data(message)}\n" if listed else f"::{kind}::{data(message)}\n"


def append_summary(result: Result) -> str:
    """Append tables and errors to the job summary; return why that failed, "" if it did not."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return ""
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("\n".join(summary(result)) + "\n")
    except OSError as error:
        return str(error)
    return ""


def summary(result: Result) -> Iterator[str]:
    """Yield the lines of the job summary: Markdown in which text from a target has no markup."""
    yield f"### gaudi-patch {result.command}: exit {int(result.exit)}\n"
    for error in result.errors:
        yield f"- **error** {literal(str(error))}"
        yield from (f"  - {literal(line)}" for line in [*error.details, *([error.hint] if error.hint else [])])
    yield from (f"- **warning** {literal(text)}" for text in result.warnings)
    yield from (f"- **warning** {literal(f'{notice.code}: {notice.message}')}" for notice in result.notices)
    for block in result.blocks:
        yield ""
        yield from _lines(block)


def literal(text: str) -> str:
    """Return one line of Markdown that shows ``text`` literally."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", visible(text))


def _lines(block: Block) -> Iterator[str]:
    block = escaped(block)
    if isinstance(block, Table):
        yield from ([f"**{literal(block.title)}**", ""] if block.title else [])
        yield "| " + " | ".join(map(literal, block.columns)) + " |"
        yield "|" + " --- |" * len(block.columns)
        yield from ("| " + " | ".join(literal(str(cell)) for cell in row) + " |" for row in block.rows)
        return
    text = plain(block).rstrip("\n")
    # The fence must be longer than any run of backticks in the text, which would end it.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    yield from (fence, text, fence)

"""The help of a command as a manual page: what it does, its options, and examples to copy."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter


class Example(NamedTuple):
    """An example: when to use it ("" for any time), and the lines to type."""

    when: str
    lines: tuple[str, ...]


def split(text: str) -> tuple[str, list[Example]]:
    """Return a docstring without its examples, and the examples.

    An example begins with a line ``Example:`` or ``Example, WHEN:`` and ends with the next one.
    """
    head, *rest = re.split(r"^Example(?:, ([^:]+))?:\n", text, flags=re.MULTILINE)
    examples = [
        Example(" ".join((when or "").split()), tuple(textwrap.dedent(lines.strip("\n")).rstrip().splitlines()))
        for when, lines in zip(rest[::2], rest[1::2], strict=True)
    ]
    return head.rstrip(), examples


def summary(text: str) -> str:
    """Return the first sentence of a help text."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".") + "."


class Manual(TyperCommand):
    """A command whose examples end its help, line for line: a line that is wrapped cannot be copied."""

    def __init__(self, name: str | None, *, help: str | None = None, **more: Any) -> None:  # noqa: A002, ANN401 - click's own names
        text, self.examples = split(help or "")
        super().__init__(name, help=text, **more)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the whole first sentence: it is wrapped, where click would cut it off."""
        return summary(self.help or "")

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the examples."""
        with formatter.section("Examples"):
            for number, example in enumerate(self.examples):
                if number:
                    formatter.write("\n")
                if example.when:
                    formatter.write_text(f"{example.when[0].upper()}{example.when[1:]}:")
                for line in example.lines:
                    formatter.write(f"{'':{formatter.current_indent + 2}}{line}\n")

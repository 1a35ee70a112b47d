"""Blocks and errors as plain lines, for pipes, logs and terminals without rich."""

from __future__ import annotations

from collections.abc import Iterable

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output import wrapping
from gaudi_patch.output.escape import visible, visible_lines
from gaudi_patch.output.result import Block, Fields, Table, Text
from gaudi_patch.output.typed import as_typed


def escaped(block: Block) -> Block:
    """Return ``block`` with everything unprintable escaped; remaining newlines are layout."""
    if isinstance(block, Fields):
        return Fields([(visible(name), _value(value)) for name, value in block.rows])
    if isinstance(block, Table):
        rows = [[visible(str(cell)) for cell in row] for row in block.rows]
        return block._replace(columns=[visible(name) for name in block.columns], rows=rows, title=visible(block.title))
    if isinstance(block, Text):
        inner = block.text.strip("\n")
        before = len(block.text) - len(block.text.lstrip("\n")) if inner else 0
        inner = as_typed(inner) if inner.startswith("next: ") else inner
        return block._replace(text="\n" * before + visible(inner))
    return block._replace(text=visible_lines(block.text))


def _value(text: str) -> str:
    return wrapping.Whole(visible(as_typed(text))) if isinstance(text, wrapping.Whole) else visible(as_typed(text))


def plain(block: Block, width: int | None = None) -> str:
    """Return the lines for a pipe: no colour, columns two spaces apart, 80 wide unless COLUMNS is set."""
    width = wrapping.width_of() if width is None else width
    block = escaped(block)
    if isinstance(block, Fields):
        return wrapping.fields(block.rows, width)
    if isinstance(block, Table):
        title = f"{wrapping.prose(block.title, width)}\n" if block.title else ""
        return title + wrapping.table(block.columns, block.rows, width)
    text = sentence(block, width) if isinstance(block, Text) else block.text
    return text if text.endswith("\n") else f"{text}\n"


def sentence(block: Text, width: int) -> str:
    """Return the text, wrapped at spaces; a line with a path or a command to paste is not wrapped."""
    whole = block.verbatim or block.text.startswith("next: ")
    return block.text if whole else wrapping.prose(block.text, width)


def all_plain(blocks: Iterable[Block]) -> str:
    """Return the lines of several blocks."""
    return "".join(map(plain, blocks))


def error_lines(error: GaudiPatchError) -> list[str]:
    """Return what happened and in which file, then the details, then what to do next."""
    lines = [as_typed(f"error: {error}")]
    lines += [as_typed(f"  {line}") for line in error.details]
    if error.hint:
        lines.append(f"  next: {as_typed(error.hint)}")
    return [visible(line) for line in lines]

"""Convert patch bytes to FileDiff and back, strictly.

unidiff builds the files and hunks, but silently drops what it does not know: text around the diffs, lines beyond a
hunk's count, a malformed second header, context and combined diffs. So a guard first proves that every line is legal
in its place, and names a line that is not. What unidiff built must then match these lines byte for byte. Only the
output of ``git diff`` for text files is accepted:

* * one ``diff --git`` section per file, prefixes a/ and b/, extended headers in git's order, no file twice;
* names in C quotes are unquoted to their bytes, which must be UTF-8 (as a wheel's RECORD is), see `path_names`;
* timestamps after a name are ignored: only ``/dev/null`` with its ``new``/``deleted file mode`` creates or deletes;
* renames, copies, symbolic links, submodules, binary files and modes but 100644 and 100755 are refused;
* hunks with context, in order; one without leading (trailing) context only at the beginning (end) of its file, so
  that a hunk without any is the whole file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING

from gaudi_patch.errors import bad_patch
from gaudi_patch.series.diff_syntax import DEV_NULL, NO_NEWLINE, Head, Kind, Section, guard, show
from gaudi_patch.series.hunks import Hunk
from gaudi_patch.series.path_names import quote

if TYPE_CHECKING:
    from unidiff.patch import Hunk as BuiltHunk

__all__ = ["FileDiff", "Hunk", "Kind", "parse", "render"]


@dataclass(frozen=True, slots=True)
class FileDiff:
    """The part of a patch for one file.

    ``path`` is relative, POSIX, without a/ and b/. Modes are permission bits (0o644, 0o755), None if the patch gives
    none. Blobs are the ids of the ``index`` line, "" without one. ``line`` is where the section begins in the patch
    file, from 1.
    """

    path: str
    kind: Kind
    old_mode: int | None
    new_mode: int | None
    old_blob: str
    new_blob: str
    hunks: tuple[Hunk, ...]
    line: int = field(default=0, compare=False)


def parse(data: bytes, name: str) -> tuple[FileDiff, ...]:
    """Parse a patch; ``name`` is its name in messages. Raises a bad-patch error with the line at fault."""
    return tuple(_build(guard(data, name), data, name))


def render(files: Sequence[FileDiff]) -> bytes:
    """Write the patch as ``git diff --full-index`` does, with the ids in ``files``.

    Raises ValueError for a mode that such a patch cannot express.
    """
    out: list[bytes] = []
    for file in files:
        old, new = (quote(prefix + file.path.encode()) for prefix in (b"a/", b"b/"))
        out.append(b"diff --git %b %b\n" % (old, new))
        mode = b""
        if file.kind is Kind.CREATE:
            out.append(b"new file mode %b\n" % _mode(file.new_mode))
            old = DEV_NULL
        elif file.kind is Kind.DELETE:
            out.append(b"deleted file mode %b\n" % _mode(file.old_mode))
            new = DEV_NULL
        elif file.old_mode != file.new_mode:
            out.append(b"old mode %b\nnew mode %b\n" % (_mode(file.old_mode), _mode(file.new_mode)))
        elif file.old_mode is not None:
            if not file.old_blob:
                raise ValueError("an unchanged mode is written in the index line, and there is none")
            mode = b" " + _mode(file.old_mode)
        if file.old_blob:
            out.append(b"index %b..%b%b\n" % (file.old_blob.encode(), file.new_blob.encode(), mode))
        if file.hunks:
            out += (b"--- " + _with_tab(old), b"+++ " + _with_tab(new))
        for hunk in file.hunks:
            out += _render_hunk(hunk)
    return b"".join(out)


def _mode(bits: int | None) -> bytes:
    if bits not in (0o644, 0o755):
        raise ValueError(f"{bits!r} is not the mode of a file in a patch")
    return b"100%03o" % bits


def _with_tab(name: bytes) -> bytes:
    # git ends a name containing a space with a tab, because readers may take text after the space as a timestamp.
    return name + (b"\t\n" if b" " in name else b"\n")


def _render_hunk(hunk: Hunk) -> Iterator[bytes]:
    old = b"%d" % hunk.old_start if hunk.old_count == 1 else b"%d,%d" % (hunk.old_start, hunk.old_count)
    new = b"%d" % hunk.new_start if hunk.new_count == 1 else b"%d,%d" % (hunk.new_start, hunk.new_count)
    yield b"@@ -%b +%b @@%b\n" % (old, new, b" " + hunk.section if hunk.section else b"")
    for tag, text in hunk.lines:
        yield tag + text
        if not text.endswith(b"\n"):
            yield b"\n" + NO_NEWLINE


def _build(sections: list[Section], data: bytes, name: str) -> Iterator[FileDiff]:
    """Yield the files that unidiff builds from the patch, which must match what the guard saw, byte for byte."""
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    at = 0

    def text_lines() -> Iterator[str]:
        nonlocal at
        # latin-1 maps bytes to characters one to one. StringIO with "\n" leaves a CR alone.
        for at, line in enumerate(StringIO(data.decode("latin-1"), newline="\n"), 1):  # noqa: B007 - read after the loop, by the error below
            yield line

    try:
        files = PatchSet(text_lines())
    except UnidiffParseError as error:
        raise bad_patch(f"unidiff does not read it: {show(str(error))}", name, at) from error
    if len(files) != len(sections):
        raise bad_patch(f"unidiff reads {len(files)} files, not {len(sections)}", name, 1)
    for section, built in zip(sections, files, strict=True):
        if len(built) != len(section.heads):
            raise bad_patch(f"unidiff reads {len(built)} hunks, not {len(section.heads)}", name, section.line)
        hunks = tuple(_hunk(*pair, name) for pair in zip(section.heads, built, strict=True))
        yield FileDiff(section.path, section.kind, *section.modes, *section.blobs, hunks, section.line)


def _hunk(head: Head, built: BuiltHunk, name: str) -> Hunk:
    """Convert a hunk of unidiff to a Hunk."""
    body: list[bytes] = []
    lines: list[tuple[bytes, bytes]] = []
    for line in built:
        tag, text = line.line_type.encode("latin-1"), line.value.encode("latin-1")
        body += (tag, text)
        if tag == b"\\":  # the LF before it belongs to the patch, not to the line
            tag, text = lines.pop()
            text = text[:-1]
        lines.append((tag, text))
    hunk = Hunk(
        built.source_start, built.source_length, built.target_start, built.target_length,
        tuple(lines), built.section_header.encode("latin-1"), head.line,
    )  # fmt: skip
    if (hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count, hunk.section) != head.header or (
        b"".join(body) != head.body
    ):
        raise bad_patch("unidiff reads this hunk differently", name, head.line)
    return hunk

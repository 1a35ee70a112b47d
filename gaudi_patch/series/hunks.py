"""Apply hunks to the original bytes, and return the new bytes.

Lines end at LF alone: a CR, a form feed or a U+2028 is a byte of the line. A hunk applies at its line number or, with
``allow_offset``, at the only place where its whole old side occurs. There is no fuzz. As in ``git apply``, a hunk
that ends without context belongs to the end of the file, and a hunk that starts at line 0 or 1 to its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO

MAX_PLACES = 100  # occurrences of a hunk in a file that are counted
MAX_SEARCHED = 1 << 28  # total bytes that the hunks of one file may search: a few seconds


@dataclass(frozen=True, slots=True)
class Hunk:
    r"""One hunk of a unified diff.

    ``lines`` contains pairs: b" ", b"-" or b"+", and the line's bytes with b"\n" (unless the file's last line lacks
    it). ``section`` is the text after the second @@, ``line`` the header's line in the patch file, from 1.
    """

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    lines: tuple[tuple[bytes, bytes], ...]
    section: bytes = b""
    line: int = field(default=0, compare=False)

    @property
    def old(self) -> list[bytes]:
        """Return the expected lines: context and removed."""
        return [text for tag, text in self.lines if tag != b"+"]

    @property
    def new(self) -> list[bytes]:
        """Return the resulting lines: context and added."""
        return [text for tag, text in self.lines if tag != b"-"]

    @property
    def index(self) -> int:
        """Return the number of original lines before the hunk; a side without lines is numbered by the line before
        it.
        """
        return self.old_start - 1 if self.old_count else self.old_start

    @property
    def at_end(self) -> bool:
        """Return whether the hunk ends without context, so that the file must end there."""
        return self.lines[-1][0] != b" "


class HunkMismatch(Exception):  # noqa: N818 - a name of the domain, and no fault of the program
    """A hunk does not fit the original.

    ``index`` counts hunks from 0; ``at`` is the original's line, from 1, where it failed; ``expected`` is b"" if the
    file should have ended, ``found`` None if it did end. ``reason`` is one of "context differs", "line endings
    differ", "past the end", "not unique", "not found", "too many hunks for a file of this size".
    """

    def __init__(
        self, hunk: Hunk, index: int, reason: str, at: int, expected: bytes = b"", found: bytes | None = None
    ) -> None:
        super().__init__(f"hunk {index + 1} does not apply at line {at}: {reason}")
        self.hunk = hunk
        self.index = index
        self.reason = reason
        self.at = at
        self.expected = expected
        self.found = found


def split(data: bytes) -> list[bytes]:
    """Split a file into lines, each with its LF, which only the last line may lack."""
    return BytesIO(data).readlines()


def apply(original: bytes, hunks: Sequence[Hunk], *, allow_offset: bool = False) -> bytes:
    """Return the patched bytes. The cost is the sum of original and hunks; with ``allow_offset`` it is their product.

    Raises HunkMismatch for the first hunk that does not fit, ValueError for hunks that overlap or are out of order
    (`diff.parse` returns no such hunks).
    """
    lines = split(original)
    starts = _find(lines, hunks) if allow_offset else [hunk.index for hunk in hunks]
    out: list[bytes] = []
    end = 0
    for number, (hunk, start) in enumerate(zip(hunks, starts, strict=True)):
        if start < end:
            raise ValueError(f"hunk {number + 1} overlaps the one before it")
        old = hunk.old
        if misfit := _misfit(lines, old, hunk, number, start):
            raise misfit
        out += lines[end:start]
        out += hunk.new
        end = start + len(old)
    out += lines[end:]
    return b"".join(out)


def offsets(original: bytes, hunks: Sequence[Hunk]) -> list[int]:
    """Return the offset in lines of each hunk with ``allow_offset``; raises HunkMismatch like `apply`."""
    starts = _find(split(original), hunks)
    return [start - hunk.index for hunk, start in zip(hunks, starts, strict=True)]


def _misfit(lines: list[bytes], old: list[bytes], hunk: Hunk, number: int, start: int) -> HunkMismatch | None:
    """Return what is wrong, unless ``old`` matches at ``start`` and, for a hunk at the end, ends the file."""
    stop = start + len(old)
    there = lines[start:stop]
    if there != old:
        for at, (expected, found) in enumerate(zip(old, there, strict=False), start + 1):
            if expected != found:
                same_text = expected.rstrip(b"\r\n") == found.rstrip(b"\r\n")
                reason = "line endings differ" if same_text else "context differs"
                return HunkMismatch(hunk, number, reason, at, expected, found)
        return HunkMismatch(hunk, number, "past the end", len(lines) + 1, old[len(there)])
    if start > len(lines):
        return HunkMismatch(hunk, number, "past the end", len(lines) + 1)
    if hunk.at_end and stop < len(lines):
        return HunkMismatch(hunk, number, "context differs", stop + 1, b"", lines[stop])
    return None


def _find(lines: list[bytes], hunks: Sequence[Hunk]) -> list[int]:
    """Find the place of each hunk's old side: unique in the file, in order, and at the edges that it requires."""
    text = b"\n" + b"".join(lines)
    if len(text) * len(hunks) > MAX_SEARCHED:
        raise HunkMismatch(hunks[0], 0, "too many hunks for a file of this size", 1)
    starts: list[int] = []
    end = 0
    for number, hunk in enumerate(hunks):
        old = hunk.old
        count, first = _places(text, old, len(lines), 2) if old else (0, 0)
        if old and not count:
            there = _misfit(lines, old, hunk, number, hunk.index)
            assert there is not None
            if there.reason != "line endings differ":
                there = HunkMismatch(hunk, number, "not found", there.at, there.expected, there.found)
            raise there
        start, expected = (first, old[0]) if old else (0, b"")
        if old and count > 1:
            # Search the whole file, not just the rest: in a file that has drifted, a copy before the last hunk is an
            # equally good match, and `git apply` may use it.
            raise HunkMismatch(hunk, number, "not unique", start + 1, expected)
        if start < end or (hunk.index == 0 and start):
            raise HunkMismatch(hunk, number, "not found", start + 1, expected)
        if misfit := _misfit(lines, old, hunk, number, start):
            raise misfit
        starts.append(start)
        end = start + len(old)
    return starts


def occurrences(lines: list[bytes], sides: list[list[bytes]]) -> list[tuple[int, int]]:
    """Return, for each sequence of lines, its number of occurrences in ``lines`` and the index of the first.

    (0, 0) means no occurrence, or a sequence without lines. At most MAX_PLACES are counted. The cost is one search of
    the whole file per sequence.
    """
    text = b"\n" + b"".join(lines)
    return [_places(text, side, len(lines), MAX_PLACES) if side else (0, 0) for side in sides]


def _places(text: bytes, side: list[bytes], count: int, most: int) -> tuple[int, int]:
    """Return the occurrences of one sequence; ``text`` is the file's ``count`` lines after an extra newline."""
    wanted = b"\n" + b"".join(side)
    if not side[-1].endswith(b"\n"):  # only a file's last line can lack the newline
        return (1, count - len(side)) if text.endswith(wanted) else (0, 0)
    places, at = 0, -1
    first = text.find(wanted)
    while places < most and (at := text.find(wanted, at + 1)) >= 0:
        places += 1
    return places, text.count(b"\n", 0, first + 1) - 1 if places else 0

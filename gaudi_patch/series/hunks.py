"""Original bytes and hunks in, new bytes out; nothing else.

Lines end at LF alone: a CR, a form feed or a U+2028 is a byte of the line. A hunk stands at its line number, or,
with ``allow_offset``, where its whole old side stands and nowhere else. There is no fuzz. As in ``git apply``, a
hunk that ends without context belongs to the end of the file, and one that starts at line 0 or 1 to its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO


@dataclass(frozen=True, slots=True)
class Hunk:
    r"""One hunk of a unified diff.

    ``lines`` holds (b" ", b"-" or b"+"; the line's bytes with their b"\n", which only a last line without one
    lacks). ``section`` is the text after the second @@, ``line`` the header's line in the patch file, from 1.
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
        """The lines it expects: context and removed."""
        return [text for tag, text in self.lines if tag != b"+"]

    @property
    def new(self) -> list[bytes]:
        """The lines it leaves: context and added."""
        return [text for tag, text in self.lines if tag != b"-"]

    @property
    def index(self) -> int:
        """How many lines of the original come before it (a side without lines is numbered by the line before)."""
        return self.old_start - 1 if self.old_count else self.old_start

    @property
    def at_end(self) -> bool:
        """It ends without context, so nothing of the file may follow it."""
        return self.lines[-1][0] != b" "


class HunkMismatch(Exception):  # noqa: N818 - a name of the domain, and no fault of the program
    """A hunk does not fit the original.

    ``index`` counts hunks from 0; ``at`` is the original's line, from 1, where it failed; ``expected`` is b"" where the
    file should have ended, ``found`` None where it did end. ``reason`` is one of "context differs", "line endings
    differ", "past the end", "not unique", "not found".
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
    """The lines of a file, each with its LF; only the last can lack it."""
    return BytesIO(data).readlines()


def apply(original: bytes, hunks: Sequence[Hunk], *, allow_offset: bool = False) -> bytes:
    """The patched bytes. The cost is linear in the original and the hunks.

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
    """By how many lines each hunk moves with ``allow_offset``; raises HunkMismatch as `apply` does."""
    starts = _find(split(original), hunks)
    return [start - hunk.index for hunk, start in zip(hunks, starts, strict=True)]


def _misfit(lines: list[bytes], old: list[bytes], hunk: Hunk, number: int, start: int) -> HunkMismatch | None:
    """What is wrong unless ``old`` is what stands at ``start`` and, for a hunk at the end, ends the file."""
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
    """Where each hunk's old side stands: once in the whole file, in order, and at the edges it names."""
    sides = [hunk.old for hunk in hunks]
    starts: list[int] = []
    end = 0
    for number, (hunk, old, (count, first)) in enumerate(zip(hunks, sides, occurrences(lines, sides), strict=True)):
        if old and not count:
            there = _misfit(lines, old, hunk, number, hunk.index)
            assert there is not None
            if there.reason != "line endings differ":
                there = HunkMismatch(hunk, number, "not found", there.at, there.expected, there.found)
            raise there
        start, expected = (first, old[0]) if old else (0, b"")
        if old and count > 1:
            # Why the whole file and not what is left of it: a copy before the last hunk is as good a guess for a
            # file that has drifted, and `git apply` may take it.
            raise HunkMismatch(hunk, number, "not unique", start + 1, expected)
        if start < end or (hunk.index == 0 and start):
            raise HunkMismatch(hunk, number, "not found", start + 1, expected)
        if misfit := _misfit(lines, old, hunk, number, start):
            raise misfit
        starts.append(start)
        end = start + len(old)
    return starts


def occurrences(lines: list[bytes], sides: list[list[bytes]]) -> list[tuple[int, int]]:
    """For each sequence of lines, how often it stands in ``lines`` and the index where it first does.

    Aho-Corasick with a whole line as one symbol: searching for the hunks one by one would cost hunks times file.
    A, M. V. Aho and M. J. Corasick, "Efficient string matching", CACM 18 (1975).
    """
    symbols: dict[bytes, int] = {}
    for side in sides:
        for line in side:
            symbols.setdefault(line, len(symbols))
    width = len(symbols)

    # The trie. A state is a number; 0 is the root; an edge's key is state * width + symbol.
    edges: dict[int, int] = {}
    parents, letters, levels = [0], [0], [[0]]
    ends: list[int] = []
    for side in sides:
        state = 0
        for depth, line in enumerate(side, 1):
            symbol = symbols[line]
            key = state * width + symbol
            if key not in edges:
                edges[key] = len(parents)
                parents.append(state)
                letters.append(symbol)
                if depth == len(levels):
                    levels.append([])
                levels[depth].append(edges[key])
            state = edges[key]
        ends.append(state)

    # fails[state]: the longest proper suffix of the state's lines that is a state too.
    fails = [0] * len(parents)

    def follow(state: int, symbol: int) -> int:
        while (target := edges.get(state * width + symbol)) is None and state:
            state = fails[state]
        return target or 0

    for level in levels[2:]:
        for state in level:
            fails[state] = follow(fails[parents[state]], letters[state])

    counts = [0] * len(parents)
    last = len(lines)
    firsts = [last] * len(parents)  # where the occurrence ends
    state = 0
    for stop, line in enumerate(lines, 1):
        known = symbols.get(line)
        state = 0 if known is None else follow(state, known)
        counts[state] += 1
        firsts[state] = min(firsts[state], stop)
    for level in reversed(levels[2:]):
        for state in level:
            shorter = fails[state]
            counts[shorter] += counts[state]
            firsts[shorter] = min(firsts[shorter], firsts[state])
    return [(counts[end], firsts[end] - len(side)) for end, side in zip(ends, sides, strict=True)]

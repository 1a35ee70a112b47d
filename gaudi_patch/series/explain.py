"""Explain why a hunk does not apply: where it nearly fits, which lines differ, whether its change already exists.

The explanation informs a person and decides nothing: a file's state is decided by its hash. The cost is linear in the
file's length; only the first `MAX_LINES` lines of a hunk are compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Literal

from gaudi_patch.series.hunks import Hunk, occurrences, split

MAX_LINES = 200  # lines of a hunk that are compared: difflib is cubic in the worst case
MAX_DIFFERENCES = 20  # differences that are listed
_MAX_VOTES = 200  # for each line of the hunk: candidate places nearest to its expected place
_MAX_SHOWN = 120  # characters of a line in a sentence

_Code = tuple[str, int, int, int, int]  # of difflib
DifferenceKind = Literal["content", "white space", "line end", "missing", "extra"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One line that differs from the hunk; ``line`` is the file's, from 1. A side without such a line is None."""

    line: int
    expected: bytes | None
    found: bytes | None

    @property
    def kind(self) -> DifferenceKind:
        if self.expected is None:
            return "extra"
        if self.found is None:
            return "missing"
        if self.expected.rstrip(b"\r\n") == self.found.rstrip(b"\r\n"):
            return "line end"
        if self.expected.split() == self.found.split():
            return "white space"
        return "content"

    def __str__(self) -> str:
        if self.expected is None:
            return f"line {self.line}: not expected: {show(self.found or b'')}"
        if self.found is None:
            return f"line {self.line}: missing: {show(self.expected)}"
        what = "" if self.kind == "content" else f" ({self.kind})"
        return f"line {self.line}: expected {show(self.expected)}, found {show(self.found)}{what}"


@dataclass(frozen=True, slots=True)
class Fit:
    """The best fit of a side of a hunk. ``line`` is the file's, from 1, or 0 if nothing fits.

    ``equal`` of the ``total`` compared lines are there unchanged and in order; ``differences`` lists the first other
    lines, ``unlisted`` counts the rest.
    """

    line: int
    equal: int
    total: int
    differences: tuple[Difference, ...] = ()
    unlisted: int = 0

    @property
    def similarity(self) -> float:
        """Return the share of lines found unchanged, from 0 to 1."""
        return self.equal / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of a hunk that does not apply.

    ``places`` counts the occurrences of the whole old side in the file; ``nearest`` is its best fit. ``already`` is
    the line, from 1, of the whole new side, 0 if it does not occur; ``nearest_new`` is the new side's best fit.
    ``line_ends`` is "" unless only line ends differ.
    """

    expected_line: int
    places: int
    nearest: Fit
    already: int
    nearest_new: Fit
    line_ends: str
    at_beginning: bool
    at_end: bool

    def sentences(self) -> list[str]:
        """Yield the explanation as sentences, one fact each."""
        return list(self._sentences())

    def _sentences(self) -> Iterator[str]:
        fit = self.nearest
        if self.already:
            yield f"the change is already there, at line {self.already}"
        if not fit.total:
            yield "the hunk expects an empty file"
        elif self.places > 1:
            yield f"the expected lines occur in {self.places} places, first at line {fit.line}"
        elif self.places:
            moved = fit.line - self.expected_line
            yield f"the expected lines are at line {fit.line}" + (f", moved by {moved:+d} lines" if moved else "")
            if self.at_beginning and moved:
                yield "but the hunk belongs to the beginning of the file"
            if self.at_end:
                yield "but the hunk belongs to the end of the file"
        elif not fit.line:
            yield "nothing in the file resembles the expected lines"
        else:
            yield f"it nearly fits at line {fit.line}: {fit.equal} of {fit.total} lines are as expected"
        if not self.already and self.nearest_new.similarity > fit.similarity:
            new = self.nearest_new
            yield (
                f"the patched lines fit better, at line {new.line} ({new.equal} of {new.total}): "
                "the file may contain the change in another form"
            )
        if self.line_ends:
            yield self.line_ends
        yield from map(str, fit.differences)
        if fit.unlisted:
            yield f"and {fit.unlisted} more differences"


def explain(original: bytes, hunk: Hunk) -> Explanation:
    """Explain why a hunk does not apply to ``original``."""
    lines = split(original)
    old, new = hunk.old, hunk.new
    (places, first), (patched, already) = occurrences(lines, [old, new])
    # A side without lines matches everywhere.
    places, patched = places if old else 0, patched if new else 0
    nearest = Fit(first + 1, len(old), len(old)) if places else _nearest(lines, old, hunk.index)
    return Explanation(
        expected_line=hunk.index + 1,
        places=places,
        nearest=nearest,
        already=already + 1 if patched else 0,
        nearest_new=Fit(already + 1, len(new), len(new)) if patched else _nearest(lines, new, hunk.index),
        line_ends=_line_ends(lines, nearest),
        at_beginning=hunk.index == 0,
        at_end=hunk.at_end,
    )


def show(line: bytes) -> str:
    """Quote a line of a file safely for a terminal: escape unprintable characters, shorten a long line."""
    text = line.decode("utf-8", "backslashreplace")
    cut = "..." if len(text) > _MAX_SHOWN else ""
    return repr(text[:_MAX_SHOWN]) + cut


def _nearest(lines: list[bytes], side: list[bytes], expected: int) -> Fit:
    """Find the best fit of ``side``, which does not occur as a whole."""
    side = side[:MAX_LINES]
    keys = [line.strip() for line in side]
    start = _vote(lines, keys, expected)
    if start is None:
        return Fit(0, 0, len(side))
    slack = 3 + len(side) // 4
    low = max(0, start - slack)
    area = lines[low : start + len(side) + slack]
    # White space around lines is ignored, so that a file with other formatting or line ends still aligns.
    matcher = SequenceMatcher(None, keys, [line.strip() for line in area], autojunk=False)
    codes = _inside(matcher.get_opcodes())
    differences = list(_differences(codes, side, area, low))
    equal = len(side) - sum(difference.expected is not None for difference in differences)
    shown = tuple(differences[:MAX_DIFFERENCES])
    return Fit(low + codes[0][3] + 1, equal, len(side), shown, len(differences) - len(shown))


def _inside(all_codes: Sequence[_Code]) -> list[_Code]:
    """Trim the codes to the side: at either edge, no more lines of the file than the side has."""
    codes = list(all_codes)
    tag, i1, i2, j1, j2 = codes[0]
    codes[0] = (tag, i1, i2, max(j1, j2 - (i2 - i1)), j2)
    tag, i1, i2, j1, j2 = codes[-1]
    codes[-1] = (tag, i1, i2, j1, min(j2, j1 + (i2 - i1)))
    return codes


def _vote(lines: list[bytes], keys: list[bytes], expected: int) -> int | None:
    """Vote for a start: each line votes for the starts that put it in its place; a rare line counts more."""
    wanted = set(keys)
    where: dict[bytes, list[int]] = defaultdict(list)
    for at, line in enumerate(lines):
        if (key := line.strip()) in wanted:
            where[key].append(at)
    votes: dict[int, float] = defaultdict(float)
    for offset, key in enumerate(keys):
        places = where[key]
        middle = bisect_left(places, expected + offset)
        for at in places[max(0, middle - _MAX_VOTES // 2) : middle + _MAX_VOTES // 2]:
            votes[at - offset] += 1 / len(places)
    return max(votes, key=lambda start: (votes[start], -abs(start - expected)), default=None)


def _differences(codes: Sequence[_Code], side: list[bytes], area: list[bytes], low: int) -> Iterator[Difference]:
    for _, i1, i2, j1, j2 in codes:
        for step, (expected, found) in enumerate(zip_longest(side[i1:i2], area[j1:j2])):
            if expected != found:
                yield Difference(low + min(j1 + step, j2) + 1, expected, found)


def _line_ends(lines: list[bytes], fit: Fit) -> str:
    """Describe the line ends, if they differ where the hunk fits best."""
    differing = [difference for difference in fit.differences if difference.kind == "line end"]
    if not differing:
        return ""
    expected, found = differing[0].expected or b"", differing[0].found or b""
    if expected.endswith(b"\n") != found.endswith(b"\n"):
        with_newline = "hunk" if expected.endswith(b"\n") else "file"
        return f"only the {with_newline} has a newline at its last line"
    crlf = sum(line.endswith(b"\r\n") for line in lines)
    return f"line ends differ: {crlf} of the file's {len(lines)} lines end in CRLF, the hunk expects " + (
        "CRLF" if expected.endswith(b"\r\n") else "LF"
    )

"""Prove, line by line, that a patch is what ``git diff`` writes for text files; `diff` says what that is.

Only the headers' data and the bytes of each hunk are kept, for `diff` to compare with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from itertools import pairwise
from typing import NoReturn

from gaudi_patch.errors import bad_patch
from gaudi_patch.series.path_names import QUOTED, unquote, unsafe

# Memory use is about 450 bytes per line plus a few times the size: below 1 GB with these limits, which fits a small
# CI runner.
MAX_PATCH_BYTES = 64 << 20
MAX_PATCH_LINES = 1_000_000

NO_NEWLINE = b"\\ No newline at end of file\n"
DEV_NULL = b"/dev/null"
_HUNK = re.compile(
    rb"@@ -(0|[1-9]\d{0,9})(?:,(0|[1-9]\d{0,9}))? \+(0|[1-9]\d{0,9})(?:,(0|[1-9]\d{0,9}))? @@(?: (.+))?", re.DOTALL
)
_INDEX = re.compile(r"([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: (\d{6}))?")
_GIT_QUOTED = re.compile(rb"(%b) (%b)" % (QUOTED.pattern, QUOTED.pattern))
_MODES = {"100644": 0o644, "100755": 0o755}
_OTHER_MODES = {"120000": "a symbolic link", "160000": "a submodule", "040000": "a directory"}
# git hash-object of an empty file, with SHA-1 and with SHA-256
_EMPTY_BLOBS = (
    "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
)
_MAX_SHOWN = 200
_MAKE_IT = "create it with: git diff --full-index (no other options)"
_CRLF_HINT = "mark patches `*.patch -text` in .gitattributes and check them out again"


class Kind(str, Enum):
    """The effect of a patch on a file."""

    MODIFY = "modify"
    CREATE = "create"
    DELETE = "delete"


@dataclass(slots=True)
class Head:
    """A hunk as read by the guard: its numbers and section, and its body as in the patch."""

    header: tuple[int, int, int, int, bytes]
    body: bytes
    line: int


@dataclass(slots=True)
class Section:
    """A file section as read by the guard."""

    path: str
    kind: Kind
    modes: tuple[int | None, int | None]
    blobs: tuple[str, str]
    heads: list[Head]
    line: int


def guard(data: bytes, name: str) -> list[Section]:
    """Return the files of a patch; ``name`` is its name in messages. Raises ``bad-patch`` with the line at fault."""
    return _Guard(_lines(data, name), name).sections()


def show(text: str | bytes) -> str:
    """Return text from a patch for a message: in ASCII, shortened if long."""
    shown = ascii(text)
    return shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "..."


def _lines(data: bytes, name: str) -> list[bytes]:
    """Return the patch's lines, after checking its size and encoding."""
    if len(data) > MAX_PATCH_BYTES:
        raise bad_patch(f"the patch has {len(data)} bytes; at most {MAX_PATCH_BYTES} are read", name)
    if (count := data.count(b"\n")) > MAX_PATCH_LINES:
        raise bad_patch(f"the patch has {count} lines; at most {MAX_PATCH_LINES} are read", name)
    if not data.strip():
        raise bad_patch("the patch is empty", name, 1, _MAKE_IT)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise bad_patch("the patch is UTF-16, as a shell's redirection on Windows writes it", name, 1, _MAKE_IT)
    if data.startswith(b"\xef\xbb\xbf"):
        raise bad_patch("the patch begins with a byte order mark", name, 1, "save it unchanged: patches are bytes")
    lines = BytesIO(data).readlines()
    if not data.endswith(b"\n"):
        raise bad_patch("the patch is truncated: its last line has no line end", name, len(lines))
    return lines


class _Guard:
    """Prove, line by line, that a patch is what ``git diff`` writes for text files."""

    def __init__(self, lines: list[bytes], name: str) -> None:
        self._lines = lines
        self._name = name
        self._next = 0  # index of the line to read

    def sections(self) -> list[Section]:
        sections: list[Section] = []
        seen: dict[str, Section] = {}
        while self._next < len(self._lines):
            sections.append(section := self._section())
            # casefold: on a file system that ignores case, the second would overwrite the first.
            key = section.path.casefold()
            if twin := seen.get(key):
                self._fail(f"{show(section.path)} is in the patch twice, first in line {twin.line}", at=section.line)
            seen[key] = section
        # With / sorted first, paths below a file come right after it.
        keys = sorted(seen, key=lambda key: key.replace("/", "\0"))
        for above, below in pairwise(keys):
            if below.startswith(above + "/"):
                self._fail(f"{show(seen[below].path)} is below a file of this patch", at=seen[below].line)
        return sections

    def _fail(self, message: str, hint: str = "", at: int = 0) -> NoReturn:
        """Refuse the patch; ``at`` is the line, from 1, by default the next line or the last."""
        raise bad_patch(message, self._name, at or min(self._next + 1, len(self._lines)), hint)

    def _peek(self) -> bytes:
        """Return the next line outside of hunks, without its LF; b"" after the last."""
        if self._next == len(self._lines):
            return b""
        text = self._lines[self._next][:-1]
        if text.endswith(b"\r"):
            whole = "file was" if all(line.endswith(b"\r\n") for line in self._lines) else "file's headers were"
            self._fail(f"the patch {whole} converted to CRLF line ends", _CRLF_HINT)
        return text

    def _take(self, prefix: bytes) -> bytes | None:
        """Consume the next line if it begins with ``prefix``, and return the rest."""
        text = self._peek()
        if not text.startswith(prefix):
            return None
        self._next += 1
        return text[len(prefix) :]

    def _section(self) -> Section:
        line = self._next + 1
        old_name, new_name, path = self._git_line()
        kind, modes = self._modes()
        old_blob, new_blob, mode = self._index(kind, modes)
        if mode is not None:
            modes = (mode, mode)
        self._refuse_special()
        heads: list[Head] = []
        if (old := self._take(b"--- ")) is not None:
            self._same_name(old, DEV_NULL if kind is Kind.CREATE else old_name)
            if (new := self._take(b"+++ ")) is None:
                self._fail("a +++ line must follow the --- line")
            self._same_name(new, DEV_NULL if kind is Kind.DELETE else new_name)
            heads = self._hunks(kind)
        elif kind is Kind.MODIFY:
            if modes[0] == modes[1] or old_blob:
                self._fail(f"{show(path)} has no hunk: the patch is truncated, or it changes nothing")
        else:
            blob = new_blob if kind is Kind.CREATE else old_blob
            if not blob or not any(empty.startswith(blob) for empty in _EMPTY_BLOBS):
                self._fail(f"{show(path)} has no hunk, and no index line that says it is empty")
        return Section(path, kind, modes, (old_blob, new_blob), heads, line)

    def _git_line(self) -> tuple[bytes, bytes, str]:
        """Read a file's header line; return both names as written, and the path."""
        rest = self._take(b"diff --git ")
        if rest is None:
            self._not_a_diff()
        at = self._next
        if match := _GIT_QUOTED.fullmatch(rest):
            old, new = match[1], match[2]
            old_path, new_path = unquote(old), unquote(new)
        else:  # Names may contain spaces, so only their equal length shows where the first ends.
            half = len(rest) // 2
            old, new = old_path, new_path = rest[:half], rest[half + 1 :]
        if old_path[:2] != b"a/" or new_path[:2] != b"b/" or old_path[2:] != new_path[2:]:
            hint = "renames, copies and prefixes other than a/ and b/ are refused; " + _MAKE_IT
            self._fail(f"not the same name after a/ and b/: {show(rest)}", hint, at)
        path = old_path[2:].decode("utf-8", "surrogateescape")
        if why := unsafe(path):
            self._fail(f"the path {show(path)} {why}", at=at)
        return old, new, path

    def _not_a_diff(self) -> NoReturn:
        """Refuse what stands in place of a ``diff --git`` line."""
        text = self._peek()
        if text.startswith((b"diff --cc ", b"diff --combined ", b"@@@")):
            self._fail("a combined diff (of a merge)", "compare with one parent: git diff --full-index PARENT MERGE")
        if text.startswith((b"*** ", b"***************")):
            self._fail("a context diff", _MAKE_IT)
        if text.startswith((b"--- ", b"+++ ", b"@@ -")):
            self._fail("a diff without its `diff --git` line", _MAKE_IT)
        if text.startswith((b"Binary files ", b"GIT binary patch")):
            self._fail("binary files are not patched")
        if self._next == 0:
            self._fail("text before the first `diff --git` line", _MAKE_IT)
        self._fail("neither a hunk nor a `diff --git` line", "nothing may follow a hunk; " + _MAKE_IT)

    def _modes(self) -> tuple[Kind, tuple[int | None, int | None]]:
        if (mode := self._take(b"new file mode ")) is not None:
            return Kind.CREATE, (None, self._mode(mode))
        if (mode := self._take(b"deleted file mode ")) is not None:
            return Kind.DELETE, (self._mode(mode), None)
        if (mode := self._take(b"old mode ")) is not None:
            old = self._mode(mode)
            if (mode := self._take(b"new mode ")) is None:
                self._fail("a new mode must follow the old mode")
            new = self._mode(mode)
            if old == new:
                self._fail("the old mode and the new mode are the same", at=self._next)
            return Kind.MODIFY, (old, new)
        return Kind.MODIFY, (None, None)

    def _mode(self, digits: bytes) -> int:
        text = digits.decode("latin-1")
        if text not in _MODES:
            what = _OTHER_MODES.get(text, "neither 100644 nor 100755")
            self._fail(f"mode {show(text)}: {what}; only regular files are patched", at=self._next)
        return _MODES[text]

    def _index(self, kind: Kind, modes: tuple[int | None, int | None]) -> tuple[str, str, int | None]:
        """Read the ``index`` line; return the blob ids and the unchanged mode."""
        if (rest := self._take(b"index ")) is None:
            return "", "", None
        at = self._next
        match = _INDEX.fullmatch(rest.decode("latin-1"))
        if not match:
            self._fail("malformed index line", at=at)
        old, new, mode = match.groups()
        if (not old.strip("0"), not new.strip("0")) != (kind is Kind.CREATE, kind is Kind.DELETE):
            self._fail(f"the ids of the index line do not match a patch that should {kind.value} the file", at=at)
        if old == new:
            self._fail("the index line says that the content stays the same", at=at)
        if mode and modes != (None, None):
            self._fail("the mode is given twice", at=at)
        return old, new, self._mode(mode.encode()) if mode else None

    def _refuse_special(self) -> None:
        """Refuse headers that git knows but this tool does not accept, and headers out of place."""
        text = self._peek()
        if text.startswith((b"similarity ", b"dissimilarity ", b"rename ", b"copy ")):
            self._fail("renames, copies and rewrites are refused", "create it with: git diff --full-index --no-renames")
        if text.startswith((b"Binary files ", b"GIT binary patch")):
            self._fail("binary files are not patched")
        if text.startswith(
            (b"old mode ", b"new mode ", b"new file mode ", b"deleted file mode ", b"index ", b"+++ ", b"@@ ")
        ):
            self._fail("header out of place, or given twice")

    def _same_name(self, rest: bytes, name: bytes) -> None:
        """Refuse the line just read unless it has ``name``; after a tab, anything may follow."""
        if rest.partition(b"\t")[0] != name:
            self._fail(f"the name {show(rest)} is not {show(name)}, as the headers above it say", at=self._next)

    def _hunks(self, kind: Kind) -> list[Head]:
        heads: list[Head] = []
        old_end = shift = 0
        last = False
        while (text := self._peek()).startswith(b"@@") and not text.startswith(b"@@@"):
            at = self._next + 1
            match = _HUNK.fullmatch(text)
            if not match:
                self._fail("malformed hunk header")
            if last:
                self._fail("the hunk before this one has no trailing context, so it ends the file")
            old_start, new_start = int(match[1]), int(match[3])
            old_count, new_count = (1 if count is None else int(count) for count in match.group(2, 4))
            if (old_count and not old_start) or (new_count and not new_start):
                self._fail("the hunk starts in line 0, but lines are counted from 1")
            old_index, new_index = old_start - bool(old_count), new_start - bool(new_count)
            if old_index < old_end:
                self._fail("the hunk overlaps the one before it, or is out of order")
            if new_index != old_index + shift:
                self._fail(f"the hunk's new start should be {old_index + shift + bool(new_count)}")
            if kind is not Kind.MODIFY and ((old_count, new_count)[kind is Kind.DELETE] or old_index):
                self._fail(f"a patch that should {kind.value} a file has one hunk with all its lines")
            self._next += 1
            first = self._next
            last = self._body(old_count, new_count)
            if self._lines[first][:1] != b" " and old_index:
                self._fail("the hunk has no leading context and is not at the beginning of the file", _MAKE_IT, at)
            body = b"".join(self._lines[first : self._next])
            heads.append(Head((old_start, old_count, new_start, new_count, match[5] or b""), body, at))
            old_end, shift = old_index + old_count, shift + new_count - old_count
        if not heads:
            self._fail("a hunk must follow the +++ line")
        return heads

    def _body(self, old: int, new: int) -> bool:
        """Read a hunk with the given numbers of lines; return whether it must end the file."""
        changes = ends = False
        tag = b""
        while old or new:
            if self._next == len(self._lines):
                self._fail("the patch is truncated: it ends inside a hunk")
            tag = self._lines[self._next][:1]
            if tag not in (b" ", b"-", b"+"):
                self._not_a_hunk_line()
            in_old, in_new = tag != b"+", tag != b"-"
            if (in_old and not old) or (in_new and not new):
                self._fail("the hunk has more lines than its header counts")
            old, new = old - in_old, new - in_new
            changes = changes or tag != b" "
            self._next += 1
            if self._no_newline():
                if (in_old and old) or (in_new and new):
                    self._fail("a line without a newline is not the last of its side", at=self._next)
                ends = True
        more = b"" if self._next == len(self._lines) else self._lines[self._next]
        if more.startswith((b" ", b"-", b"+")) and not more.startswith((b"-- ", b"--- ")):
            self._fail("the hunk has more lines than its header counts")
        if not changes:
            self._fail("the hunk changes nothing", at=self._next)
        return ends or tag != b" "

    def _no_newline(self) -> bool:
        """Read the marker of a missing newline, if it is next."""
        if self._next == len(self._lines) or not self._lines[self._next].startswith(b"\\"):
            return False
        if self._lines[self._next] != NO_NEWLINE:
            self._peek()  # was it converted?
            self._fail(f"a line that begins with \\ must be {NO_NEWLINE[:-1]!a}")
        self._next += 1
        return True

    def _not_a_hunk_line(self) -> NoReturn:
        if self._lines[self._next] in (b"\n", b"\r\n"):
            self._fail("an empty line in a hunk: white space at line ends was stripped", "an empty context line is "
                       "written as one space; " + _MAKE_IT)  # fmt: skip
        self._fail("the hunk has fewer lines than its header counts")

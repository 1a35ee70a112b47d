"""A valid patch is read exactly; an invalid one is refused with the faulty line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import unidiff.patch

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series import diff_syntax
from gaudi_patch.series.diff import FileDiff, Hunk, Kind, parse, render
from gaudi_patch.series.hunks import apply
from tests.support.unified import GIT, git_diff

BAD_PATCHES = Path(__file__).parents[1] / "data" / "bad_patches"
EXPECTED: dict[str, tuple[int, str]] = json.loads((BAD_PATCHES / "expected.json").read_text())

OLD_BLOB, NEW_BLOB, NO_BLOB = "1" * 40, "2" * 40, "0" * 40
EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
GIT_LINE = b"diff --git a/pkg/m.py b/pkg/m.py\n"
INDEX = f"index {OLD_BLOB}..{NEW_BLOB} 100644\n".encode()
NAMES = b"--- a/pkg/m.py\n+++ b/pkg/m.py\n"
BODY = b" a\n-b\n+B\n c\n"
HUNK = b"@@ -1,3 +1,3 @@\n" + BODY
PATCH = GIT_LINE + INDEX + NAMES + HUNK
MARK = b"\\ No newline at end of file\n"


def refusal(patch: bytes) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        parse(patch, "x.patch")
    assert caught.value.exit is Exit.USAGE
    assert caught.value.code == "bad-patch"
    assert caught.value.file == "x.patch"
    return caught.value


def one(patch: bytes) -> FileDiff:
    (file,) = parse(patch, "x.patch")
    return file


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_bad_patch_is_refused_with_the_line_and_the_reason(name: str) -> None:
    error = refusal((BAD_PATCHES / f"{name}.patch").read_bytes())
    line, message = EXPECTED[name]
    assert (error.line, message in error.message) == (line, True), str(error)


def test_the_table_of_bad_patches_is_complete() -> None:
    assert sorted(EXPECTED) == sorted(path.stem for path in BAD_PATCHES.glob("*.patch"))


def test_a_message_never_carries_raw_bytes_of_the_patch_to_a_terminal() -> None:
    for path in BAD_PATCHES.glob("*.patch"):
        error = refusal(path.read_bytes())
        assert str(error).isascii()
        assert str(error).isprintable(), path.name


@pytest.mark.parametrize(
    "patch",
    [
        PATCH.replace(b"a/pkg/m.py", b"a/" + b"x" * 100_000, 1),
        PATCH.replace(b"pkg/m.py", b"x/" * 50_000 + b"x"),
        PATCH.replace(b"+++ b/pkg/m.py", b"+++ b/" + b"x" * 100_000),
        GIT_LINE + b"old mode " + b"7" * 100_000 + b"\n",
        PATCH.replace(b"pkg/m.py", b"x b/" + b"x" * 250 + b"/" + b"x" * 250),
    ],
)
def test_a_message_is_short_whatever_the_patch_says(patch: bytes) -> None:
    assert len(str(refusal(patch))) < 600


def test_a_patch_is_read_whole() -> None:
    files = parse(PATCH.replace(b"@@\n", b"@@ class A:\n"), "x.patch")
    hunk = Hunk(1, 3, 1, 3, ((b" ", b"a\n"), (b"-", b"b\n"), (b"+", b"B\n"), (b" ", b"c\n")), b"class A:", 5)
    assert files == (FileDiff("pkg/m.py", Kind.MODIFY, 0o644, 0o644, OLD_BLOB, NEW_BLOB, (hunk,), 1),)
    assert (files[0].line, files[0].hunks[0].line) == (1, 5)


def test_lines_are_numbered_across_files() -> None:
    second = PATCH.replace(b"m.py", b"n.py")
    files = parse(PATCH + second + HUNK.replace(b"-1,3 +1,3", b"-20,3 +20,3"), "x.patch")
    assert [(file.line, [hunk.line for hunk in file.hunks]) for file in files] == [(1, [5]), (10, [14, 19])]


def test_equality_leaves_out_where_in_the_patch_a_diff_stood() -> None:
    assert parse(PATCH.replace(b"m.py", b"n.py") + PATCH, "x")[1] == one(PATCH)


@pytest.mark.parametrize(
    "text",
    [
        b"x\r\n",
        b"x\ry\n",
        b"\r\n",
        b"\r\r\n",
        b"a\x00b\n",
        b"\x0c\n",
        "a\u2028b\u2029c\n".encode(),
        "a\x85b\n".encode("latin-1"),
        b"\x1c\x1d\x1e\x0b\n",
        b"\xff\xfe\xe9\n",
        b"\xef\xbb\xbf# coding\n",
        b"- a\n",
        b"-- a/pkg/m.py\n",
        b"++ b/pkg/m.py\n",
        b"@@ -1,3 +1,3 @@\n",
        b"diff --git a/x b/x\n",
        b"\\ No newline at end of file\n",
        b" \t \n",
        b"\n",
        b"x" * 100_000 + b"\n",
    ],
)
@pytest.mark.parametrize("tag", [b" ", b"-", b"+"])
def test_every_byte_of_a_line_is_kept(text: bytes, tag: bytes) -> None:
    body = [(b" ", b"first\n"), (b"-", b"old\n"), (b"+", b"new\n"), (tag, text), (b" ", b"last\n")]
    old, new = (sum(kind != tag for kind, _ in body) for tag in (b"+", b"-"))
    patch = GIT_LINE + INDEX + NAMES + b"@@ -1,%d +1,%d @@\n" % (old, new) + b"".join(map(b"".join, body))
    assert one(patch).hunks[0].lines == tuple(body)
    assert render([one(patch)]) == patch


@pytest.mark.parametrize(
    ("header", "lines", "old", "new"),
    [
        (b"@@ -1 +1 @@\n", b"-a\n" + MARK + b"+b\n", b"a", b"b\n"),
        (b"@@ -1 +1 @@\n", b"-a\n+b\n" + MARK, b"a\n", b"b"),
        (b"@@ -1 +1 @@\n", b"-a\n" + MARK + b"+b\n" + MARK, b"a", b"b"),
        (b"@@ -1 +1 @@\n", b"-a\n" + MARK + b"+a\n", b"a", b"a\n"),
        (b"@@ -1,2 +1,2 @@\n", b"-a\n+A\n b\n" + MARK, b"a\nb", b"A\nb"),
        (b"@@ -1 +1,2 @@\n", b"-a\n" + MARK + b"+a\n+b\n" + MARK, b"a", b"a\nb"),
        (b"@@ -1,2 +1 @@\n", b"+x\n" + MARK + b"-a\n-b\n", b"a\nb\n", b"x"),
        (b"@@ -0,0 +1 @@\n", b"+a\n" + MARK, b"", b"a"),
        (b"@@ -1 +0,0 @@\n", b"-a\n" + MARK, b"a", b""),
        (b"@@ -1 +1 @@\n", b"-a\r\n+a\r\n" + MARK, b"a\r\n", b"a\r"),
    ],
)
def test_a_missing_newline_is_exact_on_both_sides(header: bytes, lines: bytes, old: bytes, new: bytes) -> None:
    patch = GIT_LINE + NAMES + header + lines
    file = one(patch)
    assert render([file]) == patch
    assert b"".join(file.hunks[0].old) == old
    assert apply(old, file.hunks) == new


@pytest.mark.parametrize(
    ("headers", "kind", "modes"),
    [
        (b"old mode 100644\nnew mode 100755\n", Kind.MODIFY, (0o644, 0o755)),
        (b"old mode 100755\nnew mode 100644\n", Kind.MODIFY, (0o755, 0o644)),
        (f"new file mode 100644\nindex {NO_BLOB}..{EMPTY_BLOB}\n".encode(), Kind.CREATE, (None, 0o644)),
        (f"new file mode 100755\nindex 0000000..{EMPTY_BLOB[:7]}\n".encode(), Kind.CREATE, (None, 0o755)),
        (f"deleted file mode 100755\nindex {EMPTY_BLOB}..{NO_BLOB}\n".encode(), Kind.DELETE, (0o755, None)),
    ],
)
def test_a_file_without_hunks_is_a_change_of_mode_or_empty(
    headers: bytes, kind: Kind, modes: tuple[int | None, int | None]
) -> None:
    file = one(GIT_LINE + headers)
    assert (file.kind, (file.old_mode, file.new_mode), file.hunks) == (kind, modes, ())
    assert render([file]) == GIT_LINE + headers


def test_an_empty_file_of_a_sha256_repository_is_empty_too() -> None:
    blob = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"
    headers = f"new file mode 100644\nindex {'0' * 64}..{blob}\n".encode()
    assert one(GIT_LINE + headers).new_blob == blob


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (b"", (None, None, "", "")),
        (b"index 1111..2222\n", (None, None, "1111", "2222")),
        (b"index 1111..2222 100755\n", (0o755, 0o755, "1111", "2222")),
        (b"old mode 100644\nnew mode 100755\n", (0o644, 0o755, "", "")),
        (b"old mode 100644\nnew mode 100755\nindex 1111..2222\n", (0o644, 0o755, "1111", "2222")),
    ],
)
def test_modes_and_blobs_of_a_changed_file(headers: bytes, expected: tuple[int | None, int | None, str, str]) -> None:
    file = one(GIT_LINE + headers + NAMES + HUNK)
    assert (file.old_mode, file.new_mode, file.old_blob, file.new_blob) == expected
    assert render([file]) == GIT_LINE + headers + NAMES + HUNK


@pytest.mark.parametrize("stamp", [b"\t", b"\t2026-01-01 00:00:00.000000000 +0000", b"\tThu Jan  1 00:00:00 1970"])
def test_a_timestamp_means_nothing(stamp: bytes) -> None:
    names = b"--- a/pkg/m.py%b\n+++ b/pkg/m.py%b\n" % (stamp, stamp)
    assert one(GIT_LINE + INDEX + names + HUNK) == one(PATCH)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (rb'"%b/\303\251.py"', "é.py"),
        (rb'"%b/x\"y\".py"', 'x"y".py'),
        (rb'"%b/plain.py"', "plain.py"),
        ("%b/é.py".encode(), "é.py"),
        (b"%b/with space.py", "with space.py"),
        (rb'"%b/\303\251 space.py"', "é space.py"),
        (b"%b/a/b.py", "a/b.py"),
    ],
)
def test_a_name_is_read_in_quotes_or_plain(written: bytes, path: str) -> None:
    old, new = written % b"a", written % b"b"
    patch = b"diff --git %b %b\n--- %b\n+++ %b\n" % (old, new, old, new) + HUNK
    file = one(patch)
    assert file.path == path
    assert one(render([file])) == file


def test_a_name_that_unidiff_splits_wrongly_is_refused_and_not_misread() -> None:
    # Its misreading of the name differs between its releases.
    assert "unidiff" in refusal(PATCH.replace(b"pkg/m.py", b"x b/m.py")).message


@pytest.mark.parametrize(
    ("body", "context"),
    [
        (b"@@ -1,2 +1,3 @@\n+x\n a\n b\n", "at the beginning"),
        (b"@@ -7,2 +7,3 @@\n a\n b\n+x\n", "at the end"),
        (b"@@ -1,2 +1,3 @@\n a\n+x\n b\n", "less than three lines"),
        (b"@@ -0,0 +1,2 @@\n+x\n+y\n", "whole of an empty file"),
        (b"@@ -1,2 +0,0 @@\n-x\n-y\n", "whole file removed"),
        (b"@@ -1,2 +1 @@\n-x\n-y\n+z\n", "whole file changed"),
        (b"@@ -1,1 +1,1 @@\n-x\n+z\n", "a count of one written out"),
        (b"@@ -1,2 +1,2 @@\n-x\n+X\n a\n@@ -3,2 +3,2 @@\n b\n-y\n+Y\n", "touching hunks"),
    ],
)
def test_context_may_be_short_at_the_edges_of_a_file(body: bytes, context: str) -> None:
    file = one(GIT_LINE + NAMES + body)
    assert one(render([file])) == file, context


def test_files_beside_each_other_are_not_below_each_other() -> None:
    paths = ["a", "a.py", "a-b/c", "ab", "b/a", "b/a.py", "b/ab/c"]
    patch = b"".join(PATCH.replace(b"pkg/m.py", path.encode()) for path in paths)
    assert [file.path for file in parse(patch, "x")] == paths


def test_a_file_below_a_file_is_found_wherever_it_stands_in_the_patch() -> None:
    paths = ["a/b/c", "x", "a-b", "a.py", "A"]
    error = refusal(b"".join(PATCH.replace(b"pkg/m.py", path.encode()) for path in paths))
    assert (error.line, error.message) == (1, "'a/b/c' is below a file of this patch")


def test_a_patch_that_is_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diff_syntax.MAX_PATCH_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(diff_syntax, "MAX_PATCH_BYTES", len(PATCH))
    assert one(PATCH)
    assert refusal(PATCH + b"\n").message == f"the patch has {len(PATCH) + 1} bytes; at most {len(PATCH)} are read"


def test_a_patch_of_too_many_lines_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diff_syntax.MAX_PATCH_LINES == 1_000_000
    monkeypatch.setattr(diff_syntax, "MAX_PATCH_LINES", 9)
    assert one(PATCH)
    assert refusal(PATCH + b"\n").message == "the patch has 10 lines; at most 9 are read"


@pytest.mark.parametrize(
    ("forged", "line", "message"),
    [
        (b"", 1, "unidiff reads 0 files, not 1"),
        (PATCH + PATCH.replace(b"m.py", b"n.py"), 1, "unidiff reads 2 files, not 1"),
        (PATCH + HUNK.replace(b"1,3", b"9,3"), 1, "unidiff reads 2 hunks, not 1"),
        (PATCH.replace(b"+B", b"+C"), 5, "unidiff reads this hunk differently"),
        (PATCH.replace(b"-1,3", b"-2,3"), 5, "unidiff reads this hunk differently"),
        (PATCH.replace(b"+1,3", b"+2,3"), 5, "unidiff reads this hunk differently"),
        (PATCH.replace(b"@@\n", b"@@ def f():\n"), 5, "unidiff reads this hunk differently"),
        (PATCH + MARK, 5, "unidiff reads this hunk differently"),
    ],
)
def test_unidiff_is_not_trusted_alone(forged: bytes, line: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = unidiff.patch.PatchSet(forged.decode("latin-1"))

    def forge(lines: Iterator[str]) -> unidiff.patch.PatchSet:
        assert "".join(lines).encode("latin-1") == PATCH
        return built

    monkeypatch.setattr(unidiff.patch, "PatchSet", forge)
    error = refusal(PATCH)
    assert (error.line, error.message) == (line, message)


def test_kinds_have_stable_names() -> None:
    assert [kind.value for kind in Kind] == ["modify", "create", "delete"]


def test_a_hint_is_given_where_there_is_something_to_do() -> None:
    assert refusal(PATCH + b"+d\n").hint == ""
    assert refusal(b"").hint == "create it with: git diff --full-index (no other options)"


def test_the_hint_says_how_to_undo_a_conversion_to_crlf() -> None:
    assert "*.patch -text" in refusal(PATCH.replace(b"\n", b"\r\n")).hint


@pytest.mark.parametrize(
    "file",
    [
        FileDiff("m.py", Kind.CREATE, None, None, "", "", ()),
        FileDiff("m.py", Kind.DELETE, None, 0o644, "", "", ()),
        FileDiff("m.py", Kind.MODIFY, None, 0o644, "1111", "2222", ()),
        FileDiff("m.py", Kind.MODIFY, 0o644, None, "1111", "2222", ()),
        FileDiff("m.py", Kind.MODIFY, 0o600, 0o600, "1111", "2222", ()),
        FileDiff("m.py", Kind.MODIFY, 0o644, 0o644, "", "", ()),
    ],
)
def test_a_mode_that_a_patch_cannot_say_is_not_rendered(file: FileDiff) -> None:
    with pytest.raises(ValueError, match="mode"):
        render([file])


def test_unidiff_that_fails_is_answered_with_its_reason_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lines: Iterator[str]) -> None:
        assert [next(lines) for _ in range(3)][2] == "--- a/pkg/m.py\n"
        raise unidiff.UnidiffParseError("what \x1b[31m")

    monkeypatch.setattr(unidiff.patch, "PatchSet", fail)
    error = refusal(PATCH)
    assert (error.line, error.message) == (3, "unidiff does not read it: 'what \\x1b[31m'")


def test_nothing_renders_as_nothing() -> None:
    assert render([]) == b""


def test_parsing_brings_in_no_terminal_and_unidiff_only_when_it_parses() -> None:
    code = "import sys, gaudi_patch.series.diff; print(*{'unidiff', 'typer', 'rich', 'git'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == ""


@pytest.mark.skipif(GIT is None, reason="git is not installed")
@pytest.mark.parametrize("quote_path", [True, False])
def test_what_git_writes_is_read_and_written_back_byte_for_byte(tmp_path: Path, quote_path: bool) -> None:
    body = b"".join(b"line %d\n" % number for number in range(60))
    old = {
        "pkg/changed.py": (b"def f():\n" + body, 0o644),
        "pkg/mode.py": (body, 0o644),
        "pkg/mode and content.py": (body, 0o644),
        "pkg/deleted.py": (body, 0o755),
        "pkg/deleted_empty.py": (b"", 0o644),
        "pkg/crlf.py": (body.replace(b"\n", b"\r\n"), 0o644),
        "pkg/odd.py": (b"a\rb\n\x00\n\x0c\n\xff\n" + body, 0o644),
        "pkg/no_newline.py": (body + b"end", 0o644),
        "pkg/emptied.py": (body, 0o644),
        "pkg/filled.py": (b"", 0o644),
        "é/ü x.py": (body, 0o644),
        'quo"te.py': (body, 0o644),
    }
    new = {
        "pkg/changed.py": (b"def f():\n" + body.replace(b"line 5\n", b"").replace(b"line 40\n", b"x\n"), 0o644),
        "pkg/mode.py": (body, 0o755),
        "pkg/mode and content.py": (body + b"more\n", 0o755),
        "pkg/created.py": (body, 0o755),
        "pkg/created_empty.py": (b"", 0o644),
        "pkg/crlf.py": (body.replace(b"\n", b"\r\n").replace(b"5", b"6"), 0o644),
        "pkg/odd.py": (b"a\rc\n\x00\x01\n\x0c\n\xff\n" + body, 0o644),
        "pkg/no_newline.py": (body + b"end\n", 0o644),
        "pkg/emptied.py": (b"", 0o644),
        "pkg/filled.py": (body, 0o644),
        "é/ü x.py": (body[:-1], 0o644),
        'quo"te.py': (body * 2, 0o644),
    }
    patch = git_diff(tmp_path, old, new, quote_path=quote_path)
    files = parse(patch, "git.patch")
    assert (render(files) == patch) is quote_path
    assert parse(render(files), "again.patch") == files
    assert {file.path for file in files} == {*old, *new}
    for file in files:
        before, after = old.get(file.path, (b"", None)), new.get(file.path, (b"", None))
        assert apply(before[0], file.hunks) == after[0]
        kind = Kind.CREATE if before[1] is None else Kind.DELETE if after[1] is None else Kind.MODIFY
        assert (file.kind, file.old_mode, file.new_mode) == (kind, before[1], after[1])

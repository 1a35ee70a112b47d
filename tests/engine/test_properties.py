"""Properties that hold for every patch and every file, and agree with ``git apply``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.series.diff import FileDiff, Kind, parse, render
from gaudi_patch.series.explain import explain
from gaudi_patch.series.hunks import Hunk, HunkMismatch, apply, offsets, split
from tests.support.unified import GIT, git_apply, git_diff, make_hunks, modify, moved, reverse

needs_git = pytest.mark.skipif(GIT is None, reason="git is not installed")
slow = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

# Few different lines, so that context repeats; and every kind of byte that ever fooled a patch tool.
WORDS = [
    b"a",
    b"b",
    b"c",
    b"",
    b"\r",
    b"a\r",
    b"x\ry",
    b"\x00",
    b"\xe9",
    "\u2028".encode(),
    b"\x0c",
    b"\x85",
    b"-- a",
    b"\\",
]
LINES = st.lists(st.sampled_from(WORDS) | st.binary(max_size=3).map(lambda line: line.replace(b"\n", b"")), max_size=40)


@st.composite
def edited(draw: st.DrawFn, lines: list[bytes]) -> list[bytes]:
    lines = list(lines)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 3))] = draw(st.lists(st.sampled_from(WORDS), max_size=3))
    return lines


def join(lines: list[bytes], newline_at_end: bool) -> bytes:
    return b"\n".join(lines) + (b"\n" if newline_at_end and lines else b"")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a file and an edited version of it."""
    lines = draw(LINES)
    old, new = join(lines, draw(st.booleans())), join(draw(edited(lines)), draw(st.booleans()))
    return old, new if new != old else new + b"more"


@st.composite
def drifts(draw: st.DrawFn) -> tuple[bytes, bytes, tuple[Hunk, ...]]:
    """Return a file, a later state of it, and hunks made for the file, some of them shifted."""
    old, new = draw(pairs())
    hunks = make_hunks(old, new, draw(st.integers(1, 3)))
    lines, words = old.split(b"\n"), st.lists(st.sampled_from(WORDS) | st.just(b"drift"), max_size=4)
    kind = draw(st.sampled_from(["none", "top", "bottom", "between", "anywhere"]))
    at = {
        "top": [0],
        "bottom": [len(lines)],
        "between": [hunk.index for hunk in hunks],
        "anywhere": draw(st.lists(st.integers(0, len(lines)), max_size=2)),
    }.get(kind, [])
    for place in sorted(at, reverse=True):
        lines[place : place + draw(st.integers(0, 1))] = draw(words)
    if draw(st.integers(0, 3)) == 0 and hunks[0].index:
        by = draw(st.integers(-hunks[0].index, 5))
        hunks = tuple(moved(hunk, by) for hunk in hunks if hunk.new_start + by > 0)
    return old, b"\n".join(lines), hunks


def outcome(original: bytes, hunks: tuple[Hunk, ...], allow_offset: bool) -> bytes | None:
    try:
        return apply(original, hunks, allow_offset=allow_offset)
    except HunkMismatch:
        return None


@slow
@given(pairs(), st.integers(1, 4))
def test_a_diff_applied_gives_the_new_file_and_reversed_the_old(files: tuple[bytes, bytes], context: int) -> None:
    old, new = files
    hunks = make_hunks(old, new, context)
    assert apply(old, hunks) == new
    assert apply(new, reverse(hunks)) == old


@slow
@given(st.lists(st.tuples(pairs(), st.sampled_from([None, 0o644, 0o755]), st.booleans()), min_size=1, max_size=4))
def test_what_is_rendered_is_parsed_to_the_same(
    parts: list[tuple[tuple[bytes, bytes], int | None, bool]],
) -> None:
    files = []
    for number, ((old, new), mode, with_blobs) in enumerate(parts):
        hunks = make_hunks(old, new)
        blobs = ("1" * 40, "2" * 40) if with_blobs or mode else ("", "")
        files.append(FileDiff(f"p {number}.py", Kind.MODIFY, mode, mode, *blobs, hunks))
        if new:
            (create,) = make_hunks(b"", new)
            files.append(FileDiff(f"c{number}.py", Kind.CREATE, None, mode or 0o644, "", "", (create,)))
            (delete,) = make_hunks(new, b"")
            files.append(FileDiff(f"d{number}.py", Kind.DELETE, mode or 0o755, None, "", "", (delete,)))
    patch = render(files)
    assert parse(patch, "x.patch") == tuple(files)
    assert render(parse(patch, "x.patch")) == patch


@slow
@given(drifts())
def test_with_offset_a_hunk_goes_only_where_its_old_side_stands_once(
    case: tuple[bytes, bytes, tuple[Hunk, ...]],
) -> None:
    _, drifted, hunks = case
    result = outcome(drifted, hunks, True)
    event(f"applies: {result is not None}")
    if result is None:
        return
    lines, end = split(drifted), 0
    wanted: list[bytes] = []
    for hunk, offset in zip(hunks, offsets(drifted, hunks), strict=True):
        start, size = hunk.index + offset, len(hunk.old)
        places = [at for at in range(len(lines) - size + 1) if lines[at : at + size] == hunk.old]
        assert places == [start]
        assert start >= end
        wanted += lines[end:start] + hunk.new
        end = start + size
    assert result == b"".join(wanted + lines[end:])


@slow
@given(drifts())
def test_with_offset_a_file_that_fits_is_patched_as_without_or_refused(
    case: tuple[bytes, bytes, tuple[Hunk, ...]],
) -> None:
    _, drifted, hunks = case
    exact, searched = (outcome(drifted, hunks, allow_offset) for allow_offset in (False, True))
    event(f"exact: {exact is not None}, searched: {searched is not None}")
    if exact is not None:
        assert searched in (exact, None)


@needs_git
@slow
@given(drifts(), st.booleans())
def test_what_applies_applies_in_git_with_the_same_bytes(
    case: tuple[bytes, bytes, tuple[Hunk, ...]], allow_offset: bool
) -> None:
    _, drifted, hunks = case
    patch = render([modify("m.py", hunks)])
    assert parse(patch, "x.patch")[0].hunks == hunks
    ours = outcome(drifted, hunks, allow_offset)
    event(f"applies: {ours is not None}, moved: {allow_offset}")
    if ours is not None:
        with tempfile.TemporaryDirectory() as folder:
            assert git_apply(Path(folder), "m.py", drifted, patch) == ours


@needs_git
@settings(slow, max_examples=50)
@given(pairs())
def test_what_git_writes_gives_the_new_file(files: tuple[bytes, bytes]) -> None:
    old, new = files
    with tempfile.TemporaryDirectory() as folder:
        patch = git_diff(Path(folder), {"m.py": (old, 0o644)}, {"m.py": (new, 0o644)})
    (file,) = parse(patch, "git.patch")
    assert render([file]) == patch
    assert apply(old, file.hunks) == new


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a file, and a valid patch of it that was then damaged."""
    old, new = draw(pairs())
    hunks = make_hunks(old, new)
    files = [FileDiff("m.py", Kind.MODIFY, 0o644, 0o644, "1" * 40, "2" * 40, hunks)]
    if draw(st.booleans()):
        files.append(FileDiff("n.py", Kind.CREATE, None, 0o644, "0" * 40, "3" * 40, make_hunks(b"", b"x\ny")))
    data = render(files)
    for _ in range(draw(st.integers(1, 3))):
        lines = split(data)
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        byte = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 7)):
            case 0:
                del lines[at : at + draw(st.integers(1, 3))]
                data = b"".join(lines)
            case 1:
                lines[at:at] = lines[at : at + 2]
                data = b"".join(lines)
            case 2:
                other = draw(st.integers(0, max(0, len(lines) - 1)))
                if lines:
                    lines[at], lines[other] = lines[other], lines[at]
                data = b"".join(lines)
            case 3:
                data = data[:byte]
            case 4:
                data = data[:byte] + draw(st.binary(max_size=2)) + data[byte + draw(st.integers(0, 2)) :]
            case 5:
                data = (
                    data[:byte]
                    + draw(st.sampled_from([b"0", b"1", b"9", b" ", b"-", b"+", b"\n", b"\r"]))
                    + data[byte:]
                )
            case 6:
                lines[at:at] = [draw(st.sampled_from(STRAY))]
                data = b"".join(lines)
            case _:
                data = data.replace(b"\n", b"\r\n")
    return old, data


STRAY = [
    b"\n",
    b"\\ No newline at end of file\n",
    b"@@ -1,0 +2 @@\n",
    b"@@ -1 +1 @@\n-a\n+b\n",
    b"--- a/m.py\n",
    b"+++ b/m.py\n",
    b"diff --git a/m.py b/m.py\n",
    b"diff --git a/o.py b/o.py\nold mode 100644\nnew mode 100755\n",
    b"rename from m.py\n",
    b"new file mode 100644\n",
    b"deleted file mode 100644\n",
    b"old mode 100755\n",
    b"index 1111111..2222222 100644\n",
    b"Binary files a/m.py and b/m.py differ\n",
    b"GIT binary patch\n",
    b"text\n",
]  # fmt: skip


@settings(slow, max_examples=600)
@given(mutated().map(lambda case: case[1]) | st.binary(max_size=60))
def test_a_damaged_patch_is_refused_with_a_line_or_read_whole(data: bytes) -> None:
    try:
        files = parse(data, "x.patch")
    except GaudiPatchError as caught:
        error = caught
    else:
        event("read")
        assert files
        assert parse(render(files), "again.patch") == files
        return
    event("refused")
    assert (error.exit, error.code, error.file) == (Exit.USAGE, "bad-patch", "x.patch")
    assert 1 <= error.line <= max(1, len(split(data)))
    assert str(error).isprintable()


@needs_git
@settings(slow, max_examples=400)
@given(mutated())
def test_a_damaged_patch_that_applies_applies_in_git_with_the_same_bytes(case: tuple[bytes, bytes]) -> None:
    original, data = case
    try:
        files = parse(data, "x.patch")
    except GaudiPatchError:
        event("refused")
        return
    first = next((file for file in files if file.path == "m.py"), None)
    if first is None or first.kind is not Kind.MODIFY or any(file.kind is not Kind.CREATE for file in files[1:]):
        event("another file")
        return
    ours = outcome(original, first.hunks, False)
    event(f"applies: {ours is not None}")
    if ours is not None:
        with tempfile.TemporaryDirectory() as folder:
            assert git_apply(Path(folder), "m.py", original, data) == ours


@slow
@given(drifts())
def test_every_mismatch_can_be_explained(case: tuple[bytes, bytes, tuple[Hunk, ...]]) -> None:
    _, drifted, hunks = case
    lines = split(drifted)
    for hunk in hunks:
        explanation = explain(drifted, hunk)
        event(f"places: {min(explanation.places, 2)}, already: {explanation.already > 0}")
        for fit, side in ((explanation.nearest, hunk.old), (explanation.nearest_new, hunk.new)):
            assert 0 <= fit.equal <= fit.total == len(side)
            assert 0 <= fit.similarity <= 1
            assert 0 <= fit.line <= len(lines) + 1
            for difference in fit.differences:
                assert difference.expected != difference.found
                if difference.found is not None:
                    assert lines[difference.line - 1] == difference.found
        if at := explanation.already:
            assert lines[at - 1 : at - 1 + len(hunk.new)] == hunk.new
        sentences = explanation.sentences()
        assert sentences
        assert all(sentence.isprintable() for sentence in sentences)

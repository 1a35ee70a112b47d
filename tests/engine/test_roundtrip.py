"""For any package and any series, apply followed by rollback preserves every byte."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import tiny
from tests.support.faults import FailAt, KillAt, Recorder, in_child, memory_folder
from tests.support.tiny import Tiny, tree

NAMES = [
    "lmcache/a.txt",
    "lmcache/b c.txt",
    "lmcache/ü.py.txt",
    'lmcache/comma,quote".txt',
    "lmcache/sub/x.txt",
    "lmcache/sub/deep/y.txt",
    "lmcache/new/z.txt",
    "lmcache/m.py",
    "lmcache/sub/n.py",
]
# Every kind of byte that ever fooled a patch tool: no newline at the end, CRLF, lone CR, NUL, latin-1, U+2028, BOM.
PIECES = [
    b"a\n",
    b"b\n",
    b"\n",
    b"c\r\n",
    b"d\re\n",
    b"\x00\n",
    b"\xe9\n",
    "\u2028\n".encode(),
    b"\xef\xbb\xbf\n",
    b"tail",
]
CODE = [b"x = 1\n", b"y = 2\n", b"\n", b"# c\r\n", b"# \xc3\xa9\n", b"def f():\n    return 3\n", b"z = 4"]


def content(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(pieces), max_size=12).map(
        lambda found: b"".join(one if one.endswith(b"\n") else one + b"\n" for one in found[:-1]) + b"".join(found[-1:])
    )


@st.composite
def changes(draw: st.DrawFn) -> tuple[dict[str, bytes], dict[str, bytes | None], frozenset[str]]:
    """Return a package, the files as the series leaves them, and the names that become executable."""
    before = {"lmcache/__init__.py": b"# package\n"}
    after: dict[str, bytes | None] = {}
    executable = set()
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True)):
        pieces = CODE if name.endswith(".py") else PIECES
        old = draw(st.none() | content(pieces))
        new = draw(st.none() | content(pieces))
        if old is not None:
            before[name] = old
        mode = new is not None and draw(st.booleans())
        if mode:
            executable.add(name)
        if old != new or (mode and old is not None):
            after[name] = new
    if not after:
        after["lmcache/__init__.py"] = b"# patched\n"
    return before, after, frozenset(executable)


few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def made(folder: Path, case: tuple[dict[str, bytes], dict[str, bytes | None], frozenset[str]]) -> Tiny:
    before, after, executable = case
    return tiny.make(folder, before, after, executable=executable)


def one_sided(after: dict[str, bytes | None], before: dict[str, bytes]) -> bool:
    """Return whether only modes change: then no content shows the side."""
    return all(before.get(path) == data for path, data in after.items())


@few
@given(changes())
def test_apply_then_rollback_is_the_identity(
    case: tuple[dict[str, bytes], dict[str, bytes | None], frozenset[str]],
) -> None:
    """case_27 case_28 case_34 case_36 case_40: bytes, modes and links of the whole tree; apply is idempotent."""
    before, after, executable = case
    if one_sided(after, before):
        return
    with memory_folder() as folder:
        target = made(folder, case)
        pristine = tree(target.site)
        assert target.check().exit is Exit.PENDING
        assert target.apply().exit is Exit.OK
        for path, data in after.items():
            file = target.site / path
            assert (file.read_bytes() if file.exists() else None) == data
            if path in executable:
                assert file.stat().st_mode & 0o777 == 0o755
        patched = tree(target.site, times=True)
        assert target.apply().data["changed"] is False
        assert tree(target.site, times=True) == patched
        assert target.check().exit is Exit.OK
        assert target.rollback().exit is Exit.OK
        assert tree(target.site) == pristine


@few
@given(changes(), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_a_fault_anywhere_and_a_kill_anywhere_leave_two_sides_only(
    case: tuple[dict[str, bytes], dict[str, bytes | None], frozenset[str]], fail: int, kill: int, verb: bool
) -> None:
    """case_1 case_2 case_4: for every tree and every series."""
    before, after, _ = case
    if one_sided(after, before):
        return
    with memory_folder() as folder:
        target = made(folder, case)
        pristine = tree(target.site)
        recorder = Recorder()
        target.apply(recorder)
        patched = tree(target.site)
        target.rollback()
        steps = len(recorder.calls)
        try:
            target.apply(FailAt(fail % steps, 5))
        except GaudiPatchError:
            assert tree(target.site) == pristine
        else:
            target.rollback()
        in_child(lambda: target.apply(KillAt(kill % steps)))
        assert "third" not in target.sides().values()
        assert (target.apply() if verb else target.rollback()).exit is Exit.OK
        assert set(tree(target.site)) == set(patched if verb else pristine)
        target.rollback()
        assert tree(target.site) == pristine


def test_a_patch_outside_of_the_package_is_refused(tmp_path: Path) -> None:
    """case_20 case_21: dist-info, other packages, bin, the environment's own files."""
    target = tiny.make(tmp_path)
    for path in ("other/x.py", "lmcache-0.5.6.dist-info/extra.txt", "bin/lmcache", "lmcache.py", "lmcachex/a.py"):
        patch = tiny.diff(path, None, b"x\n")
        wheels = {"0.5.6": tmp_path / "wheels" / "lmcache-0.5.6-py3-none-any.whl"}
        manifest = tiny.write_manifest(tmp_path / "bad", {"0.5.6": {"bad.patch": patch}}, wheels)
        from dataclasses import replace

        bad = replace(target, manifest=manifest)
        before = tree(target.site)
        for verb in (bad.check, bad.apply):
            with pytest.raises(GaudiPatchError) as caught:
                verb()
            assert caught.value.exit is Exit.USAGE
            assert path in str(caught.value)
        assert tree(target.site) == before


def test_one_file_in_two_patches_of_a_series_is_written_once(tmp_path: Path) -> None:
    """case_35: the patches are applied in order, in memory."""
    steps = [b"A = 1\n", b"A = 2\n", b"A = 3\n"]
    target = tiny.make(tmp_path, {"lmcache/__init__.py": steps[0]}, {"lmcache/__init__.py": steps[1]})
    patches = {
        f"{number}.patch": tiny.diff("lmcache/__init__.py", *pair)
        for number, pair in enumerate(itertools.pairwise(steps))
    }
    from dataclasses import replace

    wheels = {"0.5.6": tmp_path / "wheels" / "lmcache-0.5.6-py3-none-any.whl"}
    target = replace(target, manifest=tiny.write_manifest(tmp_path / "two", {"0.5.6": patches}, wheels))
    recorder = Recorder()
    assert target.apply(recorder).exit is Exit.OK
    file = target.site / "lmcache/__init__.py"
    assert recorder.calls.count(("replace", file)) == 1
    assert file.read_bytes() == steps[2]
    assert target.rollback().exit is Exit.OK
    assert file.read_bytes() == steps[0]


def test_a_file_where_a_cache_of_bytecode_would_be_is_in_nobodys_way(tmp_path: Path) -> None:
    target = tiny.make(tmp_path)
    (target.site / "lmcache/v1/__pycache__").write_bytes(b"")
    (target.site / "lmcache/__pycache__").write_bytes(b"")
    before = tree(target.site)
    assert target.apply().exit is Exit.OK
    assert target.check().exit is Exit.OK
    assert target.rollback().exit is Exit.OK
    assert tree(target.site) == before

"""Versions that the manifest does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.situations import refusal
from tests.support import tiny
from tests.support.tiny import Tiny, tree


def test_an_unknown_version_whose_files_fit_is_matched_by_hash(few: Tiny) -> None:
    """case_52: a local or dev build of the same files."""
    info = few.dist_info
    info.rename(info.with_name("lmcache-0.5.6+hpu.1.dist-info"))
    local = replace(few, version="0.5.6+hpu.1")
    result = local.check()
    assert (result.exit, result.data["series"]) == (Exit.PENDING, "0.5.6")
    assert local.apply().exit is Exit.OK
    assert local.rollback().exit is Exit.OK

    dev = replace(few, version="0.5.7.dev3+g1234567")
    (few.site / "lmcache-0.5.6+hpu.1.dist-info").rename(dev.dist_info)
    result = dev.check()
    assert (result.exit, result.data["series"], result.data["matched_by_hash"]) == (Exit.PENDING, "0.5.6", True)


def test_allow_offset_tries_the_nearest_series_with_exact_context(tmp_path: Path) -> None:
    """case_33: only on request, and only at a unique position."""
    body = b"".join(b"# line %d\n" % number for number in range(20))
    before = {"lmcache/__init__.py": body}
    target = tiny.make(tmp_path, before, {"lmcache/__init__.py": body.replace(b"line 9\n", b"LINE 9\n")})
    unknown = replace(target, version="0.5.7")
    target.dist_info.rename(unknown.dist_info)
    (target.site / "lmcache/__init__.py").write_bytes(b"# new\n# lines\n" + body)
    pristine = tree(target.site)
    assert refusal(unknown.check()) == (Exit.NOT_FOUND, "unknown-version")
    with pytest.raises(GaudiPatchError):
        unknown.apply()
    planned = unknown.apply(allow_offset=True, dry_run=True)
    assert any("+2" in text for text in planned.warnings)
    assert tree(target.site) == pristine
    assert unknown.apply(allow_offset=True).exit is Exit.OK
    text = (target.site / "lmcache/__init__.py").read_bytes()
    assert text == b"# new\n# lines\n" + body.replace(b"line 9\n", b"LINE 9\n")
    assert unknown.check().exit is Exit.OK
    assert unknown.apply().exit is Exit.OK
    assert unknown.rollback().exit is Exit.OK
    assert tree(target.site) == pristine

    (target.site / "lmcache/__init__.py").write_bytes(b"# new\n" + body + body)
    with pytest.raises(GaudiPatchError) as caught:
        unknown.apply(allow_offset=True)
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "does-not-apply")
    assert "not unique" in caught.value.message


def test_a_crlf_target_is_refused_and_never_converted(tmp_path: Path) -> None:
    """case_25"""
    target = tiny.make(tmp_path, {"lmcache/__init__.py": b"a\nb\n"}, {"lmcache/__init__.py": b"a\nB\n"})
    unknown = replace(target, version="0.5.7")
    target.dist_info.rename(unknown.dist_info)
    file = target.site / "lmcache/__init__.py"
    file.write_bytes(b"a\r\nb\r\n")
    with pytest.raises(GaudiPatchError) as caught:
        unknown.apply(allow_offset=True)
    assert "line endings differ" in caught.value.message
    assert file.read_bytes() == b"a\r\nb\r\n"

"""Cached bytecode: every variant is found, and recompiled in the same mode."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
import os
import py_compile
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.engine import bytecode
from gaudi_patch.engine.bytecode import Source, compile_sources, mode_of, variant_of, variants
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.inside import compile_pyc
from gaudi_patch.inside.compile_pyc import Output
from tests.support import tiny
from tests.support.tiny import Tiny, tree

Mode = py_compile.PycInvalidationMode
MODES = {"timestamp": Mode.TIMESTAMP, "checked": Mode.CHECKED_HASH, "unchecked": Mode.UNCHECKED_HASH}
TAG = sys.implementation.cache_tag


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("__pycache__/m.cpython-311.pyc", ("cpython-311", "")),
        ("__pycache__/m.cpython-311.opt-1.pyc", ("cpython-311", "1")),
        ("__pycache__/m.cpython-313.opt-2.pyc", ("cpython-313", "2")),
        ("__pycache__/m.pypy310.pyc", ("pypy310", "")),
        ("m.pyc", ("", "")),
        ("__pycache__/m.pyc", None),
        ("__pycache__/m.x.cpython-311.pyc", None),
        ("__pycache__/mm.cpython-311.pyc", None),
        ("__pycache__/m.cpython-311.pyc.1234", None),
        ("m.cpython-311.pyc", None),
        ("m.py", None),
    ],
)
def test_a_variant_is_known_by_its_name(name: str, expected: tuple[str, str] | None) -> None:
    """case_46 case_47: PEP 3147 and 488 names and legacy files, but no other module's."""
    found = variant_of(Path("/p") / name, Path("/p/m.py"))
    assert (found and (found.tag, found.optimization)) == expected


def test_all_variants_on_disk_are_found_below_a_prefix_too(tmp_path: Path) -> None:
    """case_46: PYTHONPYCACHEPREFIX mirrors the tree."""
    source = tmp_path / "pkg" / "m.py"
    prefix = tmp_path / "prefix"
    mirrored = prefix / source.parent.relative_to("/")
    for folder in (source.parent / "__pycache__", mirrored):
        folder.mkdir(parents=True)
        for name in ("m.cpython-311.pyc", "m.cpython-312.opt-1.pyc", "other.cpython-311.pyc"):
            (folder / name).touch()
    (source.parent / "m.pyc").touch()
    assert len(variants(source)) == 3
    assert len(variants(source, str(prefix))) == 5
    assert variants(tmp_path / "nowhere" / "m.py") == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimization", ["", "1", "2"])
def test_what_is_compiled_is_what_python_itself_would_write(mode: str, optimization: str, tmp_path: Path) -> None:
    """case_46: Python's own loader accepts it, and it equals py_compile's output but for marshal's references."""
    source = tmp_path / "m.py"
    source.write_bytes(b'"""Doc."""\nassert X\nY = (1, 2)\n')
    os.utime(source, ns=(10**18, 10**18))
    output = Output(optimization, mode, 10**9, len(source.read_bytes()))
    ((data,),) = compile_sources([Source(source, source.read_bytes(), (output,))], None, own=True)
    theirs = py_compile.compile(
        str(source), str(tmp_path / "theirs.pyc"), invalidation_mode=MODES[mode], optimize=int(optimization or 0)
    )
    expected = Path(theirs or "").read_bytes()
    assert data[:16] == expected[:16]
    assert marshal.loads(data[16:]) == marshal.loads(expected[16:])
    assert mode_of(data) == mode
    cached = Path(importlib.util.cache_from_source(str(source), optimization=optimization))
    cached.parent.mkdir()
    cached.write_bytes(data)


def test_a_size_and_a_second_of_more_than_32_bits_are_cut_as_python_does() -> None:
    ((data,),) = compile_sources(
        [Source(Path("m.py"), b"x = 1\n", (Output("", "timestamp", 2**32 + 5, 2**32 + 7),))], None, own=True
    )
    assert data[8:16] == (5).to_bytes(4, "little") + (7).to_bytes(4, "little")


def test_another_interpreter_compiles_for_itself(tmp_path: Path) -> None:
    """case_49: a separate process compiles, and imports neither gaudi-patch nor the environment."""
    sources = [Source(tmp_path / "a.py", b"x = 1\n", (Output("", "unchecked", 0, 0),)), Source(tmp_path / "b.py", b"")]
    ours = compile_sources(sources, None, own=True)
    theirs = compile_sources(sources, Path(sys.executable), own=False)
    assert [[blob[:16] for blob in blobs] for blobs in ours] == [[blob[:16] for blob in blobs] for blobs in theirs]
    assert marshal.loads(theirs[0][0][16:]) == marshal.loads(ours[0][0][16:])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"x = 1\ndef f(:\n", 2, "SyntaxError"),
        (b"x = '\xff'\n", None, "SyntaxError"),
        (b"x = 1\n\x00", None, "Error"),
        (b"if 1:\n\tx\n        y\n", 3, "TabError"),
        (b"return 1\n", 1, "SyntaxError: 'return' outside function"),
        (b"(" * 300, None, "Error"),
        (b"# coding: nonsense\n", None, "SyntaxError: unknown encoding: nonsense"),
    ],
)
def test_what_does_not_compile_is_refused_with_its_line(
    own: bool, data: bytes, line: int | None, words: str, tmp_path: Path
) -> None:
    """case_44"""
    with pytest.raises(GaudiPatchError) as caught:
        compile_sources([Source(tmp_path / "m.py", data)], Path(sys.executable), own=own)
    error = caught.value
    assert (error.exit, error.code, error.file) == (Exit.REFUSED, "not-python", str(tmp_path / "m.py"))
    assert words in error.message
    assert line is None or error.line == line


@pytest.mark.parametrize("own", [True, False])
def test_a_warning_of_the_packages_code_is_not_printed(own: bool, capfd: pytest.CaptureFixture[str]) -> None:
    compile_sources([Source(Path("/x/m.py"), b'x = "\\d"\nassert (1, 2)\n')], Path(sys.executable), own=own)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("script", ["exit 3", "echo nonsense", "kill -9 $$", "exec sleep 9"])
def test_an_interpreter_that_fails_is_an_environment_error(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """case_49"""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(bytecode, "TIMEOUT", 0.5)
    for path in (python, tmp_path / "nowhere"):
        with pytest.raises(GaudiPatchError) as caught:
            compile_sources([Source(tmp_path / "m.py", b"")], path, own=False)
        assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "interpreter-failed")
        assert caught.value.file == str(path)


def test_the_compiler_answers_each_request_in_order() -> None:
    requests = [compile_pyc.Request("m.py", data, (Output("", "checked", 0, 0),)) for data in (b"x = 1\n", b"(")]
    good, bad = compile_pyc.answer([request.to_json() for request in requests])
    assert (good["error"], good["line"], len(good["outputs"])) == ("", 0, 1)
    assert "SyntaxError" in bad["error"] and bad["outputs"] == []


# In an installation


def compiled(target: Tiny, mode: Mode, *, optimizations: tuple[int, ...] = (0,)) -> None:
    for file in sorted(target.site.rglob("*.py")):
        for level in optimizations:
            py_compile.compile(str(file), invalidation_mode=mode, optimize=level, doraise=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_new_code_is_what_is_loaded(mode: str, tmp_path: Path) -> None:
    """case_46: Python's loader runs the new code in every mode and level, and the old code after the rollback."""
    target = tiny.make(tmp_path)
    compiled(target, MODES[mode], optimizations=(0, 1, 2))
    before = tree(target.site)
    for verb, words in ((target.apply, "hpu"), (target.rollback, "cuda")):
        verb()
        file = str(target.site / "lmcache/engine.py")
        code = importlib.machinery.SourceFileLoader("engine", file).get_code("engine")
        names: dict[str, object] = {}
        exec(code, names)
        assert names["device"]() == words  # type: ignore[operator]
        for level in ("", "1", "2"):
            data = Path(importlib.util.cache_from_source(file, optimization=level)).read_bytes()
            assert mode_of(data) == mode
            assert marshal.loads(data[16:]).co_filename == file
    assert tree(target.site) == before


def test_created_modules_are_cached_as_the_package_is(tmp_path: Path) -> None:
    """case_46: a read-only image starts as fast as before; what was not cached stays uncached."""
    target = tiny.make(tmp_path / "a")
    compiled(target, Mode.UNCHECKED_HASH, optimizations=(0, 1))
    before = tree(target.site)
    target.apply()
    names = sorted(path.name for path in (target.site / "lmcache/gaudi/__pycache__").iterdir())
    assert names == sorted(f"{stem}.{TAG}{opt}.pyc" for stem in ("__init__", "kernels") for opt in ("", ".opt-1"))
    target.rollback()
    assert tree(target.site) == before

    plain = tiny.make(tmp_path / "b")
    plain.apply()
    assert not list(plain.site.rglob("*.pyc"))


def test_a_folder_of_bytecode_that_the_series_made_goes_with_a_rollback(tmp_path: Path) -> None:
    """A module is created in a directory that had no __pycache__."""
    after = {"lmcache/v1/new.py": b"x = 1\n"}
    target = tiny.make(tmp_path, tiny.PRISTINE, after)
    py_compile.compile(str(target.site / "lmcache/__init__.py"))
    before = tree(target.site)
    target.apply()
    assert (target.site / "lmcache/v1/__pycache__").is_dir()
    target.rollback()
    assert tree(target.site) == before


def test_bytecode_of_other_interpreters_goes_and_comes_back(tmp_path: Path) -> None:
    """case_46 case_49: nothing here can compile for them; Python recompiles when it needs to."""
    target = tiny.make(tmp_path)
    cache = target.site / "lmcache/__pycache__"
    cache.mkdir()
    names = ["engine.cpython-39.pyc", "engine.cpython-399.opt-1.pyc", "engine.pypy39.pyc"]
    for name in names:
        (cache / name).write_bytes(b"foreign")
    (target.site / "lmcache/engine.pyc").write_bytes(b"legacy")
    before = tree(target.site)
    target.apply()
    assert not [path for path in target.site.rglob("*.pyc") if path.name.startswith("engine.")]
    target.rollback()
    assert tree(target.site) == before


def test_a_legacy_file_of_a_deleted_module_goes(tmp_path: Path) -> None:
    """case_47: otherwise the module would stay importable."""
    target = tiny.make(tmp_path)
    legacy = target.site / "lmcache/v1/old.pyc"
    legacy.write_bytes(b"legacy")
    target.apply()
    assert not legacy.exists()
    target.rollback()
    assert legacy.read_bytes() == b"legacy"


def test_in_an_image_bytecode_is_removed_and_nothing_is_run(tmp_path: Path) -> None:
    """case_49: no interpreter of the image is run; its Python recompiles, or not, as it would have anyway."""
    target = replace(tiny.make(tmp_path), python=None)
    compiled(target, Mode.UNCHECKED_HASH)
    before = tree(target.site)
    target.apply()
    assert not list((target.site / "lmcache/__pycache__").glob("engine.*"))
    assert list((target.site / "lmcache/__pycache__").glob("untouched.*"))
    target.rollback()
    assert tree(target.site) == before


def test_a_prefix_for_bytecode_is_kept_up_to_date(tmp_path: Path) -> None:
    """case_46: PYTHONPYCACHEPREFIX; a rollback removes the directories that the series created below it."""
    prefix = tmp_path / "prefix"
    target = replace(tiny.make(tmp_path / "t"), pycache_prefix=str(prefix))
    for file in sorted(target.site.rglob("*.py")):
        cached = prefix / file.parent.relative_to("/") / f"{file.stem}.{TAG}.pyc"
        py_compile.compile(str(file), str(cached), invalidation_mode=Mode.UNCHECKED_HASH)
    before = tree(target.site), tree(prefix)
    target.apply()
    mirrored = prefix / target.site.relative_to("/") / "lmcache"
    code = marshal.loads((mirrored / f"engine.{TAG}.pyc").read_bytes()[16:])
    assert "hpu" in str(code.co_consts[0].co_consts)
    assert (mirrored / "gaudi" / f"kernels.{TAG}.pyc").exists()
    target.rollback()
    assert (tree(target.site), tree(prefix)) == before


def test_same_size_and_second_cannot_pass_for_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """case_46: a timestamp .pyc holds only size and second; if both are equal, the second is changed."""
    target = tiny.make(tmp_path, {"lmcache/__init__.py": b"A = 1\n"}, {"lmcache/__init__.py": b"A = 2\n"})
    file = target.site / "lmcache/__init__.py"
    os.utime(file, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    target.apply()
    assert file.stat().st_mtime_ns == 1_700_000_001_000_000_000
    target.rollback()
    assert file.stat().st_mtime_ns == 1_700_000_000_000_000_000


def test_bytecode_of_pip_is_listed_in_record_and_ours_too(tmp_path: Path) -> None:
    """case_61 case_63: pip lists each .pyc without a hash."""
    from gaudi_patch.engine import record

    target = tiny.make(tmp_path)
    compiled(target, Mode.TIMESTAMP)
    rows = {path.relative_to(target.site).as_posix(): record.Entry() for path in target.site.rglob("*.pyc")}
    target.record.write_bytes(record.updated(target.record.read_bytes(), dict(rows)))
    before = tree(target.site)
    target.apply()
    listed = record.selected(target.record.read_bytes(), lambda _: True)
    for path in target.site.rglob("*.pyc"):
        assert listed[path.relative_to(target.site).as_posix()] == record.Entry()
    assert all((target.site / name).exists() for name in listed)
    target.rollback()
    assert tree(target.site) == before

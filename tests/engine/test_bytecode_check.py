"""The bytecode that Python would run is verified from disk: it must match its own source."""

from __future__ import annotations

import importlib.util
import marshal
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk
from gaudi_patch.engine import bytecode_check
from gaudi_patch.engine.bytecode_check import Wrong, verify, wrong
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import scenarios
from tests.support.environments import clean_environment
from tests.support.tiny import Tiny, tree

Mode = py_compile.PycInvalidationMode
MODULE = "lmcache/engine.py"


@pytest.fixture
def applied(tmp_path: Path) -> Tiny:
    target = scenarios.patched(tmp_path)
    assert target.check().exit is Exit.OK
    return target


def cached(target: Tiny, name: str = MODULE, level: str = "") -> Path:
    return Path(importlib.util.cache_from_source(str(target.site / name), optimization=level))


def header(source: Path, mode: Mode) -> bytes:
    """Return the first 16 bytes of a .pyc that Python accepts for ``source``."""
    data = source.read_bytes()
    if mode is Mode.TIMESTAMP:
        stamp = int(source.stat().st_mtime).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        return importlib.util.MAGIC_NUMBER + bytes(4) + stamp
    flags = 1 if mode is Mode.UNCHECKED_HASH else 3
    return importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + importlib.util.source_hash(data)


def code(text: bytes, name: Path) -> bytes:
    return marshal.dumps(compile(text, str(name), "exec"))


def reasons(target: Tiny) -> list[str]:
    found = wrong(target.installation, target.patched, {})
    return [one.reason for one in found]


@pytest.mark.parametrize("mode", Mode)
def test_code_of_another_source_under_a_right_header_is_found(mode: Mode, applied: Tiny) -> None:
    """The update that mixed modules up wrote such files, and check reported success."""
    other = applied.site / "lmcache/__init__.py"
    cached(applied).write_bytes(header(applied.site / MODULE, mode) + code(other.read_bytes(), other))
    (error,) = applied.check().errors
    assert (error.exit, error.code, error.file) == (Exit.REFUSED, "stale-bytecode", str(cached(applied)))
    assert f"contains the code of {other}" in error.details[0]
    assert applied.apply().data["changed"]
    assert applied.check().exit is Exit.OK
    assert b"hpu" in cached(applied).read_bytes()


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("level", ["", "1", "2"])
def test_other_code_under_its_own_name_is_found(mode: Mode, level: str, applied: Tiny) -> None:
    source = applied.site / MODULE
    cached(applied, level=level).write_bytes(header(source, mode) + code(b"def device():\n    return 'x'\n", source))
    assert reasons(applied) == ["contains code that differs from its source"]
    assert applied.apply().data["changed"]
    assert applied.check().exit is Exit.OK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xe3",
        b"N",
        b"i\x01\x00\x00\x00",
        b"\x29\xff",
        b"(\xff\xff\xff\x7f",
        b"s\xff\xff\xff\x7fx",
        b")\x01" * 100_000,
        b"r\x00\x00\x00\x7f",
        bytes(range(256)) * 10,
        b"\xe3" + b"\xff" * 200,
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_bytecode_that_cannot_be_loaded_ends_nothing(mode: Mode, data: bytes, applied: Tiny) -> None:
    """Damaged or hostile bytecode is loaded in a separate process with a memory limit."""
    cached(applied).write_bytes(header(applied.site / MODULE, mode) + data)
    assert len(reasons(applied)) == 1
    assert applied.apply().data["changed"]
    assert applied.check().exit is Exit.OK


def test_bytecode_that_ends_the_interpreter_is_named_and_the_rest_is_judged(applied: Tiny) -> None:
    """A crash of the process that loads it does not end gaudi-patch."""
    python = applied.site.parent / "python"
    python.write_text(
        f"#!{sys.executable} -I\n"
        "import os, sys\n"
        "given = sys.argv[sys.argv.index('-B') + 1:]\n"
        "fd = int(given[2])\n"
        "data = os.read(fd, 1 << 20)\n"
        "if b'ZGVhZGx5' in data: os.abort()\n"
        "read, write = os.pipe()\n"
        "os.write(write, data)\n"
        "os.close(write)\n"
        "os.set_inheritable(read, True)\n"
        "given[2] = str(read)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-I', '-S', '-B', *given])\n"
    )
    python.chmod(0o755)
    other = cached(applied, "lmcache/gaudi/__init__.py")
    cached(applied).write_bytes(header(applied.site / MODULE, Mode.UNCHECKED_HASH) + b"xxdeadly")
    other.write_bytes(header(applied.site / "lmcache/gaudi/__init__.py", Mode.UNCHECKED_HASH) + b"N")
    installation = replace(applied.installation, python=python, own_interpreter=False)
    found = wrong(installation, applied.patched, {})
    assert [one.path for one in found] == [cached(applied), other]
    assert "cannot be verified" in found[0].reason
    assert found[1].reason == "contains no code"


def _imported(target: Tiny, *options: str) -> None:
    """Let Python itself rewrite the bytecode."""
    cached(target).unlink()
    command = [sys.executable, *options, "-c", "import lmcache.engine"]
    subprocess.run(command, cwd=target.site, check=True, env=clean_environment())
    assert cached(target).exists()


def _rewritten(target: Tiny) -> None:
    _imported(target)


def _without_positions(target: Tiny) -> None:
    _imported(target, "-X", "no_debug_ranges")


def _by_compileall(target: Tiny) -> None:
    command = [sys.executable, "-m", "compileall", "-q", "-f", "-o", "0", "-o", "1", "-o", "2", "-s", target.site, "-p"]
    command += ["/elsewhere", "--invalidation-mode", "checked-hash", target.site / "lmcache"]
    subprocess.run(command, check=True)


def _touched(target: Tiny) -> None:
    """Change the source's time: Python ignores this bytecode."""
    target.rollback()
    scenarios.compile_all(target.site, Mode.TIMESTAMP)
    old = cached(target).read_bytes()
    target.apply()
    cached(target).write_bytes(old)


def _another_python(target: Tiny) -> None:
    data = cached(target).read_bytes()
    cached(target).write_bytes(b"\x00\x00\r\n" + data[4:])
    cached(target).with_name("engine.cpython-27.pyc").write_bytes(b"another")


def _invalid(target: Tiny) -> None:
    cached(target).write_bytes(importlib.util.MAGIC_NUMBER + b"\xff" * 40)


def _short(target: Tiny) -> None:
    cached(target).write_bytes(importlib.util.MAGIC_NUMBER + b"\x01")


def _other_checked(target: Tiny) -> None:
    data = header(target.site / "lmcache/__init__.py", Mode.CHECKED_HASH)
    cached(target).write_bytes(data + b"never loaded")


@pytest.mark.parametrize(
    "change",
    [
        _rewritten,
        _without_positions,
        _by_compileall,
        _touched,
        _another_python,
        _invalid,
        _short,
        _other_checked,
    ],
    ids=lambda change: change.__name__,
)
def test_what_python_writes_itself_or_passes_over_is_no_fault(change: Callable[[Tiny], None], applied: Tiny) -> None:
    change(applied)
    assert reasons(applied) == []
    assert applied.check().exit is Exit.OK


def test_a_tree_that_was_moved_is_no_fault(applied: Tiny, tmp_path: Path) -> None:
    """Its bytecode names the old path, like that of every other module."""
    moved = applied.at(Path(shutil.move(applied.site, tmp_path / "moved")))
    assert reasons(moved) == []
    assert moved.check().exit is Exit.OK


def test_bytecode_that_was_compiled_here_costs_no_process(applied: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(bytecode_check, "ask", never)
    assert applied.check().exit is Exit.OK


def test_even_what_was_recorded_is_held_to_its_header(applied: Tiny) -> None:
    """A recorded hash proves nothing if the bytes were written to the wrong place."""
    other = cached(applied, "lmcache/gaudi/__init__.py").read_bytes()
    cached(applied).write_bytes(other)
    known = {cached(applied): bytecode_check.read_image(cached(applied)).sha256}  # type: ignore[union-attr]
    (found,) = wrong(applied.installation, [MODULE], known)
    assert found.path == cached(applied)


def test_in_an_image_the_header_is_all_that_is_read(tmp_path: Path) -> None:
    target = replace(scenarios.few(tmp_path), python=None)
    target.apply()
    assert target.check().exit is Exit.OK
    cached(target).write_bytes(header(target.site / "lmcache/__init__.py", Mode.UNCHECKED_HASH) + b"never loaded")
    assert [one.path for one in wrong(target.installation, target.patched, {})] == [cached(target)]
    assert target.check().errors[0].code == "stale-bytecode"
    target.apply()
    assert target.check().exit is Exit.OK


def test_an_interpreter_that_cannot_judge_is_an_error_and_no_verdict(applied: Tiny, tmp_path: Path) -> None:
    cached(applied).write_bytes(header(applied.site / MODULE, Mode.UNCHECKED_HASH) + b"x")
    installation = replace(applied.installation, python=tmp_path / "nowhere")
    with pytest.raises(GaudiPatchError) as caught:
        wrong(installation, [MODULE], {})
    assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "interpreter-failed")


def test_a_verification_before_the_commit_names_the_file(applied: Tiny) -> None:
    verify(applied.installation, applied.patched, {})
    os.truncate(cached(applied), 20)
    with pytest.raises(GaudiPatchError) as caught:
        verify(applied.installation, applied.patched, {})
    assert (caught.value.code, caught.value.file) == ("verify-failed", str(cached(applied)))


def test_a_reason_is_read_with_its_file() -> None:
    assert str(Wrong(Path("/a/b.pyc"), "contains no code", "a/b.py")) == "/a/b.pyc contains no code"


class Writes(Disk):
    """Simulates another process that writes bytecode of a target during the run, after the last file was replaced."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        if target.name == "RECORD":
            self.path.write_bytes(self.data)


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_wrong_bytecode_that_appears_during_a_run_undoes_it(verb: str, tmp_path: Path) -> None:
    """Bytecode is verified before the commit, while everything can still be rolled back."""
    target = scenarios.few(tmp_path)
    if verb == "rollback":
        target.apply()
    before = target.sides()
    source = target.site / MODULE
    path = cached(target)
    after = (target.pristine if verb == "rollback" else target.patched)[MODULE]
    assert after is not None
    wrong_code = importlib.util.MAGIC_NUMBER + b"\x01\0\0\0" + importlib.util.source_hash(after)
    wrong_code += code(b"WRONG = 1\n", source)
    with pytest.raises(GaudiPatchError) as caught:
        getattr(target, verb)(Writes(path, wrong_code))
    assert (caught.value.exit, caught.value.code) == (Exit.ENVIRONMENT, "verify-failed")
    assert caught.value.file == str(path)
    assert target.sides() == before
    assert getattr(target, verb)().exit is Exit.OK


def test_a_rollback_restores_bytecode_as_it_was_even_where_it_was_wrong(tmp_path: Path) -> None:
    """The series did not cause it, so it must not block a rollback."""
    target = scenarios.few(tmp_path)
    source = target.site / MODULE
    cached(target).write_bytes(header(source, Mode.UNCHECKED_HASH) + code(b"OTHER = 1\n", source))
    before = tree(target.site)
    assert target.apply().exit is Exit.OK
    assert target.check().exit is Exit.OK
    assert target.rollback().exit is Exit.OK
    assert tree(target.site) == before

"""No target can make gaudi-patch touch files outside the package, hang, or end with a traceback.

Each case of tests/support/hostile runs against each command, with --path, and with --root or --python. Each time the
victim next to the target is unchanged to the byte and nanosecond, no secret is copied, and no set-id bit appears.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from gaudi_patch.errors import Exit
from tests.support import tiny
from tests.support.faults import FULL, copy_tree
from tests.support.hostile import CASES, SECRET, Case, snapshot
from tests.support.hostile.images import WAYS, make_templates, spoil

#: Limits in seconds that no command reaches: processor time, and wall time before it is considered hung.
CPU, WAIT = 10.0, 60.0
EXITS = {int(code) for code in Exit} - {int(Exit.BUG)}


class Ended(NamedTuple):
    code: int
    output: str
    cpu: float


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image with a pristine environment, one with the series applied, and the attestation of the latter."""
    return make_templates(tmp_path_factory.mktemp("hostile"))


def run(arguments: list[str], output: Path) -> Ended:
    """Run gaudi-patch in a forked process, since starting Python takes most of the time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads; the child has only one
        pid = os.fork()
    if pid == 0:
        _run_in_child(arguments, output)
    deadline = time.monotonic() + WAIT
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            pytest.fail(f"{' '.join(arguments)} hangs")
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, output.read_text(errors="backslashreplace"), usage.ru_utime + usage.ru_stime)


def _run_in_child(arguments: list[str], output: Path) -> None:
    code = 99
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, opened in ((0, null), (1, descriptor), (2, descriptor)):
            os.dup2(opened, number)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir("/")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from gaudi_patch.cli import app

        app(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kinds(number: int) -> tuple[str, ...]:
    """Return --path for each case, plus --root or --python in turn for each third case; all in a full run."""
    if FULL:
        return WAYS
    return ("path",) if number % 3 else ("path", ("root", "python")[number % 2])


EACH = [
    pytest.param(case, kind, id=f"{case.name}-{kind}") for number, case in enumerate(CASES) for kind in kinds(number)
]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(("case", "kind"), EACH)
def test_nothing_outside_is_touched(case: Case, kind: str, templates: Path, tmp_path: Path) -> None:
    """case_20: by check, doctor, check --against, apply and rollback."""
    work = tmp_path.resolve()
    image, victim, where = spoil(case, templates, work, kind)
    before, names = snapshot(victim), {path.name for path in work.iterdir()} | {"out"}
    options = list(map(str, where))
    acts = [
        ["apply", "--dry-run"],
        ["apply", "--no-smoke"],
        ["rollback"],
        ["rollback", "--force", "--save-to", str(work)],
    ]
    acts = acts[2:3] + acts if case.applied else acts
    looks = [["check"], ["doctor"], ["check", "--against", str(templates / "attestation.json")]]
    for number, command in enumerate([*looks, *acts]):
        ended = run([*command, *options], tmp_path / "out")
        told = f"{' '.join(command)} ended with {ended.code}: {ended.output}"
        assert ended.code in EXITS, told
        assert "Traceback" not in ended.output, told
        assert ended.cpu < CPU, told
        assert snapshot(victim) == before, told
        assert SECRET.decode() not in ended.output, told
        if case.exits is not None and number == len(looks):
            assert ended.code in case.exits, told
        assert_no_more_rights(image)
    assert [
        path.name for path in work.iterdir() if path.name not in names and "gaudi-patch-saved" not in path.name
    ] == []


def assert_no_more_rights(image: Path) -> None:
    """Assert that there is no set-id bit, no world-writable file, and no copy of the secret."""
    for path in image.rglob("*"):
        info = path.lstat()
        if stat.S_ISREG(info.st_mode):
            assert not info.st_mode & 0o7002, path
            if info.st_nlink == 1 and info.st_size < 1 << 20:
                assert SECRET not in path.read_bytes(), path


def test_a_link_swapped_in_between_look_and_write_changes_nothing_outside(tmp_path: Path) -> None:
    """At each step of a run, a directory of the package becomes a link that leads outside."""
    from gaudi_patch.disk import Disk
    from gaudi_patch.errors import GaudiPatchError
    from tests.support.faults import Recorder

    target = tiny.make(tmp_path)
    recorder = Recorder()
    target.apply(recorder)
    target.rollback()
    start = copy_tree(target.site, tmp_path / "start")
    outside = tmp_path / "outside"

    class Swap(Disk):
        def __init__(self, at: int, path: Path) -> None:
            self.left, self.path = at, path

        def step(self, name: str, path: Path) -> None:
            self.left -= 1
            if self.left == 0 and self.path.is_dir():
                self.path.rename(self.path.with_name(f"{self.path.name}-away"))
                self.path.symlink_to(outside)

    tried = 0
    swapped = [target.site / "lmcache", target.site / "lmcache/v1", target.dist_info, target.home, target.state_dir]
    for path in swapped:
        for at in range(1, len(recorder.calls), 1 if FULL else 13):
            copy_tree(start, target.site)
            copy_tree(target.site / "lmcache" if path in (target.home, target.state_dir) else path, outside)
            for name in ("journal.json", "undo", "state.json"):
                (outside / name).write_bytes(b"theirs")
            before = snapshot(outside)
            try:
                target.apply(Swap(at, path))
            except (GaudiPatchError, OSError):
                tried += 1
            assert snapshot(outside) == before, (path, at)
    assert tried > 10

"""Signals and other programs during a transaction."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gaudi_patch.disk import Disk
from gaudi_patch.engine import journal
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.transactions import Hook, _replace, at
from tests.support import scenarios
from tests.support.faults import Recorder, in_child
from tests.support.tiny import Tiny, tree


class Interrupted(Disk):
    """Raises ``error`` before step ``number``."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.left, self.error = number, error

    def step(self, name: str, path: Path) -> None:
        self.left -= 1
        if self.left == -1:
            raise self.error


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_ctrl_c_at_every_step_leaves_a_whole_state(verb: str, few: Tiny, tmp_path: Path) -> None:
    """case_11: undone until the commit; after it, at most litter is left for the next run."""
    if verb == "rollback":
        few.apply()
    start = tree(few.site)
    committed = False
    for number in range(1000):
        try:
            getattr(few, verb)(Interrupted(number, KeyboardInterrupt()))
        except KeyboardInterrupt:
            after = tree(few.site)
            if after == start:
                assert not committed
                continue
            committed = True
            assert few.check().exit is (Exit.OK if verb == "apply" else Exit.PENDING)
            getattr(few, "rollback" if verb == "apply" else "apply")()
        else:
            break
    assert committed
    assert number > 40


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_undoes_and_is_the_exit_code(
    number: signal.Signals, code: int, few: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    """case_11: at any step of a real run; no traceback; a second signal does no more harm than the first."""
    before = tree(few.site)
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    seen = set()
    for at_step in range(0, len(recorder.calls), 3):
        child = in_child(lambda at_step=at_step: _signalled(few, number, at_step))
        state = few.check()
        assert not (few.home / journal.FILE).exists()
        seen.add((child, state.exit))
        if state.exit is Exit.OK:
            few.rollback()
        assert tree(few.site) == before
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out
    assert {one for one, _ in seen} == {code}
    assert (code, Exit.PENDING) in seen


def _signalled(target: Tiny, number: signal.Signals, at_step: int) -> None:
    """Run `gaudi-patch apply` in this process, and send the signal twice from ``at_step`` on."""
    from gaudi_patch.cli.run import guarded

    count = 0

    def step(self: Disk, name: str, path: Path) -> None:
        nonlocal count
        if count in (at_step, at_step + 1):
            os.kill(os.getpid(), number)
        count += 1

    Disk.step = step  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = guarded("apply", lambda: target.apply(), False)
    os._exit(int(result.exit))


def test_another_program_is_not_overwritten(few: Tiny) -> None:
    """case_64: a target changes between planning and its replacement: exit 1, its bytes kept, the rest unchanged."""
    before = tree(few.site)
    engine = few.site / "lmcache/engine.py"
    theirs = b"# pip was here\n"
    with pytest.raises(GaudiPatchError) as caught:
        few.apply(Hook("read", at(engine), lambda: _replace(engine, theirs)))
    assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "changed-meanwhile")
    assert caught.value.file == str(engine)
    assert engine.read_bytes() == theirs
    assert not few.home.exists()
    engine.write_bytes(scenarios.FEW["lmcache/engine.py"])
    assert tree(few.site) == before


def test_bytecode_that_python_writes_meanwhile_does_no_harm(few: Tiny) -> None:
    """case_46: a running interpreter may write a .pyc at any time; gaudi-patch replaces it."""
    pyc = next((few.site / "lmcache/__pycache__").glob("engine.*.pyc"))
    engine = few.site / "lmcache/engine.py"
    assert few.apply(Hook("read", at(engine), lambda: pyc.write_bytes(b"theirs"))).exit is Exit.OK
    assert pyc.read_bytes() != b"theirs"

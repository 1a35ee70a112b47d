"""Messages and exit code match what a run did to the files, at whichever step it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from gaudi_patch.cli.run import guarded
from gaudi_patch.commands.apply import applied
from gaudi_patch.commands.rollback import rolled_back
from gaudi_patch.disk import Disk
from gaudi_patch.engine import journal
from gaudi_patch.engine import rollback as rolling
from gaudi_patch.engine.apply import ApplyOptions
from gaudi_patch.engine.progress import Progress
from gaudi_patch.engine.rollback import RollbackOptions
from gaudi_patch.errors import Exit
from gaudi_patch.output.report import Result
from tests.support.faults import FULL, KILLED, FailAt, KillAt, Recorder, in_child
from tests.support.tiny import Tiny

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGQUIT: 143}

#: What a run may report at its end, and the side that all files are then on: its start or its goal.
WORDS = {
    "nothing was changed": "begin",
    "all changes were undone": "begin",
    "series 0.5.6 is applied": "end",
    "series 0.5.6 is rolled back": "end",
}


class SignalAt(Disk):
    """Sends itself a signal before step ``at``."""

    def __init__(self, at: int, number: signal.Signals) -> None:
        self.left, self.number = at, number

    def step(self, name: str, path: Path) -> None:
        self.left -= 1
        if self.left == -1:
            os.kill(os.getpid(), self.number)


def run(verb: str, target: Tiny, disk: Disk) -> Result:
    """Run a command; return its result as the command line reports it."""
    progress = Progress()

    def work() -> Result:
        if verb == "apply":
            return applied(target.manifest, target.installation, ApplyOptions(disk=disk), None, progress)
        return rolled_back(target.manifest, target.installation, RollbackOptions(disk=disk), progress)

    return guarded(verb, work, False, progress)


def side(target: Tiny) -> str:
    """Return the one side of all files whose bytes change."""
    changing = [path for path, after in target.patched.items() if after != target.pristine.get(path)]
    (found,) = {target.sides()[path] for path in changing}
    return found


def steps(verb: str, target: Tiny) -> int:
    recorder = Recorder()
    run(verb, target, recorder)
    back_to_begin(verb, target)
    return len(recorder.calls)


def back_to_begin(verb: str, target: Tiny) -> None:
    if verb == "apply":
        target.rollback()
    else:
        target.apply()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_a_signal_at_any_step_says_what_holds(verb: str, number: signal.Signals, few: Tiny, tmp_path: Path) -> None:
    back_to_begin(verb, few)
    begin, end = ("pristine", "patched") if verb == "apply" else ("patched", "pristine")
    said = tmp_path / "said.json"

    def child(at: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = run(verb, few, SignalAt(at, number))
        said.write_text(result.to_json())
        os._exit(int(result.exit))

    seen = set()
    total = steps(verb, few)
    # The commit is near the end: each of the last steps, and a sample of the others.
    for at in sorted({*range(0, total - 8, 1 if FULL else 16), *range(total - 8, total)}):
        assert in_child(lambda at=at: child(at)) == SIGNALS[number]  # type: ignore[misc]
        (error,) = json.loads(said.read_text())["errors"]
        first, _, words = error["message"].partition("; ")
        assert first in ("interrupted", "terminated")
        assert side(few) == {"begin": begin, "end": end}[WORDS[words]], f"step {at}: {words}"
        seen.add(WORDS[words])
        if side(few) == end:
            back_to_begin(verb, few)
    assert seen == {"begin", "end"}


@pytest.mark.parametrize("verb", ["apply", "rollback"])
@pytest.mark.parametrize("forever", [False, True])
def test_an_error_at_any_step_says_what_holds(verb: str, forever: bool, few: Tiny) -> None:
    """Exit 4 means an unchanged target, 6 one that needs repair, 0 success."""
    back_to_begin(verb, few)
    begin, end = ("pristine", "patched") if verb == "apply" else ("patched", "pristine")
    codes = set()
    for at in range(0, steps(verb, few), 1 if FULL else 3):
        disk = FailAt(at, errno.EIO, from_then_on=forever)
        result = run(verb, few, disk)
        assert disk.failed
        codes.add(result.exit)
        if result.exit is Exit.ENVIRONMENT:
            assert side(few) == begin
            assert WORDS[result.errors[0].message.rpartition("; ")[2]] == "begin"
        elif result.exit is Exit.OK:
            assert side(few) == end
        else:
            assert result.exit is Exit.HUMAN
            assert forever
        few.apply()
        few.rollback()
        if verb == "rollback":
            few.apply()
    assert Exit.ENVIRONMENT in codes


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_nothing_could_be_written_nothing_is_said_to_be_undone(few: Tiny) -> None:
    few.dist_info.chmod(0o555)
    result = run("apply", few, Disk())
    few.dist_info.chmod(0o755)
    assert result.errors[0].message.endswith("; nothing was changed")


def test_where_the_first_write_is_refused_nothing_is_said_to_be_undone(few: Tiny) -> None:
    class Refusing(Disk):
        def step(self, name: str, path: Path) -> None:
            if name == "mkdir":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))

    result = run("apply", few, Refusing())
    (error,) = result.errors
    assert (result.exit, error.code) == (Exit.ENVIRONMENT, "eacces")
    assert error.message == "Permission denied while applying series 0.5.6; nothing was changed"
    assert result.data["stage"] == "not-started"


def test_a_rollback_that_cannot_be_looked_at_again_says_that_it_was_made(
    few: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    few.apply()
    look, calls = rolling.look, []

    def failing(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error", "/somewhere/engine.py")
        return look(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(rolling, "look", failing)
    result = run("rollback", few, Disk())
    (error,) = result.errors
    assert (result.exit, error.code, error.file) == (Exit.HUMAN, "unverified", "/somewhere/engine.py")
    assert error.message.startswith("series 0.5.6 is rolled back")
    assert side(few) == "pristine"


@pytest.mark.parametrize(("verb", "code"), [("apply", "not-patched"), ("rollback", "not-pristine")])
@pytest.mark.parametrize("kind", ["edited", "link", "gone"])
def test_what_another_program_changes_after_the_commit_is_named_and_no_bug(
    kind: str, verb: str, code: str, few: Tiny
) -> None:
    """Both were once reported as a bug in gaudi-patch, exit 70, though the run had succeeded."""
    if verb == "rollback":
        few.apply()
    file = few.site / "lmcache/engine.py"
    other = few.site.parent / "other.py"
    other.write_bytes(b"theirs\n")

    class Swap(Disk):
        committed = False

        def step(self, name: str, path: Path) -> None:
            if self.committed and not file.is_symlink():
                file.unlink(missing_ok=True)
                if kind == "link":
                    file.symlink_to(other)
                elif kind == "edited":
                    file.write_bytes(b"mine\n")
            self.committed |= name == "unlink" and path.name == journal.FILE

    result = run(verb, few, Swap())
    (error,) = result.errors
    assert (result.exit, error.code, result.data["stage"]) == (Exit.HUMAN, code, "committed")
    assert "since then something else has changed 1 file" in error.message
    assert [line.endswith("lmcache/engine.py") for line in error.details] == [True]
    assert other.read_bytes() == b"theirs\n"


def test_the_recovery_of_a_killed_run_is_told_of_where_the_run_itself_fails(few: Tiny) -> None:
    recorder = Recorder()
    few.apply(recorder)
    few.rollback()
    commit = recorder.calls.index(("unlink", few.home / journal.FILE))
    assert in_child(lambda: few.apply(KillAt(commit))) == KILLED

    class Refusing(Disk):
        undone = False

        def step(self, name: str, path: Path) -> None:
            self.undone |= name == "unlink" and path.name == journal.FILE
            if self.undone and name == "mkdir":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))

    result = run("apply", few, Refusing())
    assert result.exit is Exit.ENVIRONMENT
    assert any("an interrupted apply was undone first" in text for text in result.warnings)

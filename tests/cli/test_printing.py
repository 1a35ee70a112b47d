"""A run's result does not depend on printing: closed, full, strict and narrow streams, odd names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gaudi_patch import cli
from gaudi_patch.errors import Exit
from gaudi_patch.output import report
from gaudi_patch.output.report import Color, Format, Result
from tests.cli.command_line import arguments, shell
from tests.support import tiny
from tests.support.cli import command, environment
from tests.support.tiny import Tiny

#: A possible directory name: a CI runner's command on its own line, colours, reversed text.
ODD = b"a\n::stop-commands::x\x1b[31m\xe2\x80\xae b"
NOT_UTF8 = b"caf\xe9"


@pytest.fixture(params=[ODD, NOT_UTF8], ids=["controls", "undecodable"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path / os.fsdecode(request.param))


@pytest.fixture
def plain_target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path / "a")


def run(target: Tiny, verb: str, *more: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments(target, verb, *more)),
        capture_output=True, env=environment(**env), timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("columns", ["1", "2", "3", "80"])
@pytest.mark.parametrize("more", [(), ("--color", "always"), ("--output-format", "github"), ("--json",)], ids=str)
def test_odd_names_change_no_exit_code_and_send_no_control_character(
    more: tuple[str, ...], columns: str, target: Tiny, tmp_path: Path
) -> None:
    """Each command of a whole workflow, on a strict UTF-8 stream; also within a GitHub job."""
    env = {"COLUMNS": columns, "PYTHONIOENCODING": "utf-8:strict", "GITHUB_STEP_SUMMARY": str(tmp_path / "page")}
    for verb, code in (("check", 10), ("apply", 0), ("check", 0), ("rollback", 0)):
        done = run(target, verb, *more, **env)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        text = (done.stdout + done.stderr).decode("utf-8", "strict")
        assert "\u202e" not in text
        assert "\x1b[31m" not in text.replace("\x1b[31m-", "")
        assert not [line for line in text.splitlines() if line.lstrip().startswith("::stop-commands")]
        if more == ("--json",):
            assert json.loads(done.stdout)["exit_code"] == code


@pytest.mark.parametrize("redirect", ["> /dev/full", ">&-", "| true"])
@pytest.mark.parametrize(("verb", "state"), [("check", Exit.PENDING), ("apply", Exit.OK)])
def test_json_that_was_not_written_is_an_error_and_says_what_was_done(
    verb: str, state: Exit, redirect: str, plain_target: Tiny
) -> None:
    """The requested JSON is missing, so neither 0 nor 10 is right; all changes are kept."""
    done = shell(f'set -o pipefail; "$@" --json {redirect}', plain_target, verb)
    assert done.returncode == 4, done.stderr
    assert "error: the JSON was not written to standard output" in done.stderr
    assert f"finished with exit code {10 if verb == 'check' else 0}" in done.stderr
    assert "Traceback" not in done.stderr
    assert plain_target.check().exit is state


def test_an_error_stays_that_error_where_its_json_is_lost(plain_target: Tiny) -> None:
    (plain_target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    done = shell('"$@" --json > /dev/full', plain_target, "check")
    assert done.returncode == 1
    assert "neither pristine nor patched" in done.stderr


@pytest.mark.parametrize("streams", [">&- 2>&-", "> /dev/full 2> /dev/full"])
def test_lost_json_is_an_error_also_where_nothing_can_be_said(streams: str, plain_target: Tiny) -> None:
    assert shell(f'"$@" --json {streams}', plain_target, "apply").returncode == 4
    assert plain_target.check().exit is Exit.OK


@pytest.mark.parametrize("color", ["auto", "always"])
def test_a_fault_of_the_printing_itself_is_no_fault_of_the_run(
    color: str, plain_target: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise AssertionError("layout")

    monkeypatch.setattr("gaudi_patch.output.terminal.rendered", fail)
    monkeypatch.setattr("gaudi_patch.output.wrapping.width_of", fail)
    done = CliRunner().invoke(cli.app, [*arguments(plain_target, "apply"), "--color", color])
    assert (done.exit_code, "applied series" in done.stdout) == (0, True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("output", "code"), [(Format.TEXT, Exit.PENDING), (Format.JSON, Exit.ENVIRONMENT)])
def test_an_interrupt_while_printing_undoes_nothing_and_says_nothing_else(
    output: Format, code: Exit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gaudi_patch.cli.run import printed

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "show", interrupted)
    assert printed(Result("check", Exit.PENDING), output, Color.AUTO) is code
    assert ("finished with exit code 10" in capsys.readouterr().err) == (output is Format.JSON)


def test_a_reader_that_is_slow_and_an_interrupt_leave_the_true_exit_code(plain_target: Tiny) -> None:
    """apply has ended and its diff is stuck in an unread pipe: Ctrl-C does not turn the result into "refused"."""
    reading, writing = os.pipe()
    code = (
        "import sys\n"
        "from gaudi_patch import cli\n"
        "from gaudi_patch.output import streams\n"
        "write = streams.write\n"
        "def slow(stream, text):\n"
        "    return write(stream, text + 'x' * (1 << 20)) if stream is sys.stdout else write(stream, text)\n"
        "from gaudi_patch.output import report\n"
        "report.write = slow\n"
        f"sys.argv = ['gaudi-patch', *{arguments(plain_target, 'apply')!r}]\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, env=environment(), text=True
    )
    os.close(writing)
    os.read(reading, 1)  # it prints: all work is done
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    os.close(reading)
    assert (process.returncode, err) == (0, "")
    assert plain_target.check().exit is Exit.OK

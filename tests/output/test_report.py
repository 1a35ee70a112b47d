"""One Result, four ways to show it."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import report, streams
from gaudi_patch.output.report import Color, Diff, Fields, Format, Result, Table, Text

ERROR = GaudiPatchError(Exit.REFUSED, "drift", "100% of it\nis, or: was", "do: this", "a,b:c.patch", 7, ["x", "y"])


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY", "TERM"):
        monkeypatch.delenv(name, raising=False)


def result() -> Result:
    return Result(
        "check",
        Exit.REFUSED,
        {"b": 1, "a": None},
        [
            Fields([("name", "x"), ("longer name", "y [bold]z[/]")]),
            Table(("state", "file"), [("pristine", "a|b"), ("modified", "c")], "Files", 0),
            Diff("--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y"),
            Text("next: go", "next"),
        ],
        ["careful"],
        [ERROR],
    )


def test_json_is_one_sorted_object(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(result(), Format.JSON, Color.ALWAYS)
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "schema_version": 1,
        "command": "check",
        "status": "error",
        "exit_code": 1,
        "data": {"a": None, "b": 1},
        "warnings": ["careful"],
        "errors": [
            {
                "code": "drift",
                "message": "100% of it\nis, or: was",
                "hint": "do: this",
                "file": "a,b:c.patch",
                "line": 7,
                "details": ["x", "y"],
            }
        ],
    }
    assert list(json.loads(out)) == sorted(json.loads(out))


def test_plain_text_is_lines_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(result(), Format.TEXT, Color.AUTO)
    out, err = capsys.readouterr()
    assert out == (
        "name:        x\n"
        "longer name: y [bold]z[/]\n"
        "Files\n"
        "state     file\n"
        "pristine  a|b\n"
        "modified  c\n"
        "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n"
        "next: go\n"
    )
    assert err == ("warning: careful\nerror: a,b:c.patch:7: 100% of it\\nis, or: was\n  x\n  y\n  next: do: this\n")


def test_an_error_without_a_place_or_hint_is_one_line() -> None:
    assert report.error_lines(GaudiPatchError(Exit.BUG, "x", "what")) == ["error: what"]
    assert report.error_lines(GaudiPatchError(Exit.BUG, "x", "what", file="f")) == ["error: f: what"]


def test_github_annotations_are_escaped_as_the_runner_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(result(), Format.GITHUB, Color.AUTO)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "::error file=a%2Cb%3Ac.patch,line=7,title=gaudi-patch drift::100%25 of it\\nis, or: was%0Ax%0Ay%0Ado: this"
    )
    assert lines[1] == "::warning::careful"


def test_the_job_summary_is_appended_as_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    report.show(result(), Format.GITHUB, Color.AUTO)
    text = summary.read_text()
    assert text.startswith("before\n### gaudi-patch check: exit 1\n")
    assert "| state | file |\n| --- | --- |\n| pristine | a&#124;b |\n" in text
    assert "```\n--- a\n" in text


def test_a_job_summary_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    report.show(result(), Format.GITHUB, Color.AUTO)
    assert "warning: could not write the job summary" in capsys.readouterr().err


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_states_are_coloured_and_markup_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    report.show(result(), Format.TEXT, Color.AUTO)
    text = terminal.getvalue()
    assert "\x1b[36mpristine" in text
    assert "[bold]z[/]" in text
    assert "\x1b[1;31mmodified" in text


@pytest.mark.parametrize(
    ("color", "env", "terminal", "expected"),
    [
        (Color.AUTO, {}, True, True),
        (Color.AUTO, {}, False, False),
        (Color.AUTO, {"TERM": "dumb"}, True, False),
        (Color.AUTO, {"NO_COLOR": "1"}, True, False),
        (Color.AUTO, {"NO_COLOR": ""}, True, True),
        (Color.AUTO, {"FORCE_COLOR": "1"}, False, True),
        (Color.AUTO, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        (Color.ALWAYS, {"NO_COLOR": "1"}, False, True),
        (Color.NEVER, {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_who_decides_about_colour(
    color: Color, env: dict[str, str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    assert report.wants_color(stream, color) is expected
    assert report.wants_color(None, Color.AUTO) is bool(env.get("FORCE_COLOR") and not env.get("NO_COLOR"))


class Gone(io.StringIO):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("I/O operation on closed file")]
)
@pytest.mark.parametrize("output", list(Format))
def test_a_stream_that_is_gone_is_as_good_as_quiet(
    error: Exception, output: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """case_12"""
    monkeypatch.setattr(sys, "stdout", Gone(error))
    monkeypatch.setattr(sys, "stderr", Gone(error))
    report.show(result(), output, Color.AUTO)
    if isinstance(error, OSError):
        report.show(result(), output, Color.ALWAYS)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    report.show(result(), output, Color.AUTO)


def test_a_stream_that_failed_does_not_fail_again_at_exit(tmp_path: Path) -> None:
    """case_12: the rest of its buffer goes to /dev/null."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    streams.write(stream, "text")
    stream.write("more")
    stream.close()


def test_a_name_that_the_locale_cannot_write_is_escaped() -> None:
    """case_24"""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    streams.write(stream, "ü\udcff\n")
    assert raw.getvalue() == b"\\xfc\\udcff\n"

"""Output on a terminal: nothing cropped, nothing to be copied wrapped, and never a traceback."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from gaudi_patch import guides
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import plain, report, streams, terminal
from gaudi_patch.output.report import Color, Diff, Fields, Format, Markdown, Preformatted, Result, Table, Text
from gaudi_patch.output.wrapping import Whole

LONG = "word " * 60 + "end"
EVERYTHING = (
    Fields([("name", LONG), ("a rather long name", "x")]),
    Table(("state", "file", "why"), [("modified", "x" * 200, LONG), ("ok", "", "")], LONG, 0),
    Diff(f"--- a\n+++ b\n@@ -1 +1 @@\n-{LONG}\n+{LONG}\n"),
    Markdown(f"# title\n\n{LONG}\n\n1. one\n\n```\n{LONG}\n```\n"),
    Text(LONG, "good"),
    Text(f"in /{'x' * 200}", verbatim=True),
    Preformatted(f"{LONG}\n  {LONG}"),
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Full(Terminal):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")


def on_terminal(monkeypatch: pytest.MonkeyPatch, result: Result, output: Format, color: Color) -> tuple[str, str]:
    """Return the output on a terminal, and the return value of ``show``."""
    with monkeypatch.context() as patch:
        stream = Terminal()
        patch.setattr(sys, "stdout", stream)
        problem = report.show(result, output, color)
    return stream.getvalue(), problem


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize(
    "block", [Diff(f"+{LONG}\n-{'y' * 300}\n {LONG}"), Preformatted(LONG), Text(LONG, verbatim=True)]
)
def test_lines_are_whole_at_any_width(block: Diff | Preformatted | Text) -> None:
    assert bare(terminal.rendered([block], Color.ALWAYS)) == f"{block.text}\n"


def test_sentences_and_cells_break_at_spaces_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting's name split over two lines cannot be searched for or copied."""
    monkeypatch.setenv("COLUMNS", "80")
    setting = "(enable_scheduler_bypass_lookup)"
    rows = [("0.3.9.post1 to 0.5.6", f"lookups that bypass the workers {setting}", LONG)]
    blocks = [Text(f"- {LONG}"), Table(("LMCache", "does not work", "in its place"), rows)]
    drawn = [bare(terminal.rendered([block], Color.ALWAYS)) for block in blocks]
    assert all(len(line) <= 80 for text in drawn for line in text.splitlines())
    assert drawn[0].split() == ["-", *LONG.split()]
    assert all(line.startswith("  ") for line in drawn[0].splitlines()[1:])
    assert setting in drawn[1]
    assert {word for line in drawn[1].splitlines()[2:] for word in line.split()} <= set(" ".join(rows[0]).split())


def test_a_command_to_be_typed_is_one_line_at_any_width() -> None:
    command = f"gaudi-patch apply --python /{'x' * 30}/python --manifest '/a b/patches'"
    blocks = [Text(f"next: {command}", "next"), Fields([("why", LONG), ("fix", Whole(command))])]
    for text in (bare(terminal.rendered(blocks, Color.ALWAYS)), plain.all_plain(blocks)):
        lines = text.splitlines()
        assert lines[0] == f"next: {command}"
        assert lines[-1].endswith(f" {command}")
        assert max(map(len, lines[1:-1])) <= 80


def test_a_diff_is_coloured_by_the_first_letter_of_its_lines() -> None:
    drawn = terminal.rendered([Diff("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n same")], Color.ALWAYS)
    for line in ("\x1b[1m--- a/x", "\x1b[36m@@ -1 +1 @@", "\x1b[31m-old", "\x1b[32m+new", "\n same"):
        assert line in drawn


@pytest.mark.parametrize("name", guides.NAMES)
def test_each_line_of_code_of_a_guide_is_one_line(name: str) -> None:
    """A wrapped command does not run when it is pasted."""
    markdown = guides.read(name).markdown
    lines = bare(terminal.rendered([Markdown(markdown)], Color.ALWAYS)).splitlines()
    code = [
        line
        for block in re.findall(r"^```[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert code
    assert [line for line in code if line not in lines] == []


@pytest.mark.parametrize("columns", ["1", "2", "3", "5", "9", "20", "80", "100000"])
@pytest.mark.parametrize("color", list(Color))
def test_any_width_shows_every_word(columns: str, color: Color, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    drawn, _ = on_terminal(monkeypatch, Result("check", blocks=list(EVERYTHING)), Format.TEXT, color)
    letters = re.sub(r"\s", "", bare(drawn))
    assert letters.count("end") == 10
    assert letters.count("x") >= 401
    assert plain.all_plain(EVERYTHING).count("end") == 10


@pytest.mark.parametrize("fault", [AssertionError("no layout"), RecursionError(), MemoryError(), UnicodeError("x")])
@pytest.mark.parametrize("output", [Format.TEXT, Format.GITHUB, Format.GITLAB])
def test_where_rendering_fails_the_text_is_plain(
    fault: Exception,
    output: Format,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise fault

    monkeypatch.setattr(terminal, "rendered", fail)
    if output is not Format.TEXT:
        monkeypatch.setattr("gaudi_patch.output.wrapping.width_of", fail)
    result = Result("apply", blocks=[Text("applied"), Fields([("a", "b")])], errors=[])
    drawn, problem = on_terminal(monkeypatch, result, output, Color.AUTO)
    assert problem == ""
    assert "applied\na: b\n" in drawn
    assert "warning: shown without layout" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", [EVERYTHING, (Text("in /caf\udce9"), Text("é"))])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_strict_stream_takes_whatever_there_is_to_show(
    blocks: tuple[report.Block, ...], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    assert report.show(Result("check", blocks=list(blocks)), Format.TEXT, Color.ALWAYS) == ""
    assert raw.getvalue()
    assert b"\xed\xb3" not in raw.getvalue()


def test_json_that_is_not_written_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fault = GaudiPatchError(Exit.REFUSED, "drift", "files differ")
    for stream, problem in ((Full(), "No space left on device"), (None, "it is closed")):
        monkeypatch.setattr(sys, "stdout", stream)
        assert report.show(Result("check", errors=[fault]), Format.JSON, Color.AUTO) == problem
        err = capsys.readouterr().err
        assert err == f"error: the JSON was not written to standard output: {problem}\nerror: files differ\n"


def test_json_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not JSON serializable" in report.show(Result("check", data={"a": object()}), Format.JSON, Color.AUTO)
    assert "error: the JSON was not written" in capsys.readouterr().err


def test_writing_tells_what_was_lost(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        assert streams.write(stream, "text") == ""
    assert streams.write(stream, "text") == "I/O operation on closed file."
    assert streams.write(None, "text") == "it is closed"
    assert (tmp_path / "out").read_text() == "text"


def test_the_json_is_the_same_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, problem = on_terminal(monkeypatch, Result("check", data={"a": 1}), Format.JSON, Color.ALWAYS)
    assert problem == ""
    assert json.loads(drawn)["data"] == {"a": 1}


@pytest.mark.parametrize("width", ["80", "120"])
def test_a_table_is_set_off_by_one_blank_line_and_nothing_ends_with_one(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    table = Table(("state", "file"), [("ok", "a.py")])
    for blocks in (
        [Text("one"), table, Text("next: two", "next")],
        [table, Text(""), table, Text(""), Text("next: two", "next")],
        [table, table, Fields([("a", "b")])],
        [Text("one"), Text(""), table],
    ):
        lines = [
            line.rstrip()
            for line in bare(
                on_terminal(monkeypatch, Result("list", blocks=list(blocks)), Format.TEXT, Color.ALWAYS)[0]
            ).split("\n")
        ]
        assert "\n\n\n" not in "\n".join(lines), blocks
        assert lines[-1] == "" and lines[-2] != "", blocks
        for index, line in enumerate(lines[:-2]):
            after_table = line.endswith("a.py")
            assert (lines[index + 1] == "") is (after_table or (line == "one" and Text("") in blocks)), blocks


@pytest.mark.parametrize("name", sorted(guides.NAMES))
def test_a_guide_has_no_double_blank_lines_but_those_of_its_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = f"{guides.read(name).markdown}\n```\nfirst\n\n\nlast\n```\n"
    shown, _ = on_terminal(monkeypatch, Result("guide", blocks=[Markdown(text)]), Format.TEXT, Color.ALWAYS)
    lines = "\n".join(line.rstrip() for line in bare(shown).split("\n"))
    assert lines.endswith("\n\nfirst\n\n\nlast\n")
    assert "\n\n\n" not in lines.replace("first\n\n\nlast", "code")
    assert lines[0] != "\n"

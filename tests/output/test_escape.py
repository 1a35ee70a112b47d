"""No text of a target controls a terminal, a CI runner, or a page: it is shown escaped."""

from __future__ import annotations

import html
import io
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import github, report, terminal
from gaudi_patch.output.escape import no_commands, visible, visible_lines
from gaudi_patch.output.plain import escaped, plain
from gaudi_patch.output.report import Color, Diff, Fields, Format, Markdown, Notice, Preformatted, Result, Table, Text

#: Texts that may occur in a target's versions, paths and errors.
HOSTILE = (
    "\n::error::owned",
    "\r\n  ::stop-commands::x",
    "##[command]owned",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b31m\x85",
    "abc\u202egpj.exe\u2066\u200f",
    "a\u2028b\u2029c\u200bd\ufeff",
    "\udcff\ud800",
    "a|b`c`<img src=x onerror=y>&amp;[l](javascript:z)*_~#@user ![i](u) https://x.y :tada:",
    "```\n# heading",
    "\x00\x7f\x0c\x0b",
    "section_end:1:gaudi_patch_check\r\x1b[0K",
)
#: Categories that a terminal or a reader may interpret as something other than a letter.
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def unsafe(text: str, allowed: str = "\n") -> list[str]:
    return [one for one in text if unicodedata.category(one) in UNSAFE and one not in allowed]


def hostile_result(text: str) -> Result:
    """Return a result with ``text`` in every field that may contain a target's text."""
    error = GaudiPatchError(Exit.REFUSED, "drift", f"what {text}", f"do {text}", f"file {text}", 3, [f"why {text}"])
    return Result(
        "check",
        Exit.REFUSED,
        {"version": text},
        [
            Fields([("version", text), (text, "value")]),
            Table(("state", text), [("modified", text), (text, "x")], f"title {text}", 0),
            Text(f"next: {text}", "next"),
            Text(f"in {text}", verbatim=True),
            Text(f"x {text}"),
        ],
        [f"careful {text}"],
        [error],
        [Notice("finding", f"look {text}")],
    )


def shown(result: Result, output: Format, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    capsys.readouterr()
    report.show(result, output, Color.NEVER)
    return capsys.readouterr()


@given(st.text(st.characters(), max_size=20))
def test_what_is_visible_holds_nothing_unsafe_and_keeps_what_is_safe(text: str) -> None:
    assert not unsafe(visible(text), "")
    assert not unsafe(visible_lines(text), "\n\t")
    if text.isprintable():
        assert visible(text) == text
    assert visible_lines(text).count("\n") == text.count("\n")


def test_an_escape_says_which_character_it_was() -> None:
    assert visible("a\x1b\n\t\x9b\u202e\udcff\U000e0001é") == "a\\x1b\\n\\t\\x9b\\u202e\\xff\\U000e0001é"


@pytest.mark.parametrize("output", [Format.TEXT, Format.GITHUB])
@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_target_is_one_line_and_no_control_character(
    text: str, output: Format, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    out, err = shown(hostile_result(text), output, capsys)
    tame_out, tame_err = shown(hostile_result("x"), output, capsys)
    assert not unsafe(out)
    assert not unsafe(err)
    assert (out.count("\n"), err.count("\n")) == (tame_out.count("\n"), tame_err.count("\n"))


@pytest.mark.parametrize("columns", ["10", "40", "80"])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_github_runner_takes_only_our_own_annotations(
    text: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are parsed as the runner does: `::` after blanks, `##[` anywhere (ActionCommand.cs). They wrap anywhere."""
    monkeypatch.setenv("COLUMNS", columns)
    spaced = f"word {text.strip()} ::error::x ::stop-commands::y"
    for result in (hostile_result(text), hostile_result(spaced)):
        result.blocks += [Diff(f" {spaced}\n ::add-mask::x"), Preformatted(f"::warning::y\n  {text}")]
        out, err = shown(result, Format.GITHUB, capsys)
        commands = [line for line in out.splitlines() if line.lstrip().startswith("::") or "##[" in line]
        assert [line.partition("::")[2].split()[0].partition("::")[0] for line in commands] == [
            "error",
            "warning",
            "warning",
        ]
        assert not [line for line in err.splitlines() if line.lstrip().startswith("::") or "##[" in line]


def test_where_a_runner_reads_plain_text_it_takes_no_line_for_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    out, err = shown(Result("show", blocks=[Diff(" ::error::x")], warnings=["##[error]x"]), Format.TEXT, capsys)
    assert (out, err) == (" \\x3a:error::x\n", "warning: #\\x23[error]x\n")
    report.narrate(["::error::x"])
    assert capsys.readouterr().err == "\\x3a:error::x\n"


def test_json_holds_no_command_for_a_runner_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = shown(Result("check", data={"version": "##[error]x ::y"}), Format.JSON, capsys)
    assert "##[" not in out
    assert json.loads(out)["data"] == {"version": "##[error]x ::y"}


@pytest.mark.parametrize("text", [one for one in HOSTILE if not re.search("[\ud800-\udfff]", one)])
def test_json_carries_control_characters_faithfully(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(shown(hostile_result(text), Format.JSON, capsys)[0])
    assert document["data"]["version"] == text
    assert document["errors"][0]["details"] == [f"why {text}"]


def test_json_is_valid_where_a_path_cannot_be_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    """Strict parsers (RFC 7493) refuse a lone surrogate; the bytes are shown as \\xNN."""
    out, _ = shown(Result("check", data={"caf\udce9": ["/a\udcff", ("\ud800",)]}), Format.JSON, capsys)
    assert not re.search(r"(?<!\\)(\\\\)*\\ud", out)
    assert json.loads(out)["data"] == {"caf\\xe9": ["/a\\xff", ["\\ud800"]]}


def test_json_has_no_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    problem = report.show(Result("bench", data={"x": float("nan")}), Format.JSON, Color.NEVER)
    assert "not JSON compliant" in problem
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_in_the_job_summary_text_of_a_target_is_only_text(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    monkeypatch.setenv("COLUMNS", "1000")
    shown(hostile_result("x"), Format.GITHUB, capsys)
    tame = page.read_text(encoding="utf-8")
    page.unlink()
    shown(hostile_result(text), Format.GITHUB, capsys)
    raw = page.read_bytes().decode("utf-8")
    assert not unsafe(raw)
    assert raw.count("\n") == tame.count("\n")
    in_code = False
    for line, same in zip(raw.splitlines(), tame.splitlines(), strict=True):
        if set(same) == {"`"}:
            in_code = not in_code
            assert set(line) == {"`"}
        elif not in_code:  # a table or a list: as much markup as without the text
            assert len(re.findall(r"[|<>`*\[\]\\_]", line)) == len(re.findall(r"[|<>`*\[\]\\_]", same)), line
            assert visible(text).strip() in html.unescape(line) or line == same
    # A code block ends at its fence, which is longer than any run of backticks in the block.
    for fence, code in re.findall(r"^(`{3,})\n(.*?)\n\1$", raw, re.MULTILINE | re.DOTALL):
        assert fence not in code


def test_what_is_verbatim_keeps_its_lines_and_tabs_and_nothing_else() -> None:
    for kind in (Diff, Markdown, Preformatted):
        assert escaped(kind("a\tb\n\x1bc\r\n")).text == "a\tb\n\\x1bc\\r\n"
    assert plain(Text("\nfirst\nsecond\n")) == "\nfirst\\nsecond\n"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", HOSTILE)
def test_on_a_terminal_no_escape_sequence_is_of_a_target(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "1000")
    blocks = [*hostile_result(text).blocks, Diff(f"+{text}"), Markdown(f"a {text}"), Preformatted(text)]
    drawn = terminal.rendered(blocks, Color.ALWAYS)
    bare = re.sub(r"\x1b\[[\d;]*m", "", drawn)
    assert not unsafe(bare)
    assert "\x1b[31mred" not in drawn


def test_a_gitlab_section_is_closed_by_us_alone(capsys: pytest.CaptureFixture[str]) -> None:
    result = hostile_result("x\r\x1b[0Ksection_end:1:gaudi_patch_check\r\x1b[0K")
    out, err = shown(result, Format.GITLAB, capsys)
    marks = re.findall(r"\x1b\[0Ksection_(start|end):\d+:gaudi_patch_check(?:\[collapsed=true\])?\r\x1b\[0K", out)
    assert marks == ["start", "end"]
    warnings = out.count("\x1b[1;33mwarning:\x1b[0m ")
    assert warnings == len(result.notices)
    assert out.count("\x1b") == 4 + 2 * warnings
    assert not unsafe(err)
    folded, _ = shown(Result("check", blocks=[Text("done")]), Format.GITLAB, capsys)
    assert "[collapsed=true]\r" in folded


def test_an_exit_10_is_annotated_with_what_is_next() -> None:
    result = Result("check", Exit.PENDING, blocks=[Text("next: gaudi-patch apply --python /x\n", "next")])
    assert github.workflow_commands(result) == (
        "::warning title=gaudi-patch pending::check: not patched; a series would apply%0Anext: "
        "gaudi-patch apply --python /x\n"
    )


@pytest.mark.parametrize("text", ["::x", "  ::x", "a ::x", "##[x", "###[x", "a\n\n ::x\n::y"])
def test_no_line_begins_a_command(text: str) -> None:
    tame = no_commands(text)
    assert not re.search(r"^\s*::", tame, re.MULTILINE)
    assert "##[" not in tame
    assert tame.replace("\\x3a", ":").replace("\\x23", "#") == text

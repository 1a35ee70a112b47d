"""The guides are true: their commands, names, numbers and tables are compared with the code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from gaudi_patch import guides
from gaudi_patch.doctor.checks import CHECKS
from gaudi_patch.series.manifest import load
from gaudi_patch.smoke import levels
from tests.guides import parts
from tests.support.cli import command, environment, gaudi_patch

#: run: a test runs it. makes-target: that test uses a prepared target instead. gaudi, placeholder: needs cards, or an
#: unpublished release. slow: takes many minutes. The last three kinds are only checked against the command line.
KINDS = {("run",), ("run", "makes-target"), ("gaudi",), ("placeholder",), ("slow",)}

MARKDOWN = {name: guides.read(name).markdown for name in guides.NAMES}
named = pytest.mark.parametrize("name", guides.NAMES)


def test_every_file_is_listed_once() -> None:
    assert sorted(guides.NAMES) == sorted(path.stem for path in guides.FOLDER.glob("*.md"))


@pytest.mark.parametrize("file", ["README.md", "gaudi_patch/guides/quick-start.md"])
def test_after_the_installation_python3_is_still_the_users(file: str, tmp_path: Path) -> None:
    """`command -v python3` then names the target; the first python3 must not become gaudi-patch's own."""
    text = (guides.FOLDER.parents[1] / file).read_text()
    (line,) = re.findall(r"^export PATH=.*", text, re.MULTILINE)
    tool = tmp_path / "gaudi-patch-tool" / "bin"
    tool.mkdir(parents=True)
    for name in ("python3", "gaudi-patch"):
        (tool / name).symlink_to("/bin/true")
    found = subprocess.run(
        ["bash", "-c", f"{line}; command -v python3 gaudi-patch"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert [Path(path).parent == tool for path in found] == [False, True]


@named
def test_a_guide_begins_with_a_title_and_a_sentence_on_it(name: str) -> None:
    one = guides.read(name)
    assert one.markdown.startswith("# ")
    assert 10 < len(one.title) < 60
    assert one.summary.endswith(".")
    assert len(one.summary) < 130
    assert len(re.findall(r"^# ", parts.prose(one.markdown), re.MULTILINE)) == 1


# Commands


@named
def test_every_code_block_says_how_it_is_tested(name: str) -> None:
    for block in parts.blocks(MARKDOWN[name]):
        assert block.language == "bash"
        assert block.words in KINDS, block


@named
def test_every_code_block_is_one_that_a_shell_takes(name: str) -> None:
    for block in parts.blocks(MARKDOWN[name]):
        done = subprocess.run(["sh", "-n"], input=block.code, text=True, capture_output=True, check=False)
        assert done.returncode == 0, (block, done.stderr)


@named
def test_the_command_line_takes_every_command_of_a_guide(name: str) -> None:
    found = list(parts.commands(MARKDOWN[name]))
    assert found
    for arguments in found:
        parts.parse(arguments)


@pytest.mark.parametrize("line", ["recipe --no-such-option", "no-such-verb", "dev port --dir", "demo extra"])
def test_a_command_that_is_none_is_noticed(line: str) -> None:
    (arguments,) = parts.commands(f"see `gaudi-patch {line}`")
    with pytest.raises(Exception, match=r"No such option|no verb|requires an argument|unexpected extra"):
        parts.parse(arguments)


@named
def test_guides_and_smoke_levels_that_a_guide_names_exist(name: str) -> None:
    for command_line in parts.commands(MARKDOWN[name]):
        verb, *arguments = [*command_line, ""]
        plain = [word for word in arguments if word and not word.startswith("-") and "," not in word]
        if verb == "guide":
            assert set(plain) <= {*guides.NAMES, "NAME"}
        if verb == "smoke":
            assert set(plain) <= set(levels.names())


# Numbers

_UNITS = r"(GB/s|GB|GiB|MiB|MB|KB|TB|bytes|tokens|ms|seconds|minutes|hours|tok/s|%|x faster)"
_NUMBER = re.compile(rf"(?<![\w.])\d[\d.,]*(\s?{_UNITS}(?!\w)|\u00d7)")
_MARK = re.compile(r"\((source|computed|measured|target|setting)[:)]")


def statements(markdown: str) -> list[str]:
    """Return the paragraphs, list items and table rows."""
    text = re.sub(r"\n(?=[-|]|\d+\. )", "\n\n", parts.prose(markdown))
    return [" ".join(one.split()) for one in text.split("\n\n") if one.strip()]


def unmarked(markdown: str) -> list[str]:
    return [one for one in statements(markdown) if _NUMBER.search(one) and not _MARK.search(one)]


@named
def test_every_number_with_a_unit_has_its_source_or_is_called_a_target(name: str) -> None:
    assert unmarked(MARKDOWN[name]) == []


def test_a_number_without_a_source_is_noticed() -> None:
    assert unmarked("It loads 30 GB in 2 s.\n\n- 16.5 GB/s (target: not measured)\n- 63\u00d7 faster") == [
        "It loads 30 GB in 2 s.",
        "- 63\u00d7 faster",
    ]


def test_the_sizes_of_a_token_are_computed_right() -> None:
    """Check each row of the table: its formula gives its number, and 5 GB divided by that gives the third column."""
    found = re.findall(
        r"\| (\d+) bytes \(computed: ([\d \u00d7\u00f7]+)\) \| (\d+) \(computed\) \|", MARKDOWN["caching"]
    )
    assert len(found) == 3
    for size, formula, tokens in found:
        value = 1
        for sign, number in re.findall(r"([\u00d7\u00f7]?) ?(\d+)", formula):
            value = value // int(number) if sign == "\u00f7" else value * int(number)
        assert value == int(size)
        assert 5 * 2**30 // value == int(tokens)


# The doctor


def test_every_symptom_names_checks_that_the_doctor_has() -> None:
    known = {check.id for check in CHECKS}
    sections = re.split(r"^### ", MARKDOWN["troubleshooting"], flags=re.MULTILINE)[1:]
    assert len(sections) > 20
    for section in sections:
        title = section.splitlines()[0]
        if title == "To be sure":  # not a symptom
            continue
        found = re.search(r"Doctor:\s+((`[\w.-]+`(,\s+)?)+)", section)
        assert found, title
        names = re.findall(r"`([\w.-]+)`", found[1])
        assert names, title
        assert set(names) <= known, (title, set(names) - known)


def test_every_doctor_name_in_any_guide_is_one() -> None:
    kinds = "|".join(sorted({check.id.partition(".")[0] for check in CHECKS}))
    for name, markdown in MARKDOWN.items():
        found = set(re.findall(rf"`((?:{kinds})\.[a-z-]+)`", markdown)) - {"device.py"}
        assert found <= {check.id for check in CHECKS}, name


# The patch, kept in step with the manifest


def test_the_patch_guide_lists_the_runtime_file_by_file() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", MARKDOWN["patch"], re.MULTILINE)
    manifest = load()
    added = {
        path for one in manifest.series for path in manifest.locked_files(one) if path.startswith("lmcache/gaudi/")
    }
    assert sorted(rows) == sorted(path.removeprefix("lmcache/gaudi/") for path in added)


def test_the_patch_guide_lists_every_changed_file_with_its_releases() -> None:
    manifest = load()
    releases: dict[str, list[Version]] = {}
    for series in manifest.series:
        for path, file in manifest.locked_files(series).items():
            if not path.startswith("lmcache/gaudi/"):
                releases.setdefault(path, []).append(Version(series.id))
                assert file.after is not None
    expected = {}
    for path, found in releases.items():
        known = sorted(Version(one.id) for one in manifest.series)
        assert sorted(found) == [one for one in known if min(found) <= one <= max(found)], f"{path}: there is a gap"
        expected[path] = f"{min(found)} to {max(found)}" if len(found) > 1 else f"{found[0]}"
    rows = dict(re.findall(r"^\| `(lmcache/[\w./]+)` \| ([\w. ]+) \|", MARKDOWN["patch"], re.MULTILINE))
    assert rows == expected


def test_the_patch_guide_explains_every_capability() -> None:
    found = re.findall(r"^- `([\w-]+)`: ", MARKDOWN["patch"], re.MULTILINE)
    assert sorted(found) == sorted(load().capabilities)


# The command


def test_guides_are_listed_and_shown() -> None:
    listed = gaudi_patch("guide")
    assert listed.code == 0
    assert all(name in listed.out for name in guides.NAMES)
    assert gaudi_patch("guide", "caching").out == MARKDOWN["caching"], "in a pipe it is the file itself"
    data = gaudi_patch("guide", "caching", "--json").json["data"]
    assert (data["name"], data["markdown"]) == ("caching", MARKDOWN["caching"])


def test_an_unknown_guide_is_a_usage_error_that_names_the_others() -> None:
    done = gaudi_patch("guide", "nonsense", "--json")
    assert (done.code, done.code_of_error) == (2, "unknown-guide")
    assert "quick-start" in json.loads(done.out)["errors"][0]["hint"]


def test_on_a_terminal_a_guide_is_rendered() -> None:
    parent, child = pty.openpty()
    terminal = environment(TERM="xterm-256color", COLUMNS="100", GAUDI_PATCH_PAGER="cat")
    with subprocess.Popen(command("guide", "patch"), stdout=child, stderr=child, env=terminal) as process:
        os.close(child)
        shown = b""
        try:
            while data := os.read(parent, 65536):
                shown += data
        except OSError:  # Linux: the other end was closed
            pass
        os.close(parent)
        assert process.wait() == 0
    text = shown.decode()
    assert "\x1b[" in text
    assert "The patch, change by change" in text
    assert "```" not in text
    assert "| --- |" not in text


def test_only_a_rendered_guide_imports_rich() -> None:
    code = "import sys\nfrom gaudi_patch import cli\nsys.argv = ['gaudi-patch', 'guide', 'patch']\n"
    code += "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
    code += "print(*sorted(name for name in sys.modules if name.startswith('rich')), file=sys.stderr)\n"
    done = subprocess.run([*command()[:1], "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.stdout == MARKDOWN["patch"]
    assert done.stderr.strip() == ""


def test_the_guides_are_in_the_wheel() -> None:
    """hatch packs the whole package; this checks the one rule that could exclude them."""
    text = (Path(guides.FOLDER).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["gaudi_patch"]' in text
    assert "*.md" not in (Path(guides.FOLDER).parents[1] / ".gitignore").read_text(encoding="utf-8")

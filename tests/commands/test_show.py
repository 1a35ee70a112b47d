"""`show`: the complete patches of a series, and the message if there are none."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from gaudi_patch.commands.show import show_series
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Table
from gaudi_patch.series.manifest import load
from tests.support.cli import gaudi_patch

MANIFEST = load()
NEWEST = MANIFEST.series[0]


def refusal(version: str) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        show_series(MANIFEST, version)
    assert caught.value.exit is Exit.NOT_FOUND
    return caught.value


def diff_lines() -> list[str]:
    text = "".join(MANIFEST.patch_bytes(name).decode() for name in NEWEST.patches)
    return [line for line in text.split("\n") if line.strip()]


def test_each_patch_is_shown_with_its_title_and_the_releases_that_have_it() -> None:
    """Parsed back from words: a range covers every release between its ends, and no other release has the patch."""
    releases = [series.id for series in MANIFEST.series]
    oldest = MANIFEST.series[-1]
    for series in (NEWEST, oldest):
        (table,) = (
            block for block in show_series(MANIFEST, series.id).blocks if isinstance(block, Table) and block.title
        )
        assert [row[0] for row in table.rows] == [name.removesuffix(".patch") for name in series.patches]
        for name, (_, title, words) in zip(series.patches, table.rows, strict=True):
            assert title == MANIFEST.patches[name].title
            covered: set[str] = set(releases) if words == "all" else set()
            for part in words.split(", ") if words != "all" else ():
                first, _, last = part.partition(" to ")
                covered |= set(releases[releases.index(last or first) : releases.index(first) + 1])
            assert covered == {other.id for other in MANIFEST.series if name in other.patches}, name
            assert series.id in covered


def test_a_diff_is_never_cropped_in_a_pipe() -> None:
    done = gaudi_patch("show", NEWEST.id, env={"COLUMNS": "40"})
    shown = set(done.out.split("\n"))
    assert max(map(len, diff_lines())) > 80
    assert [line for line in diff_lines() if line not in shown] == []


@pytest.mark.parametrize("more", [[], ["--color", "always"]])
def test_a_diff_is_never_cropped_on_a_terminal(more: list[str]) -> None:
    """Only the terminal may wrap: at 40 columns, no line of the diffs is changed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm", "PAGER": "cat"}
    command = [sys.executable, "-m", "gaudi_patch", "show", NEWEST.id, "--no-pager", *more]
    process = subprocess.Popen(command, stdout=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    assert process.wait() == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;]*m", "", b"".join(chunks).decode()).replace("\r\n", "\n")
    shown = {line.rstrip() for line in text.split("\n")}
    assert [line for line in diff_lines() if line.rstrip() not in shown] == []


def test_every_patch_has_its_title_its_reasons_and_its_capabilities() -> None:
    data = show_series(MANIFEST, NEWEST.id).data
    assert [one["name"] for one in data["patches"]] == list(NEWEST.patches)
    for one in data["patches"]:
        assert all(one[key] for key in ("title", "why", "upstream", "remove_when", "sha256", "diff"))
    assert {name for one in data["patches"] for name in one["capabilities"]} == set(data["capabilities"])


def test_show_of_a_newer_release_names_the_port_for_maintainers() -> None:
    error = refusal("99.0")
    assert error.code == "unknown-version"
    assert f"the nearest is {NEWEST.id}" in error.message
    assert error.hint.endswith(f"maintainers: gaudi-patch dev port {NEWEST.id} 99.0")


@pytest.mark.parametrize("text", ["latest", "abc", "v", ""])
def test_show_of_what_is_no_version_says_so_and_offers_no_port(text: str) -> None:
    error = refusal(text)
    assert "is not a version" in error.message
    assert "nearest" not in error.message
    assert "dev port" not in error.hint


@pytest.mark.parametrize("version", [f"0.3.{minor}" for minor in range(7)])
def test_show_of_a_refused_release_gives_the_advice(version: str) -> None:
    error = refusal(version)
    assert error.code == "refused-version"
    assert "vllm-gaudi 0.10 calls no KV connector" in error.message
    assert error.hint.startswith("install LMCache 0.3.9 or later")

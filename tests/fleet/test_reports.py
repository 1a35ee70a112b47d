"""`fleet`: every host counts, the worst one decides, and an invalid report never counts as success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.commands.fleet import summed_up
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.fleet.reports import WORST_FIRST, read
from gaudi_patch.output.report import Result
from tests.support import output_schema, tiny
from tests.support.cli import gaudi_patch
from tests.support.tiny import Tiny


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path / "t")


def report(folder: Path, host: str, result: Result, **other: Any) -> Path:
    folder.mkdir(exist_ok=True)
    document = {**json.loads(result.to_json()), **other}
    (folder / f"{host}.json").write_text(json.dumps(document))
    return folder / f"{host}.json"


def test_the_exit_code_is_that_of_the_worst_host(target: Tiny, tmp_path: Path) -> None:
    files = [report(tmp_path / "r", "waits", target.check())]
    fleet = read(files)
    assert (fleet.worst, fleet.fault) == (Exit.PENDING, None)
    target.apply()
    files.append(report(tmp_path / "r", "patched", target.check()))
    assert read(files[1:]).worst is Exit.OK
    assert read(files).worst is Exit.PENDING
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    files.append(report(tmp_path / "r", "edited", target.check()))
    fleet = read(files)
    assert fleet.worst is Exit.REFUSED
    assert fleet.counts == {"1": 1, "10": 1, "0": 1}
    assert fleet.fault is not None and "edited: drift: " in fleet.fault.details[0]
    assert [host.name for host in fleet.hosts] == ["edited", "patched", "waits"]
    result = summed_up(fleet)
    assert output_schema.faults(json.loads(result.to_json())) == []


def test_every_exit_code_has_its_rank() -> None:
    assert sorted(WORST_FIRST) == sorted(Exit)


BAD: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "not a report": b'{"exit_code": 0}',
    "deeply nested": b"[" * 100_000,
    "a NUL": b'"\\u0000"',
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_report_is_a_host_that_nothing_is_known_of(what: str, target: Tiny, tmp_path: Path) -> None:
    target.apply()
    good = report(tmp_path / "r", "good", target.check())
    bad = tmp_path / "r" / "bad.json"
    bad.write_bytes(BAD[what])
    fleet = read([good, bad])
    assert fleet.worst is Exit.USAGE
    assert fleet.hosts[0].problem.startswith("no report")


def test_a_missing_file_a_directory_and_another_command_are_no_reports(target: Tiny, tmp_path: Path) -> None:
    target.apply()
    other = report(tmp_path / "r", "other", target.apply())
    for file in (tmp_path / "missing.json", tmp_path, other):
        (host,) = read([file]).hosts
        assert host.exit is Exit.USAGE, file


def test_a_report_that_contradicts_itself_is_none(target: Tiny, tmp_path: Path) -> None:
    """An error with exit code 0, say: the schema ties status, errors and exit code together."""
    (target.site / "lmcache" / "engine.py").write_bytes(b"edited\n")
    file = report(tmp_path / "r", "liar", target.check(), exit_code=0)
    assert read([file]).worst is Exit.USAGE


def test_two_reports_of_one_host_are_refused(target: Tiny, tmp_path: Path) -> None:
    files = [report(tmp_path / "a", "host", target.check()), report(tmp_path / "b", "host", target.check())]
    with pytest.raises(GaudiPatchError) as refused:
        read(files)
    assert "host" in refused.value.message


def test_hosts_that_differ_are_warned_of(target: Tiny, tmp_path: Path) -> None:
    target.apply()
    result = target.check()
    files = [report(tmp_path / "r", "one", result)]
    result.data["version"] = "0.5.5"
    files.append(report(tmp_path / "r", "two", result))
    assert "the hosts differ: 0.5.5, series 0.5.6; 0.5.6, series 0.5.6" in summed_up(read(files)).warnings


def test_the_command_prints_a_row_per_host(target: Tiny, tmp_path: Path) -> None:
    file = report(tmp_path / "r", "node-1", target.check())
    done = gaudi_patch("fleet", file, "--json")
    assert (done.code, done.json["data"]["counts"]) == (10, {"10": 1})
    text = gaudi_patch("fleet", file, tmp_path / "gone.json")
    assert text.code == 2
    assert "node-1" in text.out and "gone" in text.out
    assert "1 of 2 hosts are not in the required state" in text.err

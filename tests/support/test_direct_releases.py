"""The conditions for a green release, and the table in docs/verification.md."""

from __future__ import annotations

import pytest

from gaudi_patch.smoke.counted import Counters
from gaudi_patch.smoke.outcome import LevelResult
from tests.support import direct_releases

COUNTS = {"copies": 48, "bytes": 4718592, "host_copied_bytes": 0, "bounce_bytes": 0}


def results(status: str = "passed", **counts: int) -> list[LevelResult]:
    counters = Counters.read({direct_releases.COUNTED: {**COUNTS, **counts}})
    return [
        LevelResult(
            "engine", "passed" if rules == "lazy" else status, "", 1.0, "emulated", rules, 240, counters=counters
        )  # type: ignore[arg-type]
        for rules in direct_releases.RULES
    ]


def test_a_release_is_green_where_all_was_counted_and_the_host_copied_nothing() -> None:
    assert direct_releases.is_green(direct_releases.row("0.5.6", results(), direct_releases.ALLOCATOR))


@pytest.mark.parametrize(
    ("found", "allocator"),
    [
        (results("failed"), direct_releases.ALLOCATOR),
        (results(copies=0), direct_releases.ALLOCATOR),
        (results(host_copied_bytes=1), direct_releases.ALLOCATOR),
        (results(bounce_bytes=1), direct_releases.ALLOCATOR),
        (results()[:1], direct_releases.ALLOCATOR),
        (results(), "an object lost its bytes to another"),
    ],
)
def test_a_release_is_not_green_without_counts_or_with_a_copy_by_the_host(
    found: list[LevelResult], allocator: str
) -> None:
    assert not direct_releases.is_green(direct_releases.row("0.5.6", found, allocator))


def test_rows_are_kept_by_release_oldest_first() -> None:
    rows: list[direct_releases.Row] = []
    for version in ("0.3.10", "0.3.9.post1", "0.3.10"):
        rows = direct_releases.merge(rows, direct_releases.row(version, results(), version))
    assert [one["version"] for one in rows] == ["0.3.9.post1", "0.3.10"]
    assert direct_releases.markdown(rows).splitlines()[2].startswith("| 0.3.9.post1 | passed (240) |")


def test_releases_without_a_series_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.3\.6"):
        direct_releases.releases_of("0.5.6,0.3.6")

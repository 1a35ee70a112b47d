"""`list`: one matrix of releases, what goes with them and what their series brings. `show` where there is none."""

from __future__ import annotations

import pytest
from packaging.version import Version

from gaudi_patch.commands import listing
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Fields, Table
from gaudi_patch.series import pairs
from gaudi_patch.series.manifest import Manifest, load
from tests.support.cli import gaudi_patch

MANIFEST = load()


def matrix(manifest: Manifest) -> Table:
    (table,) = [
        one
        for one in listing.list_series(manifest).blocks
        if isinstance(one, Table) and one.columns == ("LMCache", "vLLM", "vllm-gaudi", "capabilities")
    ]
    return table


def legend(manifest: Manifest) -> dict[str, str]:
    """What a letter of the matrix stands for."""
    found: dict[str, str] = {}
    for block in listing.list_series(manifest).blocks:
        if isinstance(block, Fields):
            found |= {name.split()[0]: name.split()[1] for name, _ in block.rows if " " in name}
    return found


def test_every_release_has_one_row_with_exactly_its_capabilities() -> None:
    names = legend(MANIFEST)
    assert sorted(names.values()) == sorted(MANIFEST.capabilities)
    shown = {row[0]: {names[letter] for letter in row[3] if letter != "-"} for row in matrix(MANIFEST).rows}
    assert shown == {one.id: set(one.capabilities) for one in MANIFEST.series}
    assert {len(row[3]) for row in matrix(MANIFEST).rows} == {len(MANIFEST.capabilities)}


def test_every_row_names_the_vllm_and_the_vllm_gaudi_that_go_with_the_release() -> None:
    rows = {row[0]: (row[1], row[2]) for row in matrix(MANIFEST).rows}
    assert rows["0.5.6"] == ("0.26.0 and later", "0.26.0 and later")
    assert rows["0.5.3"] == ("0.24.0, 0.26.0 and later", "0.24.0, 0.26.0 and later")
    assert rows["0.4.5"] == ("0.20.1 to 0.21.0", "0.20.1rc0 to 0.21.0")
    assert rows["0.4.4"] == ("0.18.1 to 0.19.1", "0.18.1rc1 to 0.19.1")
    assert rows["0.3.9"] == ("0.13.0, 0.14.1 to 0.17.1", "0.13.0, 0.14.1 to 0.17.1")
    assert rows["0.3.7"] == ("none", "none")


def test_the_matrix_says_what_doctor_and_recipe_believe() -> None:
    """A vllm-gaudi that the row names holds by the manifest's own text, and one that it does not name does not."""
    tags = [Version(text) for text in ("0.13.0.post1", "0.16.0", "0.19.1", "0.21.0", "0.24.0", "0.27.0rc0", "0.11.2")]
    for one in MANIFEST.series:
        texts = pairs.fitting(MANIFEST, one.id)
        shown = next(row[2] for row in matrix(MANIFEST).rows if row[0] == one.id)
        for tag in tags:
            believed = any(pairs.holds(text, tag) for text in texts)
            assert believed == (shown != "none" and pairs.holds(shown, tag)), (one.id, tag)


def test_the_matrix_fits_80_columns_unbroken() -> None:
    done = gaudi_patch("list", env={"COLUMNS": ""})
    rows = {line.split()[0]: line for line in done.out.splitlines() if line}
    for one in MANIFEST.series:
        assert len(rows[one.id]) <= 80
        assert rows[one.id].endswith(next(row[3] for row in matrix(MANIFEST).rows if row[0] == one.id))


def test_json_has_the_pairs_of_each_release_and_keeps_what_it_had() -> None:
    data = listing.list_series(MANIFEST).data
    assert {"package", "series", "capabilities", "refused", "upstream", "pairs"} <= set(data)
    first = data["series"][0]
    assert {"id", "versions", "patches", "capabilities", "notes", "vllm", "vllm_gaudi"} <= set(first)
    assert (first["vllm"], first["vllm_gaudi"]) == ("0.26.0 and later", "0.26.0 and later")
    assert data["pairs"][0] == {
        "lmcache": ">=0.3.9,<0.4.3",
        "vllm_gaudi": "0.13.0 (flat KV tuples from the forward context), 0.14.1 to 0.17.1",
        "vllm": "0.13.0, 0.14.1 to 0.17.1",
    }


def test_a_release_that_pairs_with_nothing_says_why() -> None:
    notes = [row for one in listing.list_series(MANIFEST).blocks if isinstance(one, Fields) for row in one.rows]
    assert any(name == "0.3.7" and "0.3.9 or later" in text for name, text in notes)


@pytest.mark.parametrize("text", ["from 0.1", "0.1 until 0.2", ""])
def test_a_range_in_other_words_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="not a range of versions"):
        list(pairs.ranges(text))


def refusal(version: str) -> GaudiPatchError:
    with pytest.raises(GaudiPatchError) as caught:
        listing.show(MANIFEST, version)
    assert caught.value.exit is Exit.NOT_FOUND
    return caught.value


def test_show_of_a_newer_release_names_the_port_for_maintainers() -> None:
    newest = MANIFEST.series[0].id
    error = refusal("99.0")
    assert error.code == "unknown-version"
    assert f"the nearest is {newest}" in error.message
    assert error.hint.endswith(f"maintainers: gaudi-patch dev port {newest} 99.0")


def test_show_of_what_is_no_version_offers_no_port() -> None:
    assert "dev port" not in refusal("latest").hint


@pytest.mark.parametrize("version", [f"0.3.{minor}" for minor in range(7)])
def test_show_of_a_refused_release_gives_the_advice(version: str) -> None:
    error = refusal(version)
    assert error.code == "refused-version"
    assert "vllm-gaudi 0.10 calls no KV connector" in error.message
    assert error.hint.startswith("install LMCache 0.3.9 or later")

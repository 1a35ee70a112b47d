"""`list`: releases and their partners, what works and what does not, in words; -v adds a matrix of patches."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from packaging.version import Version

from gaudi_patch.commands.list import list_release, list_series
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.report import Result, Table, Text
from gaudi_patch.recipes.release import Release, refuse_multiprocess
from gaudi_patch.series import coverage, pairs
from gaudi_patch.series.limits import LIMITS
from gaudi_patch.series.manifest import Manifest, Series, load
from tests.support.cli import gaudi_patch

MANIFEST = load()
RUNTIME = Path(__file__).parents[2] / "patches" / "runtime" / "lmcache" / "gaudi"
IDS = [one.id for one in MANIFEST.series]


def table(manifest: Manifest, title: str) -> Table:
    """Return the table with this title, or with this column."""
    tables = [one for one in list_series(manifest, verbose=True).blocks if isinstance(one, Table)]
    (found,) = [one for one in tables if one.title.startswith(title) or title in one.columns]
    return found


def bullets(result: Result) -> list[str]:
    return [one.text[2:] for one in result.blocks if isinstance(one, Text) and one.text.startswith("- ")]


def releases(words: str) -> set[str]:
    """Return the releases in a range given in words: "all", "0.4.7 to 0.5.5, 0.3.7"."""
    if words == "all":
        return set(IDS)
    found: set[str] = set()
    for part in words.split(", "):
        oldest, _, newest = part.partition(" to ")
        found |= set(IDS[IDS.index(newest or oldest) : IDS.index(oldest) + 1])
    return found


def partners() -> dict[str, tuple[str, str]]:
    """Return the partners of each release from the first table."""
    rows = table(MANIFEST, "vllm-gaudi").rows
    return {name: (row[1], row[2]) for row in rows for name in releases(row[0])}


def test_every_release_is_in_one_row_newest_first() -> None:
    rows = table(MANIFEST, "vllm-gaudi").rows
    assert [name for row in rows for name in IDS if name in releases(row[0])] == IDS


def test_every_row_names_the_vllm_and_the_vllm_gaudi_that_go_with_the_release() -> None:
    rows = partners()
    assert rows["0.5.6"] == ("0.26.0 and later", "0.26.0 and later")
    assert rows["0.5.3"] == ("0.24.0, 0.26.0 and later", "0.24.0, 0.26.0 and later")
    assert rows["0.4.5"] == ("0.20.1 to 0.21.0", "0.20.1rc0 to 0.21.0")
    assert rows["0.4.4"] == ("0.18.1 to 0.19.1", "0.18.1rc1 to 0.19.1")
    assert rows["0.3.9"] == ("0.13.0, 0.14.1 to 0.17.1", "0.13.0, 0.14.1 to 0.17.1")
    assert rows["0.3.7"] == ("none", "none")


def test_the_rows_say_what_doctor_and_recipe_believe() -> None:
    """Each vllm-gaudi in a row forms a pair with the release, and no other does."""
    tags = [Version(text) for text in ("0.13.0.post1", "0.16.0", "0.19.1", "0.21.0", "0.24.0", "0.27.0rc0", "0.11.2")]
    for name, (_, shown) in partners().items():
        fitting = pairs.fitting(MANIFEST, name)
        assert pairs.vllm_gaudi(fitting) == shown
        for tag in tags:
            believed = any(pairs.holds(pair, tag) for pair in fitting)
            assert believed == any(_within(tag, part) for part in shown.split(", ")), (name, tag)


def _within(tag: Version, words: str) -> bool:
    if words == "none":
        return False
    first, _, last = words.removesuffix(" and later").partition(" to ")
    top = None if words.endswith("and later") else Version(f"{last or first}.post9")
    return Version(first) <= tag and (top is None or tag <= top)


def test_what_works_is_said_of_exactly_the_releases_that_have_it() -> None:
    said = {summary: set(IDS) for summary in bullets(list_series(MANIFEST))}
    said |= {row[1]: releases(row[0]) for row in table(MANIFEST, "works also").rows}
    assert said == {
        one.summary: {series.id for series in MANIFEST.series if one.id in series.capabilities}
        for one in MANIFEST.capabilities.values()
    }


@pytest.mark.parametrize("name", IDS)
def test_what_does_not_work_is_said_of_exactly_the_releases_in_which_a_recipe_is_refused(name: str) -> None:
    """The table is maintained by hand; the recipes ask the manifest."""
    rows = {what: releases(words) for words, what, _ in table(MANIFEST, "does not work").rows}
    release = Release(name, frozenset(MANIFEST.by_id(name).capabilities), True, "")  # type: ignore[union-attr]
    try:
        refuse_multiprocess(release)
    except GaudiPatchError:
        assert name in rows["multiprocess mode"]
    else:
        assert name not in rows["multiprocess mode"]


def _refused_settings() -> set[str]:
    """Return the settings that the runtime's refusals read: LMCache's, vLLM's, and variables of vllm-gaudi."""
    names: set[str] = set()
    for module in ("guards", "plugin", "pool"):
        tree = ast.parse((RUNTIME / f"{module}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("value", "getattr"):
                names |= {word.value for word in node.args[:2] if isinstance(word, ast.Constant) and word.value}
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names |= set(re.findall(r"\(VLLM_[A-Z_]+\)", node.value))
    return {name.strip("()") for name in names}


#: Read by the refusals, but never refused: containers of settings, or the subject of another setting.
NOT_REFUSED = {
    "extra_config", "enable_pd", "use_mla", "model_config", "save_unfull_chunk", "VLLMKVCache", "fetch_from_cache",
    "HPUAttentionImpl", "HPUMLAImpl", "__code__", "remote_serde",
    "compilation_config", "static_forward_context", "impl",
}  # fmt: skip


def test_whatever_the_runtime_refuses_at_start_up_has_a_row() -> None:
    rows = " ".join(f"{limit.what} {limit.instead}" for limit in LIMITS).replace("-", "_")  # including vLLM's options
    named = _refused_settings() - NOT_REFUSED
    assert len(named) > 12
    assert sorted(name for name in named if name not in rows) == []


@pytest.mark.parametrize(
    ("words", "oldest", "newest"),
    [
        ("contiguous paged attention (VLLM_CONTIGUOUS_PA)", "0.3.7", "0.4.7"),
        ("contiguous paged attention (VLLM_CONTIGUOUS_PA) of MLA models", "0.5.0", "0.5.6"),
        ("unified attention", "0.3.7", "0.4.2"),
        ("lookups that bypass the workers", "0.3.9.post1", "0.5.6"),
        ("models whose layers differ", "0.3.7", "0.3.11"),
    ],
)
def test_a_limit_holds_in_the_releases_whose_vllm_gaudi_or_files_have_it(words: str, oldest: str, newest: str) -> None:
    limit = next(one for one in LIMITS if one.what == words) if words.startswith("contig") else None
    limit = limit or next(one for one in LIMITS if one.what.startswith(words))
    holding = [series.id for series in MANIFEST.series if limit.holds(series)]
    assert (holding[-1], holding[0]) == (oldest, newest)
    assert holding == IDS[IDS.index(newest) : IDS.index(oldest) + 1]


def test_the_limits_of_contiguous_attention_follow_the_pairs() -> None:
    """vllm-gaudi before 0.24.0 reads blocks by position; the row lists exactly the releases paired with one."""
    limit = next(one for one in LIMITS if one.what.endswith("(VLLM_CONTIGUOUS_PA)"))
    old = [Version(text) for text in ("0.13.0", "0.16.0", "0.19.1", "0.21.0")]
    for series in MANIFEST.series:
        fitting = pairs.fitting(MANIFEST, series.id)
        if fitting:  # 0.3.7 has no partner
            assert limit.holds(series) == any(pairs.holds(pair, tag) for pair in fitting for tag in old), series.id


def test_one_release_is_listed_in_full() -> None:
    """Its pairs, all that works and does not, its patches; a release without a partner says so first."""
    result = list_release(MANIFEST, "0.5.4")
    series = MANIFEST.by_id("0.5.4")
    assert series is not None
    assert bullets(result) == [MANIFEST.capabilities[name].summary for name in series.capabilities]
    limits, patches = (one for one in result.blocks if isinstance(one, Table))
    assert "multiprocess mode" in [row[0] for row in limits.rows]
    assert [row[0] for row in patches.rows] == [name.removesuffix(".patch") for name in series.patches]
    assert [one["id"] for one in result.data["series"]] == ["0.5.4"]
    first = list_release(MANIFEST, "0.3.7").blocks[0]
    assert isinstance(first, Text)
    assert first.text == "LMCache 0.3.7 can be patched, but works with no vllm-gaudi"


@pytest.mark.parametrize(("version", "code"), [("0.3.5", "refused-version"), ("0.6.0", "unknown-version")])
def test_a_release_without_a_series_is_an_error_that_says_what_to_take(version: str, code: str) -> None:
    done = gaudi_patch("list", version, "--json")
    assert (done.code, done.code_of_error) == (3, code)
    assert done.json["errors"][0]["hint"]


def test_the_matrix_has_every_patch_with_exactly_its_releases_marked() -> None:
    found = table(MANIFEST, "Patches")
    assert found.columns[1].startswith(IDS[0])
    assert found.columns[1].endswith(IDS[-1])
    assert len(found.columns[1]) == len(IDS)
    names = [f"{row[0]}.patch" if "/" in row[0] else row[0] for row in found.rows]
    assert names == list(MANIFEST.patches)
    for name, (_, marks, words) in zip(names, found.rows, strict=True):
        users = {one.id for one in MANIFEST.series if name in one.patches}
        assert {IDS[index] for index, mark in enumerate(marks) if mark == "#"} == users
        assert releases(words) == users


def test_a_patch_is_named_by_its_topic_and_the_first_release_that_has_it() -> None:
    """patches/<topic>/<first release>.patch, and at most one patch per topic in a series."""
    for name in MANIFEST.patches:
        if name != "runtime":
            oldest = min((one.id for one in MANIFEST.series if name in one.patches), key=Version)
            assert name.split("/")[1] == f"{oldest}.patch"
    for series in MANIFEST.series:
        topics = [name.split("/")[0] for name in series.patches]
        assert len(set(topics)) == len(topics), series.id


def test_no_text_of_a_patch_is_kept_twice() -> None:
    from gaudi_patch.authoring import worktree

    texts = [tuple(worktree._bare(MANIFEST.patch_bytes(name))) for name in MANIFEST.patches]
    assert len(set(texts)) == len(texts)


def test_the_list_fits_80_columns_and_no_mark_is_broken() -> None:
    done = gaudi_patch("list", "-v", env={"COLUMNS": ""})
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, marks, _ in table(MANIFEST, "Patches").rows:
        assert any(line.startswith(f"{name} ") and marks in line for line in lines), name


def test_ranges_that_are_apart_are_named_apart() -> None:
    series = [Series(name, f"=={name}", (), ()) for name in ("4", "3", "2", "1")]
    assert coverage.words(series, lambda one: one.id in "43") == "3 to 4"
    assert coverage.words(series, lambda one: one.id in "421") == "4, 1 to 2"
    assert coverage.words(series, lambda one: True) == "all"
    assert coverage.words(series, lambda one: False) == "none"
    assert coverage.row(series, lambda one: one.id in "421") == "#.##"
    assert coverage.scale([]) == ""


def test_json_has_the_pairs_of_each_release_and_keeps_what_it_had() -> None:
    data = list_series(MANIFEST).data
    assert {"package", "series", "capabilities", "refused", "upstream", "pairs"} <= set(data)
    first = data["series"][0]
    assert {"id", "versions", "patches", "capabilities", "notes", "vllm", "vllm_gaudi"} <= set(first)
    assert (first["vllm"], first["vllm_gaudi"]) == ("0.26.0 and later", "0.26.0 and later")
    assert data["pairs"][0] == {
        "lmcache": ">=0.3.9,<0.4.3",
        "vllm_gaudi": "0.13.0, 0.14.1 to 0.17.1",
        "vllm": "0.13.0, 0.14.1 to 0.17.1",
        "specifiers": ["==0.13.0", ">=0.14.1,<=0.17.1"],
        "note": "0.13.0 passes flat KV tuples from the forward context",
    }


def test_a_release_that_pairs_with_nothing_says_why() -> None:
    said = [one.text for one in list_series(MANIFEST).blocks if isinstance(one, Text)]
    assert any(text.startswith("0.3.7: ") and "0.3.9 or later" in text for text in said)


def test_without_verbose_the_list_has_no_marks_to_be_decoded() -> None:
    out = gaudi_patch("list", env={"COLUMNS": "80"}).out
    assert "##" not in out
    assert ".." not in out

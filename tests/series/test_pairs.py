"""Pairs: PEP 440 specifiers, and their wording."""

from __future__ import annotations

import pytest
from packaging.version import Version

from gaudi_patch.series import pairs
from gaudi_patch.series.manifest import Pair, load

MANIFEST = load()


@pytest.mark.parametrize(
    ("specifiers", "inside", "outside"),
    [
        (("==0.13.0", ">=0.14.1,<=0.17.1"), ["0.13.0.post1", "0.14.1", "0.17.1"], ["0.18.0", "0.14.0", "0.13.1"]),
        ((">=0.18.1rc1,<=0.19.1",), ["0.18.1rc1", "0.19.0", "0.19.1.post1", "0.19.1+gaudi"], ["0.18.0rc0", "0.20.0"]),
        (("==0.24.0",), ["0.24.0", "0.24.0.post2"], ["0.24.1", "0.24.0rc1"]),
        ((">=0.26.0",), ["0.26.0", "0.27.0rc0", "0.26.0.post1"], ["0.24.0", "0.25.9"]),
    ],
)
def test_a_release_is_in_a_pair_or_not(specifiers: tuple[str, ...], inside: list[str], outside: list[str]) -> None:
    pair = Pair(">=0", specifiers)
    assert [one for one in inside if not pairs.holds(pair, Version(one))] == []
    assert [one for one in outside if pairs.holds(pair, Version(one))] == []


@pytest.mark.parametrize(
    ("specifier", "words", "base"),
    [
        ("==0.24.0", "0.24.0", "0.24.0"),
        (">=0.26.0", "0.26.0 and later", "0.26.0 and later"),
        (">=0.18.1rc1,<=0.19.1", "0.18.1rc1 to 0.19.1", "0.18.1 to 0.19.1"),
        ("<=0.19.1,>=0.18.1", "0.18.1 to 0.19.1", "0.18.1 to 0.19.1"),
    ],
)
def test_a_specifier_is_said_in_words(specifier: str, words: str, base: str) -> None:
    assert (pairs.words(specifier), pairs.words(specifier, base=True)) == (words, base)


@pytest.mark.parametrize(
    "specifier",
    [
        "",
        "0.1",
        "from 0.1",
        "~=0.13",
        "==0.13.*",
        "<0.2",
        "<=0.2",
        ">0.1",
        "!=0.1",
        ">=0.2,<=0.1",
        ">=0.1,<0.2",
        "===1",
    ],
)
def test_what_is_no_range_with_both_ends_in_it_is_refused(specifier: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        pairs.words(specifier)


def test_every_pair_of_the_manifest_can_be_read_and_said() -> None:
    for pair in MANIFEST.pairs:
        pairs.holds(pair, Version("0.26.0"))
        assert "none" not in (pairs.vllm_gaudi([pair]), pairs.vllm([pair]))


def test_notes_are_said_where_they_are_asked_for() -> None:
    pair = Pair(">=0.3.9", ("==0.13.0", ">=0.14.1"), "flat tuples")
    assert pairs.vllm_gaudi([pair]) == "0.13.0, 0.14.1 and later"
    assert pairs.vllm_gaudi([pair], notes=True) == "0.13.0, 0.14.1 and later (flat tuples)"
    assert pairs.vllm_gaudi([]) == pairs.vllm([]) == "none"


def test_a_release_between_two_pairs_has_both() -> None:
    assert pairs.vllm_gaudi(pairs.fitting(MANIFEST, "0.5.3")) == "0.24.0, 0.26.0 and later"
    assert pairs.fitting(MANIFEST, "0.3.7") == pairs.fitting(MANIFEST, None) == []

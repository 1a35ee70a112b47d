"""Specifiers: packaging can read whatever the manifest's spelling allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from gaudi_patch.series import versions

PIECES = [
    "==",
    ">=",
    "<=",
    "!=",
    "~=",
    "<",
    ">",
    "0",
    "1.2",
    "0.5.6",
    ".*",
    "rc1",
    ".post1",
    ".dev2",
    ",",
    " ",
    "+x",
    "=",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_whatever_is_allowed_can_be_read(text: str) -> None:
    try:
        versions.specifier(text)
    except ValueError:
        return
    SpecifierSet(text)


@pytest.mark.parametrize("text", ["==0.5.6", ">=0.3.9,<0.4.3", "==0.5.*", "~=0.5.1", "!=0.5.6rc1", ">=0.3.9.post1, <1"])
def test_what_the_manifest_has_is_allowed(text: str) -> None:
    assert versions.specifier(text) == text


@pytest.mark.parametrize("text", ["", "0.5.6", "==", ">=0.5.*", "~=1", "===x", "==0.5.6;", "==1" + ".0" * 99])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a PEP 440 specifier"):
        versions.specifier(text)


@pytest.mark.parametrize(
    "version", ["0.5.6+gaudi.1", "0.5.6+cu128", "0.5.6+Gaudi.1", "0.5.6+", "0.5.6+a..b", "0.5.6+a-b"]
)
def test_a_local_version_is_decided_without_packaging_as_packaging_decides(version: str) -> None:
    from packaging.version import InvalidVersion, Version

    try:
        expected = SpecifierSet("==0.5.6").contains(Version(version), prereleases=True)
    except InvalidVersion:
        expected = False
    assert versions.matches("==0.5.6", version) is expected
    assert not versions.matches("==0.5.5", version)

"""METADATA and WHEEL: another version, a note, fewer requirements; every other byte stays."""

from __future__ import annotations

import email

import pytest

from gaudi_patch.wheel import metadata

METADATA = """\
Metadata-Version: 2.4
Name: lmcache
Version: 0.5.6
Summary: A cache
 of keys and values
Classifier: Environment :: GPU
Requires-Dist: numpy<=2.2.6
Requires-Dist: cupy-cuda13x
Requires-Dist: cuda-python<14,>=13
Requires-Dist: cufile-python
Requires-Dist: torch
Requires-Dist: torchvision-like
Requires-Dist: nixl>=1.3.0; python_version < "3.13" and extra == "nixl"
Provides-Extra: nixl

# The cache

Version: 0.5.6
"""
CRLF = METADATA.replace("\n", "\r\n")


def edit(text: str = METADATA, *, drop: bool = False) -> metadata.Edited:
    return metadata.edited(text.encode(), old="0.5.6", new="0.5.6+gaudi.7", note="A note.", drop_cuda=drop)


@pytest.mark.parametrize("text", [METADATA, CRLF], ids=["LF", "CRLF"])
def test_only_the_version_the_note_and_a_classifier_are_other(text: str) -> None:
    end = "\r\n" if text is CRLF else "\n"
    new = edit(text).data.decode()
    lines, expected = new.split(end), text.split(end)
    expected[2] = "Version: 0.5.6+gaudi.7"
    expected.insert(6, "Classifier: Private :: Do Not Upload")
    blank = expected.index("")
    assert lines == [*expected[:blank], "", "A note.", "", *expected[blank + 1 :]]


def test_cuda_and_torch_are_left_out_only_when_asked_for() -> None:
    assert edit().dropped == ()
    dropped = edit(drop=True)
    assert dropped.dropped == (
        "cupy-cuda13x",
        "cuda-python<14,>=13",
        "cufile-python",
        "torch",
        'nixl>=1.3.0; python_version < "3.13" and extra == "nixl"',
    )
    left = email.message_from_bytes(dropped.data).get_all("Requires-Dist")
    assert left == ["numpy<=2.2.6", "torchvision-like"]


def test_metadata_without_a_description_gets_the_note_for_one() -> None:
    message = email.message_from_bytes(edit(METADATA.partition("\n\n")[0] + "\n").data)
    assert message.get_payload() == "A note.\n"
    assert message["Version"] == "0.5.6+gaudi.7"


@pytest.mark.parametrize(
    "text",
    [METADATA.replace("Version: 0.5.6\nS", "Version: 0.5.5\nS"), METADATA.replace("Version: 0.5.6\nS", "S"),
     METADATA.replace("Version: 0.5.6\nS", "Version: 0.5.6\nVersion: 0.5.6\nS")],
    ids=["another", "none", "two"],
)  # fmt: skip
def test_metadata_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not for version 0\.5\.6"):
        edit(text)


def test_the_generator_is_ours_and_the_tags_stay() -> None:
    old = b"Wheel-Version: 1.0\nGenerator: setuptools (80.10.2)\nTag: cp311-cp311-linux_x86_64\n\n"
    new = metadata.wheel_file(old, "gaudi-patch (1)")
    assert new == old.replace(b"setuptools (80.10.2)", b"gaudi-patch (1)")
    bare = b"Wheel-Version: 1.0\nTag: py3-none-any\n"
    assert metadata.wheel_file(bare, "gaudi-patch (1)").splitlines()[1] == b"Generator: gaudi-patch (1)"

"""The advice about keys is right for the release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gaudi_patch.doctor import keys


def case(version: str | None, agree: bool | None) -> Any:
    values = {"remote_url": "lm://host:1", "pre_caching_hash_algorithm": "builtin"}
    return SimpleNamespace(
        settings=SimpleNamespace(values=values),
        arguments=None,
        ranks=1,
        lmcache=SimpleNamespace(version=version),
        processes_agree_on_none=agree,
    )


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("0.3.9.post2", "Python 3.12"),
        ("0.3.12", "Python 3.12"),
        ("0.3.13", "sha256_cbor, in every"),
        (None, "sha256_cbor"),
    ],
)
@pytest.mark.parametrize("agree", [False, None])
def test_releases_that_cannot_write_bytes_are_not_sent_to_sha256_cbor(
    version: str | None, advice: str, agree: bool | None
) -> None:
    assert advice in keys._stable_keys(case(version, agree))


def test_the_advice_is_the_fix_of_the_finding() -> None:
    answer = keys.hash_algorithm.run(case("0.3.10", False))
    assert "Python 3.12" in answer.fix

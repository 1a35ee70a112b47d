"""The advice about keys is right for the release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from gaudi_patch.doctor import keys
from gaudi_patch.doctor.finding import Level


def case(version: str | None, agree: bool | None, vllm: str = "0.13.0", **settings: object) -> Any:
    values = settings or {"remote_url": "lm://host:1", "pre_caching_hash_algorithm": "builtin"}
    return SimpleNamespace(
        settings=SimpleNamespace(values=values),
        arguments=None,
        ranks=1,
        lmcache=SimpleNamespace(version=version),
        processes_agree_on_none=agree,
        version=lambda package: Version(vllm) if vllm and package == "vllm" else None,
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


@pytest.mark.parametrize(
    ("version", "vllm", "settings", "level"),
    [
        ("0.3.9", "0.13.0", {"local_disk": "/kv"}, Level.FAILURE),
        ("0.3.12", "0.11.0", {"remote_url": "fs://host:0/kv"}, Level.FAILURE),
        ("0.3.12", "", {"local_disk": "/kv"}, Level.FAILURE),
        ("0.3.12", "0.10.2", {"local_disk": "/kv"}, Level.OK),  # this vLLM still gives a number
        ("0.3.12", "0.13.0", {"local_cpu": True}, Level.OK),  # memory writes no key
        ("0.3.13", "0.13.0", {"local_disk": "/kv"}, Level.OK),
        (None, "0.13.0", {"local_disk": "/kv"}, Level.OK),
    ],
)
def test_digests_that_a_release_cannot_write_are_found(
    version: str | None, vllm: str, settings: dict[str, object], level: Level
) -> None:
    answer = keys.hash_algorithm.run(case(version, True, vllm, pre_caching_hash_algorithm="sha256_cbor", **settings))
    assert answer.level is level
    assert ("builtin; or LMCache 0.3.13" in answer.fix) is (level is Level.FAILURE)

"""The real vllm-gaudi, its platform, worker and runner, on the patched LMCache and the emulated HPU.

vllm-gaudi is on no index: ``GAUDI_PATCH_TEST_VLLM_GAUDI`` names a git repository of it with the tags and ``main``. Each
revision takes minutes. For the table: ``python -m tests.support.vllm_gaudi --help``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import vllm_gaudi
from tests.support.environments import EnvironmentUnavailableError
from tests.support.vllm_gaudi import REVISIONS, Revision

SOURCE = vllm_gaudi.repository()

pytestmark = [
    pytest.mark.wheels,
    pytest.mark.torch,
    pytest.mark.skipif(SOURCE is None, reason=f"{vllm_gaudi.VARIABLE} names no repository of vllm-gaudi"),
]


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.name)
def test_vllm_gaudi_answers_from_the_cache_as_it_does_without(revision: Revision, tmp_path: Path) -> None:
    assert SOURCE is not None
    try:
        results = vllm_gaudi.check(revision, SOURCE, tmp_path)
    except EnvironmentUnavailableError as error:
        if "has no vllm-gaudi" in str(error):  # the given repository is unsuitable: fail, do not skip
            raise
        pytest.skip(f"environment not available: {error}")
    told = "\n".join(f"{one.level}: {one.status}: {one.reason}\n{one.output_tail[-3000:]}" for one in results)
    assert [one.status for one in results] == ["passed", "passed"], told
    hits = [asked.lmcache for asked in results[1].counters.requests["answers"]]
    assert max(hits) >= 1024, hits

"""vLLM itself reads the command lines of the recipes; run only on request, as the tests on pairs.

``GAUDI_PATCH_TEST_PAIRS=all``, or a list such as ``0.5.6x0.26.0``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.recipes.compose import MODES
from tests.integration.test_vllm_pairs import WANTED
from tests.recipes.test_compose import recipe, words
from tests.support import vllm_pairs
from tests.support.environments import EnvironmentUnavailableError, clean_environment
from tests.support.vllm_pairs import Pair

pytestmark = [pytest.mark.wheels, pytest.mark.torch]
SCRIPT = Path(__file__).with_name("parse_command_lines.py")
RECENT = [pair for pair in WANTED if pair.vllm not in ("0.11.2", "0.13.0", "0.17.1")]


@pytest.mark.parametrize("pair", RECENT, ids=str)
def test_vllm_reads_every_command_line_as_it_is_meant(pair: Pair, tmp_path: Path) -> None:
    try:
        environment = vllm_pairs.private_environment(pair, tmp_path)
    except EnvironmentUnavailableError as error:
        pytest.skip(f"environment not available: {error}")
    lines, expected = [], []
    for mode in MODES:
        found = recipe(mode, pair.lmcache, ranks=2, port=8100)
        for process in found.processes:
            if process.serves:
                name = f"{process.name}.sh"
                lines.append(words(found.files[name])[3:])
                mp = mode == "multiprocess"
                expected.append(
                    [
                        {"prefill.sh": 8200, "decode.sh": 8300}.get(name, 8100),
                        2,
                        None if name == "mi300x.sh" else 128,
                        name == "mi300x.sh",
                        "LMCacheMPConnector" if mp else "LMCacheConnectorV1",
                        "kv_consumer" if name == "decode.sh" else "kv_both",
                        {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": 5555} if mp else {},
                    ]
                )
    done = subprocess.run(
        [str(environment.python), "-B", str(SCRIPT)],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (answer,) = [line for line in done.stdout.splitlines() if line.startswith("parsed:")]
    assert json.loads(answer.removeprefix("parsed:")) == expected

"""The command of vllm-gaudi's proxy, as printed by a disaggregated recipe and the guide."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch import guides
from tests.recipes.test_compose import recipe, words

CHECKOUT = os.environ.get("GAUDI_PATCH_TEST_VLLM_GAUDI")
PROXY = "examples/lmcache/disagg_prefill_lmcache_v1/disagg_proxy_server.py"


def command(text: str) -> str:
    """Return the proxy's command line from a note or a guide."""
    (found,) = re.findall(r"OPENAI_API_KEY=[^`]*?(?=`|\n```)", text)
    return str(found).replace("\\\n", " ")


def parsed(line: str) -> argparse.Namespace:
    """Return the arguments in a command line as parsed by the proxy's own parser (vllm-gaudi v0.26.0, parse_args)."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("port", "prefiller-port", "decoder-port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("host", "prefiller-host", "decoder-host"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args(shlex.split(line)[3:])


@pytest.mark.parametrize("bind", [None, "10.0.0.7", "0.0.0.0"])
def test_the_proxy_has_the_key_and_finds_both_engines(bind: str | None) -> None:
    found = recipe("disaggregated", port=9000, bind=bind)
    line = command("\n".join(found.notes))
    given = parsed(line)
    assert given.host == (bind or "127.0.0.1"), "without --host it is on localhost, whatever --bind says"
    assert (given.port, given.prefiller_port, given.decoder_port) == (9000, 9100, 9200)
    served = [words(found.files[name]) for name in ("prefill.sh", "decode.sh")]
    ports = [int(one[one.index("--port") + 1]) for one in served]
    assert ports == [given.prefiller_port, given.decoder_port]
    for host in (given.prefiller_host, given.decoder_host):
        assert host == {None: "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(bind, bind)


def test_the_guide_has_the_command_that_the_recipe_prints() -> None:
    in_guide = shlex.split(command(guides.read("disaggregated").markdown))
    assert in_guide == shlex.split(command("\n".join(recipe("disaggregated").notes)))


def test_the_key_of_the_engines_is_the_one_that_the_proxy_sends(tmp_path: Path) -> None:
    proxy = tmp_path / "python3"
    proxy.write_text('#!/bin/sh\nprintf "%s" "$OPENAI_API_KEY"\n')
    proxy.chmod(0o755)
    line = command("\n".join(recipe("disaggregated").notes))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VLLM_API_KEY": "a key"}
    assert subprocess.run(["sh", "-c", line], env=env, capture_output=True, text=True, check=True).stdout == "a key"


@pytest.mark.skipif(CHECKOUT is None, reason="GAUDI_PATCH_TEST_VLLM_GAUDI names no checkout of vllm-gaudi")
def test_the_proxy_itself_takes_every_option(tmp_path: Path) -> None:
    assert CHECKOUT is not None
    show = ["git", "-C", CHECKOUT, "show", f"v0.26.0:{PROXY}"]
    source = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    (body,) = re.findall(r"(?s)def parse_args\(\):.*?return args\n", source)
    script = tmp_path / "proxy.py"
    script.write_text(f"import argparse\n{body}\nprint(parse_args())\n")
    arguments = shlex.split(command("\n".join(recipe("disaggregated").notes)))[3:]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The commands for a multiprocess server, from the recipe and the guide: LMCache's own command line accepts them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable

import pytest

from gaudi_patch import guides
from tests.recipes.test_compose import recipe
from tests.recipes.test_servers import free_port
from tests.support.environments import Environment, clean_environment

pytestmark = [pytest.mark.wheels, pytest.mark.torch]
#: Releases whose multiprocess mode works on HPU.
RELEASES = ("0.5.5", "0.5.6") if os.environ.get("GAUDI_PATCH_TEST_FULL") == "1" else ("0.5.6",)


def commands(version: str, port: int) -> list[list[str]]:
    """Return the words after the interpreter, with values for SALT and GB, and an unused port."""
    notes = "\n".join(recipe("multiprocess", version=version, quotas=True).notes)
    found = re.findall(r"(-m lmcache\.cli\.main [^`]+)`", notes)
    found += [line.replace("ping kvcache", "describe kvcache") for line in found if "ping" in line]
    lines = [re.sub(r"(http://[^:]+):\d+", rf"\1:{port}", line) for line in found]
    return [shlex.split(line.replace("SALT", "team-a").replace(" GB ", " 1.5 ")) for line in lines]


@pytest.mark.parametrize("version", RELEASES)
def test_lmcache_takes_every_command_and_finds_no_server(
    version: str, lmcache_overlay: Callable[[str], Environment]
) -> None:
    python, port = lmcache_overlay(version).python, free_port()

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-B", *words]
        return subprocess.run(
            command, capture_output=True, text=True, env=clean_environment(), timeout=120, check=False
        )

    named = commands(version, port)
    assert [" ".join(words[2:4]) for words in named] == ["ping kvcache", "quota set", "describe kvcache"]
    for words in named:
        done = run(words)
        # argparse exits with 2; nobody listens, so an accepted command fails with another status.
        assert done.returncode == 1, (words, done.stderr[-2000:])
        assert "usage:" not in done.stderr
    wrong = run([*named[0], "--no-such-option"])
    assert (wrong.returncode, "unrecognized arguments" in wrong.stderr) == (2, True)


def test_the_guide_names_the_same_commands() -> None:
    guide = re.findall(r"^lmcache (.+)$", guides.read("caching").markdown, re.MULTILINE)
    assert sorted(guide) == sorted(" ".join(words[2:]) for words in commands("0.5.6", 5556))

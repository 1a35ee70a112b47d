"""The guides as a newcomer follows them: every `run` block, in order, in a root that contains only a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch import guides
from gaudi_patch.authoring.wheels import cache_directory
from tests.guides import parts
from tests.support import cli
from tests.support.environments import Environment, clean_environment

pytestmark = [pytest.mark.wheels, pytest.mark.torch]

REPOSITORY = guides.FOLDER.parents[1]
#: Also run the block that makes the target: it installs PyTorch, 1.5 GB.
IN_FULL = os.environ.get("GAUDI_PATCH_TEST_GUIDES") == "full"


def _script(name: str, target: Path | None = None) -> str:
    """Return the `run` blocks of a guide as one script; ``target`` replaces the block that makes one."""
    lines = ["set -e"]
    for block in parts.blocks(guides.read(name).markdown):
        if block.words[:1] != ("run",):
            continue
        if "makes-target" in block.words and target is not None:
            lines.append(f"export TARGET='{target}'")
        else:
            lines.append(block.code)
    return "\n".join(lines)


def _follow(script: str, root: Path, *, path: Path | None = None) -> str:
    """Run a script in ``root``, which is also the home directory; return its output."""
    kept = {"PATH": f"{path}:/usr/local/bin:/usr/bin:/bin" if path else os.environ["PATH"], "HOME": str(root)}
    # Downloads and compiled devices of earlier runs only save network traffic and time.
    kept["GAUDI_PATCH_CACHE"] = str(cache_directory())
    kept["HPU_EMULATOR_CACHE"] = os.environ.get("HPU_EMULATOR_CACHE", str(Path.home() / ".cache" / "hpu-emulator"))
    kept["PIP_CACHE_DIR"] = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=root,
        env=clean_environment() | kept | {"COLUMNS": "100", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory with a copy of this repository in `gaudi-patch`, without the files that git ignores."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = REPOSITORY / name, tmp_path / "gaudi-patch" / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return tmp_path


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """Return a directory with a `gaudi-patch` that runs the code under test."""
    folder = tmp_path / "tool"
    folder.mkdir()
    script = folder / "gaudi-patch"
    script.write_text(f'#!/bin/sh\nexec {" ".join(cli.command())} "$@"\n')
    script.chmod(0o755)
    return folder


def test_a_newcomer_gets_from_a_checkout_to_a_configuration(
    root: Path, lmcache_copy: Callable[[str], Environment]
) -> None:
    target = None if IN_FULL else lmcache_copy("0.5.6").python
    told = _follow(_script("quick-start", target), root)
    assert (root / "gaudi-patch-tool" / "bin" / "gaudi-patch").is_file()
    assert sorted(path.name for path in (root / "lmcache").iterdir()) == ["lmcache.yaml", "preflight.py", "serve.sh"]
    assert "patched: every file has the hash that the series gives it" in told
    assert "accepts every value" in told
    assert " unknown" in told
    assert "failure" not in told
    if IN_FULL:
        assert "demo succeeded" in told


@pytest.mark.parametrize("name", ["caching", "capacity", "production", "disaggregated", "patch"])
def test_every_command_of_a_guide_works(name: str, tmp_path: Path, tool: Path) -> None:
    _follow(_script(name), tmp_path, path=tool)
    if name == "disaggregated":
        mixed = {path.name for path in (tmp_path / "mixed").iterdir()}
        assert mixed == {"gaudi.sh", "mi300x.sh", "lmcache.yaml", "preflight.py", "clean.sh", "clean.py"}
        assert {path.name for path in (tmp_path / "disaggregated").iterdir()} > {"prefill.sh", "decode.sh", "server.sh"}


def test_a_site_gets_to_a_wheel_and_its_proof(tmp_path: Path, tool: Path) -> None:
    told = _follow(_script("patched-wheel"), tmp_path, path=tool)
    assert [path.name for path in (tmp_path / "wheels").glob("*.whl")]
    assert {"statement.json", "bom.json"} <= {path.name for path in tmp_path.iterdir()}
    assert "built; read back from disk" in told


def test_a_contributor_gets_from_a_checkout_to_the_same_patches(root: Path) -> None:
    patches = root / "gaudi-patch" / "patches"

    def content() -> dict[str, bytes]:
        return {str(path.relative_to(patches)): path.read_bytes() for path in patches.rglob("*") if path.is_file()}

    before = content()
    told = _follow(_script("porting"), root)
    assert "series apply, compile, and match the lock" in told
    assert content() == before, "an edit that changes nothing writes nothing"


def test_troubleshooting_runs_nothing_that_changes_a_host() -> None:
    assert _script("troubleshooting") == "set -e"

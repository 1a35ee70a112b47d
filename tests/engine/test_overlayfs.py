"""A target on a real overlay file system, like the layers of a container image.

The lower layer is on a different file system from the upper one. So an unchanged file reports another device than its
directory, and another inode after it was copied up.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.rig import trace
from tests.support import tiny
from tests.support.cli import command, environment
from tests.support.fake_wheel import fake_wheel
from tests.support.tiny import EXECUTABLE, PATCHED, PRISTINE, Tiny, tree

#: Mount the layers on the target, run a command, copy what it left: LOWER UPPER WORK SITE SEEN COMMAND...
_STEP = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4" || exit 99
site=$4 seen=$5; shift 5
"$@"; code=$?
cp -a "$site/." "$seen"
exit $code
"""
_MAY_MOUNT = """
mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir lower upper work merged || exit 99
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged
"""
#: The series of a later gaudi-patch for the same release.
NEXT = {**PATCHED, "lmcache/engine.py": b"def device():\n    return 'hpu:0'\n", "lmcache/gaudi/more.py": b"A = 1\n"}


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--mount", "sh", "-c", _MAY_MOUNT, "sh", folder]
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not can_mount(), reason="only root, where it may make a mount namespace, can mount an overlay"
)


@dataclass
class Image:
    """An image whose first layer is ``lower``, and the steps built on it.

    Attributes:
    layers: The files written by each step, the first step first.
    seen: The merged tree after each step.
    """

    target: Tiny
    lower: Path
    folder: Path
    layers: list[Path] = field(default_factory=list)
    seen: list[Path] = field(default_factory=list)

    def step(self, verb: str, *options: str, manifest: Path | None = None, code: int = 0, **env: str) -> Any:
        """Run gaudi-patch in a new layer; return its JSON output, or None if it was killed."""
        upper, work, seen = (self.folder / f"{name}-{len(self.layers)}" for name in ("layer", "work", "seen"))
        for made in (upper, work, seen):
            made.mkdir()
        below = ":".join(map(str, [*reversed(self.layers), self.lower]))
        self.layers.append(upper)
        self.seen.append(seen)
        manifest = manifest or self.target.manifest.directory
        run = command(verb, "--path", self.target.site, "--manifest", manifest, "--json", *options)
        variables = ["env", *(f"{name}={value}" for name, value in env.items())]
        layers = ["unshare", "--mount", "sh", "-c", _STEP, "sh", below, upper, work, self.target.site, seen]
        done = subprocess.run([*layers, *variables, *run], capture_output=True, env=environment(), check=False)
        assert done.returncode == code, done
        return json.loads(done.stdout) if done.stdout else None

    def written(self) -> set[str]:
        """Return the files in the newest layer, including deletions."""
        layer = self.layers[-1]
        return {path.relative_to(layer).as_posix() for path in layer.rglob("*") if not path.is_dir()}

    def files(self) -> dict[str, bytes | None]:
        """Return the package's files after the newest step; None marks a missing file."""
        return {
            name: path.read_bytes() if (path := self.seen[-1] / name).exists() else None
            for name in {**PRISTINE, **NEXT}
        }


def expected(patched: dict[str, bytes | None]) -> dict[str, bytes | None]:
    return dict.fromkeys(NEXT) | dict(PRISTINE) | patched


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    target = tiny.make(tmp_path)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as lower:  # a tmpfs on every Linux
        subprocess.run(["cp", "-a", f"{target.site}/.", lower], check=True)
        assert Path(lower).stat().st_dev != tmp_path.stat().st_dev
        yield Image(target, Path(lower), tmp_path)


def test_a_layer_holds_what_the_series_changes_and_nothing_else(image: Image) -> None:
    """case_10: on a real overlay; the layer below is unchanged."""
    before = tree(image.lower, times=True)
    image.step("apply", "--no-smoke")
    assert image.files() == expected(dict(PATCHED))
    ours = {name for name in image.written() if name.startswith("lmcache/")}
    assert {name for name in ours if not name.startswith("lmcache/__pycache__")} == set(PATCHED)
    dist_info = {name.partition("/")[0] for name in image.written() - ours}
    assert dist_info == {image.target.dist_info.name}
    assert tree(image.lower, times=True) == before


def test_what_one_layer_applied_the_next_ones_check_update_and_roll_back(image: Image, tmp_path: Path) -> None:
    wheel = fake_wheel(tmp_path / "next-wheel", image.target.version, dict(PRISTINE))
    data = tiny.patch(PRISTINE, NEXT, EXECUTABLE & set(NEXT))
    newer = tiny.write_manifest(tmp_path / "next", {tiny.VERSION: {"tiny.patch": data}}, {tiny.VERSION: wheel})
    image.step("apply", "--no-smoke")
    assert image.step("check")["data"]["state"] == "patched"
    assert image.written() == set()
    image.step("apply", "--no-smoke", manifest=newer.directory)
    assert image.files() == expected(dict(NEXT))
    image.step("rollback", manifest=newer.directory)
    assert image.files() == expected({})
    assert tree(image.seen[-1]) == tree(image.lower)


@pytest.mark.parametrize("number", [1, 4, 7])
def test_a_step_that_was_killed_is_rolled_back_in_the_layer_above_it(number: int, image: Image) -> None:
    """As if a build continued from a container that had died."""
    fault = {"RIG_ROOT": str(image.target.site), "RIG_KIND": "rename", "RIG_NTH": str(number), "RIG_FAULT": "SIGKILL"}
    image.step("apply", "--no-smoke", code=137, LD_PRELOAD=str(trace.library()), **fault)
    image.step("rollback")
    assert image.files() == expected({})
    assert tree(image.seen[-1]) == tree(image.lower)

"""No dead end: whenever gaudi-patch cannot go on, the printed command is run here, and then it can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import scenarios, tiny
from tests.support.cli import Done, environment, gaudi_patch
from tests.support.fake_wheel import fake_wheel
from tests.support.faults import KILLED, KillAt, Recorder, copy_tree, in_child
from tests.support.installers import installed
from tests.support.tiny import VERSION, Tiny


class Place:
    """An environment with a tiny LMCache installed by real pip, to break and then repair with the printed commands."""

    def __init__(self, folder: Path) -> None:
        self.wheel = fake_wheel(folder / "wheels", VERSION, dict(scenarios.FEW))
        self.venv = installed(folder / "venv", self.wheel, "pip")
        patches = {VERSION: {"tiny.patch": tiny.patch(scenarios.FEW, scenarios.FEW_PATCHED)}}
        manifest = tiny.write_manifest(folder / "patches", patches, {VERSION: self.wheel})
        site = self.venv.site_packages
        self.target = Tiny(site, manifest, VERSION, scenarios.FEW, scenarios.FEW_PATCHED)
        scenarios.compile_all(site / "lmcache")
        self.how: tuple[str | Path, ...] = ("--python", self.venv.python)

    def run(self, verb: str, *more: str) -> Done:
        quiet = ("--no-smoke",) if verb == "apply" else ()
        return gaudi_patch(verb, *self.how, "--manifest", self.target.manifest.directory, *quiet, *more)

    def follow(self, hint: str) -> None:
        """Run each command of a hint as a shell would; pip finds the wheel here instead of on an index."""
        env = environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.wheel.parent), PIP_QUIET="1")
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        commands = re.findall(r"`([^`]+)`", hint)
        assert commands, hint
        for line in commands:
            done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, cwd="/", check=False)
            assert done.returncode == 0, (line, done.stderr)

    def kill(self, verb: str, step: str) -> None:
        """Kill a run of ``verb`` before it replaces a file named ``step``."""
        kept = copy_tree(self.target.site, self.target.site.with_name("kept"))
        recorder = Recorder()
        getattr(self.target, verb)(recorder)
        at = next(at for at, (name, path) in enumerate(recorder.calls) if (name, path.name) == ("replace", step))
        copy_tree(kept, self.target.site)
        shutil.rmtree(kept)
        assert in_child(lambda: getattr(self.target, verb)(KillAt(at))) == KILLED


def state_is_garbage(place: Place) -> None:
    assert place.run("apply").code == 0
    (place.target.state_dir / "state.json").write_text("{")


def backup_is_gone(place: Place) -> None:
    assert place.run("apply").code == 0
    for file in (place.target.state_dir / "backup").iterdir():
        file.unlink()


def journal_is_garbage(place: Place) -> None:
    place.kill("apply", "RECORD")
    (place.target.home / "journal.json").write_text("[]")


def journal_lost_its_bytes(place: Place) -> None:
    place.kill("apply", "RECORD")
    (place.target.home / "undo").write_bytes(b"")


def edited_after_a_kill(place: Place) -> None:
    place.kill("apply", "RECORD")
    (place.target.site / "lmcache/engine.py").write_bytes(b"MINE = 1\n")


def edited_after_a_killed_rollback(place: Place) -> None:
    assert place.run("apply").code == 0
    place.kill("rollback", "engine.py")
    (place.target.site / "lmcache/old.py").write_bytes(b"MINE = 1\n")


def edited(place: Place) -> None:
    (place.target.site / "lmcache/engine.py").write_bytes(b"MINE = 1\n")


def another_file_where_one_is_created(place: Place) -> None:
    (place.target.site / "lmcache/gaudi").mkdir()
    (place.target.site / "lmcache/gaudi/__init__.py").write_bytes(b"MINE = 1\n")


def package_is_gone(place: Place) -> None:
    shutil.rmtree(place.target.site / "lmcache")


@pytest.mark.parametrize(
    ("broken", "verb", "how"),
    [
        (package_is_gone, "check", "--python"),
        (package_is_gone, "apply", "--path"),
        (state_is_garbage, "apply", "--python"),
        (state_is_garbage, "rollback", "--path"),
        (backup_is_gone, "rollback", "--python"),
        (journal_is_garbage, "apply", "--python"),
        (journal_is_garbage, "rollback", "--path"),
        (journal_lost_its_bytes, "apply", "--python"),
        (edited_after_a_kill, "rollback", "--python"),
        (edited_after_a_killed_rollback, "apply", "--path"),
        (edited, "apply", "--python"),
        (another_file_where_one_is_created, "apply", "--python"),
    ],
)
def test_what_is_printed_ends_it(broken: Callable[[Place], None], verb: str, how: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    if how == "--path":
        place.how = ("--path", place.target.site)
    broken(place)
    (error,) = place.run(verb, "--json").json["errors"]
    assert "VERSION" not in error["hint"]
    place.follow(error["hint"])
    assert place.run("apply").code == 0
    assert place.run("rollback").code == 0
    assert place.run("check").code == 10
    left = [path.name for path in place.target.site.rglob("*") if "gaudi" in str(path.relative_to(place.target.site))]
    assert left == []


def test_in_a_checkout_git_brings_the_files_back(tmp_path: Path) -> None:
    place = Place(tmp_path)
    checkout = tmp_path / "checkout"
    shutil.copytree(place.target.site / "lmcache", checkout / "lmcache", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(checkout)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "release"]):
        subprocess.run([*git, *command], check=True)
    place.how = ("--path", checkout)
    assert place.run("apply").code == 0
    (checkout / ".git/gaudi-patch/state.json").write_text("{")
    (error,) = place.run("rollback", "--json").json["errors"]
    assert error["code"] == "state-damaged"
    place.follow(error["hint"])
    assert place.run("apply").code == 0
    assert place.run("rollback").code == 0
    assert place.run("check").code == 10

"""A run was killed, then the next or the same release was installed over its remains: there is always a way out."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gaudi_patch.engine import orphans
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.engine.orphan_worlds import (
    NEW,
    OLD,
    RELEASES,
    SERIES,
    VERBS,
    World,
    before_record,
    kill,
    leftovers,
    steps,
    uninstall,
)
from tests.support.cli import command, environment, gaudi_patch
from tests.support.fake_wheel import fake_wheel
from tests.support.faults import FULL, KILLED, KillAt, Recorder, copy_tree, in_child, memory_folder
from tests.support.installers import Venv, venv
from tests.support.tiny import tree


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("installed", [NEW, OLD])
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_one_next_command_makes_it_whole(
    verb: str, installed: str, installer: str, record_property: Callable[[str, object], None]
) -> None:
    """Killed at every step; then the next release, or the same one by the same or another installer.

    Files, temporary files and a journal once stayed, and each command exited 1 for ever.
    """
    kills = 0
    with memory_folder() as folder:
        world = World(folder)
        count = steps(world, verb, OLD)
        for at in range(0, count, 1 if FULL else 7):
            for number, following in enumerate(("rollback", "apply")):
                if (at + number) % 2 and not FULL:
                    continue
                kill(world, verb, OLD, at)
                world.install(installed, installer)
                target = world.target(installed)
                state = target.check()
                assert state.exit in (Exit.PENDING, Exit.OK) or state.errors[0].code == "interrupted", (
                    at,
                    state.errors,
                )
                result = getattr(target, following)()
                assert result.exit is Exit.OK, (at, following, result.errors)
                if following == "apply" or target.check().exit is Exit.OK:  # killed before a committed run ended
                    assert target.check().exit is Exit.OK, (at, following)
                    assert target.rollback().exit is Exit.OK
                assert target.check().exit is Exit.PENDING
                assert leftovers(world.site) == []
                found, clean = tree(world.site), world.clean(installed)
                ends = {name for name in found if name.endswith(("RECORD", "INSTALLER"))}
                assert {name: node for name, node in found.items() if name not in ends} == {
                    name: node for name, node in clean.items() if name not in ends
                }, (at, following)
                kills += 1
    record_property("kills followed by an installation", kills)
    assert kills > 10


def test_what_is_removed_is_told_and_what_was_edited_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    assert (world.site / "lmcache/gaudi/old.py").exists()
    world.install(NEW)
    (world.site / "lmcache/gaudi/__init__.py").write_bytes(b"MINE = 1\n")
    orphan = world.site / f"lmcache-{OLD}.dist-info"
    (orphan / "note.txt").write_text("mine")
    target = world.target(NEW)
    (error,) = target.check().errors
    assert (error.code, error.file) == ("interrupted", str(orphan))
    assert f"lmcache-{OLD}" in error.message
    before = tree(world.site)
    assert target.check().exit is Exit.REFUSED
    assert tree(world.site) == before
    (told,) = orphans.clear(target.installation, 0.0, Recorder())
    assert f"an interrupted apply of lmcache-{OLD}" in told
    assert "lmcache/gaudi/old.py" in told
    assert "left alone because edited since: lmcache/gaudi/__init__.py" in told
    assert (world.site / "lmcache/gaudi/__init__.py").read_bytes() == b"MINE = 1\n"
    assert not (world.site / "lmcache/gaudi/old.py").exists()
    assert [path.name for path in orphan.iterdir()] == ["note.txt"]
    assert orphans.clear(target.installation, 0.0, Recorder()) == []


def test_what_the_present_release_lists_is_never_touched(tmp_path: Path) -> None:
    """A release has a file with the same bytes as one that the previous release's series created."""
    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    created = "lmcache/gaudi/old.py"
    data = SERIES[OLD][created]
    assert data is not None
    world.wheels[NEW] = fake_wheel(tmp_path / "wheels", NEW, {**RELEASES[NEW], created: data})
    world.install(NEW)
    target = world.target(NEW)
    assert orphans.clear(target.installation, 0.0, Recorder())
    assert (world.site / created).read_bytes() == data
    assert leftovers(world.site) == []


def test_clearing_may_be_killed_anywhere_too(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with memory_folder() as folder:
        world = World(folder)
        kill(world, "apply", OLD, before_record(world))
        world.install(NEW)
        copy_tree(world.site, folder / "start")
        recorder = Recorder()
        target = world.target(NEW)
        orphans.clear(target.installation, 0.0, recorder)
        clean = tree(world.site)
        for at in range(len(recorder.calls)):
            copy_tree(folder / "start", world.site)
            assert in_child(lambda: orphans.clear(target.installation, 0.0, KillAt(at))) == KILLED  # noqa: B023
            assert target.rollback().exit is Exit.OK
            assert tree(world.site) == clean, at
    record_property("kills while clearing orphans", len(recorder.calls))


def test_a_run_at_work_on_the_old_release_is_waited_for(tmp_path: Path) -> None:
    """pip replaced the package during the run: that is not a killed run."""
    from gaudi_patch.engine.locking import directory_lock

    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    world.install(NEW)
    target = world.target(NEW)
    before = tree(world.site)
    with directory_lock(world.site / f"lmcache-{OLD}.dist-info", 0):
        assert [error.code for error in target.check().errors] == ["locked"]
        with pytest.raises(GaudiPatchError) as caught:
            target.apply(lock_timeout=0.0)
        assert caught.value.code == "locked"
    assert tree(world.site) == before
    assert target.apply().exit is Exit.OK


@pytest.mark.parametrize("kind", ["link", "file", "other-package", "damaged", "metadata"])
def test_what_is_no_orphan_of_ours_is_left_alone(kind: str, tmp_path: Path) -> None:
    """A link, a file, another package's, an uninformative journal, a complete dist-info."""
    world = World(tmp_path)
    world.install(NEW)
    outside = tmp_path / "outside"
    (outside / "gaudi-patch.journal").mkdir(parents=True)
    (outside / "gaudi-patch.journal/journal.json").write_text("{")
    name = "other-1.dist-info" if kind == "other-package" else f"lmcache-{OLD}.dist-info"
    place = world.site / name
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "file":
        place.write_text("")
    else:
        shutil.copytree(outside, place)
    if kind == "metadata":
        (place / "METADATA").write_text("")
    before = tree(world.site), tree(outside)
    target = world.target(NEW)
    assert orphans.clear(target.installation, 0.0, Recorder()) == []
    assert target.check().exit is Exit.PENDING
    assert (tree(world.site), tree(outside)) == before


def test_a_forged_orphan_reaches_nothing_outside(tmp_path: Path) -> None:
    """Its journal is confined to the package, and links on the way are not followed."""
    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    world.install(NEW)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "old.py").write_bytes(SERIES[OLD]["lmcache/gaudi/old.py"] or b"")
    shutil.rmtree(world.site / "lmcache/gaudi")
    (world.site / "lmcache/gaudi").symlink_to(victim)
    target = world.target(NEW)
    with contextlib.suppress(GaudiPatchError):
        target.rollback()
    assert [path.name for path in victim.iterdir()] == ["old.py"]


@pytest.mark.parametrize("edited", [False, True])
def test_the_same_release_installed_anew_is_not_taken_apart(edited: bool, tmp_path: Path) -> None:
    """RECORD of another installer was once a permanent third state: reinstalling, as the hint said, did not help."""
    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    world.install(OLD, "uv")
    target = world.target(OLD)
    if edited:  # then nothing proves that the installer wrote all files
        (world.site / "lmcache/engine.py").write_bytes(b"MINE = 1\n")
        with pytest.raises(GaudiPatchError) as caught:
            target.rollback()
        assert (caught.value.exit, caught.value.code) == (Exit.HUMAN, "third-state")
        world.install(OLD, "uv")  # as the hint says
    result = target.rollback()
    assert result.exit is Exit.OK
    assert any("of an earlier installation was cleaned up" in text for text in result.warnings)
    assert target.check().exit is Exit.PENDING
    assert leftovers(world.site) == []


# With the real tools


def _environment(folder: Path, world: World, version: str) -> Venv:
    made = venv(folder)
    made.pip("install", "--quiet", "--no-deps", "--no-index", world.wheels[version])
    return made


def test_a_really_killed_apply_and_a_real_pip(tmp_path: Path) -> None:
    """SIGKILL from outside while the command runs, then pip install of the next release, or of the same one."""
    choose = random.Random(11)
    world = World(tmp_path)
    made = _environment(tmp_path / "venv", world, OLD)
    world.site = made.site_packages
    target = ["--python", made.python, "--manifest", world.manifest.directory]
    orphaned = 0
    for number in range(12 if FULL else 4):
        journal = made.site_packages / f"lmcache-{OLD}.dist-info/gaudi-patch.journal/journal.json"
        for _ in range(40):
            made.pip("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", world.wheels[OLD])
            process = subprocess.Popen(
                command("apply", "--no-smoke", *target), env=environment(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while not journal.exists() and process.poll() is None:
                pass
            time.sleep(choose.uniform(0, 0.01))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if journal.exists():
                break
        else:
            pytest.fail("no kill met the transaction")
        installed = NEW if number % 2 == 0 else OLD
        made.pip("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", world.wheels[installed])
        orphaned += (made.site_packages / f"lmcache-{OLD}.dist-info").is_dir() and installed == NEW
        verb = ["apply", "--no-smoke"] if choose.random() < 0.5 else ["rollback"]
        done = gaudi_patch(*verb, *target)
        assert done.code == 0, done.err
        if verb == ["rollback"]:
            assert gaudi_patch("check", *target).code == 10
        else:
            assert gaudi_patch("check", *target).code == 0
            assert gaudi_patch("rollback", *target).code == 0
        assert leftovers(made.site_packages) == []
        assert not [path for path in made.site_packages.rglob("lmcache/gaudi/*") if path.suffix == ".py"]
        infos = sorted(path.name for path in made.site_packages.glob("lmcache-*"))
        assert infos == [f"lmcache-{installed}.dist-info"]
        made.pip("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", world.wheels[OLD])
    assert orphaned


def test_with_nothing_installed_the_journal_is_kept_for_the_next_installation(tmp_path: Path) -> None:
    """Removing it by hand, as once advised, would leave files that only the journal knows."""
    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    uninstall(world.site, world.site / f"lmcache-{OLD}.dist-info")
    target = ["--path", world.site, "--manifest", world.manifest.directory]
    for verb in ("check", "apply", "rollback"):
        done = gaudi_patch(verb, *target, "--json")
        assert (done.code, done.code_of_error) == (3, "broken-metadata")
        assert "keep that directory and reinstall lmcache" in done.json["errors"][0]["hint"]
    world.install(NEW)
    assert gaudi_patch("check", *target).code == 1
    done = gaudi_patch("rollback", *target)
    assert done.code == 0
    assert f"an interrupted apply of lmcache-{OLD} was cleaned up" in done.err
    assert "lmcache/gaudi/old.py" in done.err
    assert leftovers(world.site) == []
    assert gaudi_patch("check", *target).code == 10


def test_check_needs_no_interpreter_to_see_an_orphan(tmp_path: Path) -> None:
    """In an image, too."""
    world = World(tmp_path)
    kill(world, "apply", OLD, before_record(world))
    world.install(NEW)
    target = replace(world.target(NEW), python=None)
    assert target.check().errors[0].code == "interrupted"
    assert target.apply().exit is Exit.OK
    assert target.check().exit is Exit.OK
    assert not (world.site / f"lmcache-{OLD}.dist-info").exists()

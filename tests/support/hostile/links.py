"""Links instead of the package's own files and directories."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.hostile.spoiling import SECRET, case, digest, forge_journal, replaced_by_link, saved
from tests.support.tiny import Tiny


@case(1)
def journal_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.home, victim)


@case(1)
def journal_directory_is_a_link_to_an_empty_directory(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.home, victim / "emptydir")


@case(1)
def state_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.state_dir, victim)


@case(1, applied=True)
def state_directory_is_a_link_to_its_own_copy_outside(target: Tiny, victim: Path) -> None:
    """A complete state outside the package: a rollback would delete files there."""
    os.utime(victim, (1, 1))
    copy = target.site.parent / "copy-of-state"
    shutil.copytree(target.state_dir, copy)
    replaced_by_link(target.state_dir, copy)


@case(1, applied=True)
def backup_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.state_dir / "backup", victim)


@case(1, applied=True)
def state_file_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.state_dir / "state.json", victim / "state.json")


@case(1)
def journal_file_is_a_link(target: Tiny, victim: Path) -> None:
    target.home.mkdir()
    replaced_by_link(target.home / "journal.json", victim / "journal.json")


@case(6, 1)
def undo_file_is_a_link(target: Tiny, victim: Path) -> None:
    forge_journal(target, entry={"before": saved(SECRET), "undo": [0, len(SECRET)]})
    replaced_by_link(target.home / "undo", victim / "secret")


@case(0, 1)
def record_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    """In an image, the link is dangling, and there is no RECORD."""
    replaced_by_link(target.record, victim / "secret")


@case(1)
def bytecode_directory_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/__pycache__", victim / "cache")


@case(1)
def bytecode_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    cached = target.site / "lmcache/__pycache__/engine.cpython-311.pyc"
    replaced_by_link(cached, victim / "secret")


@case(1)
def directory_of_targets_is_a_link(target: Tiny, victim: Path) -> None:
    copy = target.site.parent / "copy-of-v1"
    shutil.move(target.site / "lmcache/v1", copy)
    replaced_by_link(target.site / "lmcache/v1", copy)


@case(1)
def directory_to_make_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/gaudi", victim / "cache")


@case(1, applied=True)
def directory_to_remove_is_a_link(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/gaudi", victim / "emptydir")


@case(1)
def target_is_a_link_to_another_file(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/engine.py", victim / "passwd")


@case(0, 1)
def target_is_a_link_to_its_own_bytes(target: Tiny, victim: Path) -> None:
    """As uv installs it: a private file replaces the link, whose target is not touched.

    In an image, the link is dangling and is refused.
    """
    replaced_by_link(target.site / "lmcache/engine.py", victim / "engine.py")


@case(0)
def target_is_a_hard_link(target: Tiny, victim: Path) -> None:
    engine = target.site / "lmcache/engine.py"
    engine.unlink()
    os.link(victim / "engine.py", engine)


@case()
def package_is_a_link(target: Tiny, victim: Path) -> None:
    copy = target.site.parent / "copy-of-package"
    shutil.move(target.site / "lmcache", copy)
    replaced_by_link(target.site / "lmcache", copy)


@case()
def metadata_directory_is_a_link(target: Tiny, victim: Path) -> None:
    copy = target.site.parent / "copy-of-info"
    shutil.move(target.dist_info, copy)
    replaced_by_link(target.dist_info, copy)


@case()
def metadata_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.dist_info / "METADATA", victim / "secret")


@case(1, 4)
def directories_are_links_in_a_circle(target: Tiny, victim: Path) -> None:
    shutil.rmtree(target.site / "lmcache/v1")
    replaced_by_link(target.site / "lmcache/v1", "v2")
    replaced_by_link(target.site / "lmcache/v2", "v1")


@case(1, 6, applied=True)
def backup_is_a_link_to_a_secret(target: Tiny, victim: Path) -> None:
    backup = target.state_dir / "backup" / digest(target.pristine["lmcache/engine.py"])
    replaced_by_link(backup, victim / "secret")

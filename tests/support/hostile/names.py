"""Names that denote another file: hard links, taken names, names written twice, and names that some systems merge."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests.support.hostile.spoiling import case, replaced_by_link
from tests.support.tiny import Tiny


@case(1)
def target_is_a_hard_link_to_a_secret(target: Tiny, victim: Path) -> None:
    engine = target.site / "lmcache/engine.py"
    engine.unlink()
    os.link(victim / "secret", engine)


@case(1)
def file_to_make_is_a_hard_link_to_a_secret(target: Tiny, victim: Path) -> None:
    (target.site / "lmcache/gaudi").mkdir()
    os.link(victim / "secret", target.site / "lmcache/gaudi/kernels.py")


@case(6, applied=True)
def state_file_is_a_hard_link(target: Tiny, victim: Path) -> None:
    (target.state_dir / "state.json").unlink()
    os.link(victim / "state.json", target.state_dir / "state.json")


@case(0)
def record_names_files_twice_and_outside(target: Tiny, victim: Path) -> None:
    """Foreign rows are kept unchanged, and the files that they name are not read."""
    text = target.record.read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("lmcache/engine.py"))
    outside = os.path.relpath(victim / "deleteme", target.site)
    more = [row, "lmcache/./engine.py,,", "lmcache//engine.py,,", f"{outside},,", f"{victim}/deleteme,,"]
    target.record.write_text(text + "\n".join(more) + "\n")


@case(1, applied=True)
def state_has_one_name_in_two_forms(target: Tiny, victim: Path) -> None:
    """A file system that folds case or normal forms would treat them as one file."""
    file = target.state_dir / "state.json"
    document = json.loads(file.read_bytes())
    engine = document["files"]["lmcache/engine.py"]
    document["files"] |= dict.fromkeys(("lmcache/ENGINE.py", "lmcache/caf\xe9.py", "lmcache/cafe\u0301.py"), engine)
    file.write_text(json.dumps(document))


@case(0)
def temporary_names_are_links(target: Tiny, victim: Path) -> None:
    for folder in (target.site / "lmcache", target.site / "lmcache/v1", target.dist_info):
        for number in range(20):
            replaced_by_link(folder / f".gaudi-patch-1-{number}.tmp", victim / "deleteme")


@case(1, applied=True)
def file_became_a_directory(target: Tiny, victim: Path) -> None:
    engine = target.site / "lmcache/engine.py"
    engine.unlink()
    engine.mkdir()
    (engine / "theirs").symlink_to(victim)


@case(1)
def package_is_a_link_to_the_directory_of_another_user(target: Tiny, victim: Path) -> None:
    other = victim.parent / "package-of-another"
    shutil.move(target.site / "lmcache", other)
    for path in [other, *other.rglob("*")] if os.geteuid() == 0 else []:
        os.chown(path, 12345, 12345)
    replaced_by_link(target.site / "lmcache", other)

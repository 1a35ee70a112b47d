"""FIFOs and devices, huge files, odd names: files that hang a reader, exhaust its memory, or fool a terminal."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.support.hostile.spoiling import case, digest, forge_journal, replaced_by_fifo, replaced_by_link
from tests.support.tiny import Tiny


@case(1, applied=True)
def state_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.state_dir / "state.json")


@case(1)
def journal_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.home / "journal.json")


@case(1, 6)
def undo_is_a_fifo(target: Tiny, victim: Path) -> None:
    forge_journal(target)
    replaced_by_fifo(target.home / "undo")


@case(4)
def journal_directory_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.home)


@case(1, 6, applied=True)
def backup_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.state_dir / "backup" / digest(target.pristine["lmcache/engine.py"]))


@case(1)
def target_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.site / "lmcache/engine.py")


@case(1)
def bytecode_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.site / "lmcache/__pycache__/engine.cpython-311.pyc")


@case()
def record_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.record)


@case()
def metadata_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.dist_info / "METADATA")


@case()
def direct_url_is_a_fifo(target: Tiny, victim: Path) -> None:
    replaced_by_fifo(target.dist_info / "direct_url.json")


@case()
def wheel_is_a_link_to_an_endless_device(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.dist_info / "WHEEL", "/dev/zero")


@case(1)
def target_is_a_link_to_an_endless_device(target: Tiny, victim: Path) -> None:
    replaced_by_link(target.site / "lmcache/engine.py", "/dev/zero")


@case(1)
def target_is_a_device(target: Tiny, victim: Path) -> None:
    engine = target.site / "lmcache/engine.py"
    engine.unlink()
    try:
        os.mknod(engine, stat.S_IFCHR | 0o644, os.makedev(1, 5))
    except PermissionError:  # not root
        os.mkfifo(engine)


@case(1)
def target_is_huge(target: Tiny, victim: Path) -> None:
    with (target.site / "lmcache/engine.py").open("ab") as stream:
        stream.truncate(1 << 42)


@case(1)
def record_is_huge(target: Tiny, victim: Path) -> None:
    with target.record.open("ab") as stream:
        stream.truncate(1 << 42)


@case(1)
def bytecode_is_huge(target: Tiny, victim: Path) -> None:
    cached = target.site / "lmcache/__pycache__/engine.cpython-311.pyc"
    cached.parent.mkdir(exist_ok=True)
    with cached.open("ab") as stream:
        stream.truncate(1 << 42)


@case(0)
def names_are_odd(target: Tiny, victim: Path) -> None:
    """Files next to ours whose names must not reach a terminal."""
    cache = target.site / "lmcache/__pycache__"
    cache.mkdir(exist_ok=True)
    for name in (b"engine.\xff\x1b[31m.pyc", b"engine.a\nb.pyc", b"engine.\xe2\x80\xae.pyc", b"-rf", b"x" * 255):
        (cache / os.fsdecode(name)).write_bytes(b"odd")


@case(0)
def there_are_very_many_files(target: Tiny, victim: Path) -> None:
    cache = target.site / "lmcache/__pycache__"
    cache.mkdir(exist_ok=True)
    for number in range(20_000):
        (cache / f"other{number}.cpython-311.pyc").touch()

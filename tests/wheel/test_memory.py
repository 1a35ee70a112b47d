"""`wheel` holds only parts of a file in memory, however large it is, and loads no module that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from gaudi_patch.wheel.archive import Archive, Writer
from tests.scripts import wheel_cost
from tests.support.cli import environment

MIB = 1 << 20


class Nowhere:
    """Accepts bytes and discards them."""

    def write(self, data: bytes, /) -> int:
        return len(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("data", [bytes(8 * MIB), os.urandom(8 * MIB)], ids=["zeros", "random"])
def test_copying_a_large_file_holds_half_a_mebibyte_at_most(data: bytes, method: int, tmp_path: Path) -> None:
    path = tmp_path / "large.whl"
    with zipfile.ZipFile(path, "w", method) as new:
        new.writestr("large", data)
    with path.open("rb") as stream:
        archive = Archive(path, stream)
        writer = Writer(Nowhere())
        tracemalloc.start()
        try:
            content = writer.copy(archive, archive.entries[0], "large", (1980, 1, 1, 0, 0, 0))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert content.size == len(data)
    assert peak < MIB // 2


def test_what_proves_a_wheel_and_reads_sdists_is_not_loaded_for_a_wheel() -> None:
    code = "import sys, gaudi_patch.wheel.output; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )  # fmt: skip
    loaded = done.stdout.split()
    assert "gaudi_patch.wheel.build" in loaded
    assert {"gaudi_patch.wheel.prove", "gaudi_patch.wheel.sdist", "jsonschema"}.isdisjoint(loaded)


def test_the_script_measures_a_process_and_does_not_take_a_failed_one_for_cheap() -> None:
    # A peak of this process does not count for its children.
    bytearray(b"x" * 300 * MIB)
    small, large = (wheel_cost.cost([sys.executable, "-c", f"bytearray(b'x' * {size * MIB})"]) for size in (1, 64))
    assert 50 < large.mebibytes - small.mebibytes < 250
    assert small.seconds > 0
    with pytest.raises(SystemExit, match="exit 3"):
        wheel_cost.cost([sys.executable, "-c", "raise SystemExit(3)"])

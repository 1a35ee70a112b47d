"""Fixtures of this directory's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_interpreter import answering
from tests.target.installations import Python


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """``python(*sys_path, **facts)``: create a program that answers like an interpreter with this sys.path."""

    def make(*path: Path, name: str = "python", **facts: object) -> Path:
        folder = tmp_path / "interpreters" / str(len(list(tmp_path.glob("interpreters/*")))) / "bin"
        folder.mkdir(parents=True)
        answer = {
            "executable": str(folder / name),
            "prefix": str(folder.parent),
            "version": [3, 12],
            "cache_tag": "cpython-312",
            "pycache_prefix": "",
            "path": [str(entry) for entry in path],
            "finder_folder": "",
            "frozen": False,
            **facts,
        }
        program = folder / name
        program.write_text(answering(answer))
        program.chmod(0o755)
        return program

    return make

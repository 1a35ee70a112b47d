"""The pristine and the patched code of an installation can be imported, and the installation is unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch.bench import trees
from gaudi_patch.engine.situation import Situation, look
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import tiny
from tests.support.tiny import Tiny

ASK = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "import importlib.util as u, lmcache, lmcache.engine, lmcache.untouched\n"
    "print(lmcache.__file__, lmcache.engine.device(), u.find_spec('lmcache.gaudi') is not None)"
)


def _look(small: Tiny) -> Situation:
    return look(small.manifest, small.installation)


def _state(small: Tiny, state: str) -> None:
    """Bring the installation to a state: pristine, patched by gaudi-patch, or by another tool, without a record."""
    if state == "patched":
        assert small.apply().exit is Exit.OK
    elif state == "patched by another tool":
        for path, data in small.patched.items():
            file = small.site / path
            if data is None:
                file.unlink()
                continue
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)


@pytest.mark.parametrize("state", ["pristine", "patched", "patched by another tool"])
def test_each_code_has_all_its_files_and_the_installation_is_not_touched(state: str, tmp_path: Path) -> None:
    small = tiny.make(tmp_path, executable=frozenset())
    _state(small, state)
    before = tiny.tree(small.site, times=True)
    stock, patched = trees.codes(_look(small), tmp_path / "laid")
    assert tiny.tree(small.site, times=True) == before
    assert [stock.name, patched.name] == ["stock", "patched"]
    assert [stock.laid_out, patched.laid_out] == ([False, True] if state == "pristine" else [True, False])
    for code, changed in ((stock, {}), (patched, small.patched)):
        wanted = {path: data for path, data in {**small.pristine, **changed}.items() if data is not None}
        package = code.root / "lmcache"
        found = [one for one in package.rglob("*") if one.is_file() and "__pycache__" not in one.parts]
        assert {one.relative_to(code.root).as_posix(): one.read_bytes() for one in found} == wanted


@pytest.mark.parametrize("state", ["pristine", "patched"])
def test_python_imports_the_code_that_was_laid_out(state: str, tmp_path: Path) -> None:
    small = tiny.make(tmp_path, executable=frozenset())
    _state(small, state)
    code = next(one for one in trees.codes(_look(small), tmp_path / "laid") if one.laid_out)
    done = subprocess.run([sys.executable, "-B", "-c", ASK, str(code.root)], capture_output=True, text=True, check=True)
    device, runtime = ("hpu", "True") if code.name == "patched" else ("cuda", "False")
    assert done.stdout.split() == [str(tmp_path / "laid" / "lmcache" / "__init__.py"), device, runtime]


def test_files_that_differ_from_both_codes_are_refused(tmp_path: Path) -> None:
    small = tiny.make(tmp_path)
    (small.site / "lmcache/engine.py").write_bytes(b"def device():\n    return 'mine'\n")
    with pytest.raises(GaudiPatchError) as caught:
        trees.codes(_look(small), tmp_path / "laid")
    assert caught.value.code == "drift"
    assert not (tmp_path / "laid").exists()


def test_a_backup_that_was_changed_is_refused(tmp_path: Path) -> None:
    small = tiny.make(tmp_path)
    small.apply()
    for backup in (small.state_dir / "backup").iterdir():
        backup.write_bytes(b"something else\n")
    with pytest.raises(GaudiPatchError) as caught:
        trees.codes(_look(small), tmp_path / "laid")
    assert caught.value.code == "state-damaged"

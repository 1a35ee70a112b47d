"""The throwaway environment of a port's smoke checks: the new wheel precedes all packages of the given interpreter."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gaudi_patch.authoring import prove
from tests.support.fake_wheel import fake_wheel


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """Return an interpreter and its packages: an older LMCache, and more by a .pth file, like an editable vLLM."""
    prefix = tmp_path / "given"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    site = prefix / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/there.py").write_text("")
    (site / "editable.pth").write_text(f"{tmp_path / 'checkout'}\n")
    (site / "lmcache").mkdir()
    (site / "lmcache/__init__.py").write_text("VERSION = 'old'\n")
    (site / "lmcache/only_old.py").write_text("")
    return prefix / "bin/python", site


def test_it_has_the_new_wheel_first_and_then_what_the_given_interpreter_has(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    python, site = given
    (site / "here.py").write_text("")
    before = sorted(path.name for path in site.iterdir())
    wheel = fake_wheel(tmp_path, "1.0.1", {"lmcache/__init__.py": "VERSION = 'new'\n"})
    target = prove.environment(tmp_path / "proof", wheel, python)
    code = "import here, there, lmcache; print(lmcache.VERSION)"
    done = subprocess.run([str(target), "-I", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("new\n", "")
    assert sorted(path.name for path in site.iterdir() if path.name != "__pycache__") == before

"""How a revision of vllm-gaudi becomes part of an environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import vllm_gaudi
from tests.support.environments import EnvironmentUnavailableError
from tests.support.vllm_gaudi import Revision

SETUP = """raise SystemExit("was run")
setup(name="vllm_gaudi", entry_points={
    "vllm.platform_plugins": ["hpu = vllm_gaudi:register"],
    "pytest11": ["vllm_gaudi_compat = pytest_compat"],
})
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a repository with one tag, as vllm-gaudi has them."""
    folder = tmp_path / "repository"
    (folder / "vllm_gaudi").mkdir(parents=True)
    (folder / "vllm_gaudi" / "__init__.py").write_text("NAME = 'tagged'\n")
    (folder / "setup.py").write_text(SETUP)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["tag", "v0.26.0"]):
        subprocess.run([*git, *arguments], check=True)
    (folder / "vllm_gaudi" / "__init__.py").write_text("NAME = 'worktree'\n")
    return folder


def test_what_the_tag_has_is_exported_with_its_entry_points(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "site-packages"
    target.mkdir()
    vllm_gaudi._export(Revision("v0.26.0", "0.26.0"), repository, target)
    assert (target / "vllm_gaudi" / "__init__.py").read_text() == "NAME = 'tagged'\n"
    text = (target / "vllm_gaudi-0.26.0.dist-info" / "entry_points.txt").read_text()
    assert text == "[vllm.platform_plugins]\nhpu = vllm_gaudi:register\n"


def test_a_repository_without_the_revision_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=r"has no vllm-gaudi v0\.17\.1"):
        vllm_gaudi._export(Revision("v0.17.1", "0.17.1"), repository, tmp_path)

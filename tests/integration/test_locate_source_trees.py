"""How source trees, clones and this process's own interpreter are located."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.target.installation import Installation, Layout
from gaudi_patch.target.locate import Target, locate
from tests.integration.real_installations import (
    PYTHON,
    REPOSITORY,
    SITE,
    agrees_with_import,
    imported,
    make_venv,
    needs_uv,
    pip,
    run,
)
from tests.support import environments
from tests.support.environments import EnvironmentUnavailableError
from tests.support.fake_wheel import DEFAULT_FILES, fake_project
from tests.support.unavailable import unavailable

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git on PATH")


class TestOwnInterpreter:
    def test_nothing_slow_is_loaded_and_nothing_is_started(self, venv: Path, wheel: Path) -> None:
        pip(venv, "install", wheel)
        script = (
            "import sys\n"
            "from gaudi_patch.target.locate import Target, locate\n"
            "found = locate(Target())\n"
            "print(found.own_interpreter, found.root)\n"
            "print(*sys.modules)"
        )
        out = run(venv, "-c", script, cwd=Path("/"), PYTHONPATH=str(REPOSITORY)).splitlines()
        assert out[0] == f"True {venv.parents[1] / SITE}"
        slow = {"importlib.metadata", "email", "packaging", "subprocess", "zipfile", "typer", "lmcache"}
        assert slow.isdisjoint(out[1].split())

    def test_the_active_environment_is_the_own_one_when_gaudi_patch_is_in_it(self, venv: Path, wheel: Path) -> None:
        pip(venv, "install", wheel)
        script = "from gaudi_patch.target.locate import *; print(locate(Target()).own_interpreter)"
        env = {"PYTHONPATH": str(REPOSITORY), "VIRTUAL_ENV": str(venv.parents[1])}
        assert run(venv, "-c", script, cwd=Path("/"), **env) == "True\n"


def git(folder: Path, *arguments: str | Path) -> str:
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always")
    return run("git", *who, "-C", folder, *arguments, **identity)


def repository(folder: Path) -> Path:
    """Return a committed checkout of a project."""
    fake_project(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "x")
    return folder


def keeps_state_out_of_sight(found: Installation) -> bool:
    """Return whether git neither lists a file in the state directory nor is disturbed by it."""
    before = git(found.root, "status", "--porcelain", "--ignored")
    found.state_dir.mkdir()
    (found.state_dir / "journal").write_text("x")
    git(found.root, "fsck")
    return git(found.root, "status", "--porcelain", "--ignored") == before


@needs_git
class TestGit:
    def test_a_clone_a_worktree_and_a_submodule(self, tmp_path: Path) -> None:
        origin = repository(tmp_path / "origin")
        git(tmp_path, "clone", "--quiet", origin, tmp_path / "clone")
        git(tmp_path / "clone", "worktree", "add", "--quiet", tmp_path / "worktree")
        outer = repository(tmp_path / "outer")
        git(outer, "submodule", "--quiet", "add", str(origin), "third_party/lmcache")
        folders = (tmp_path / "clone", tmp_path / "worktree", outer / "third_party/lmcache")
        states = set()
        for folder in folders:
            found = locate(Target(path=folder), environ={})
            real = git(folder, "rev-parse", "--absolute-git-dir").strip()
            assert (found.layout, found.root, str(found.state_dir)) == (
                Layout.CHECKOUT,
                folder,
                f"{real}/gaudi-patch",
            )
            assert keeps_state_out_of_sight(found)
            states.add(found.state_dir)
        assert len(states) == len(folders)

    def test_an_environment_inside_a_checkout(self, tmp_path: Path, wheel: Path) -> None:
        outer = repository(tmp_path / "LMCache")
        python = make_venv(outer / ".venv")
        pip(python, "install", wheel)
        found = locate(Target(python=python), environ={})
        assert (found.layout, found.root) == (Layout.WHEEL, outer / ".venv" / SITE)


@pytest.fixture(scope="module")
def setuptools() -> Path:
    """Return LMCache's build backend, one that builds wheels without the package ``wheel``."""
    try:
        return environments.wheel("80.9.0", PYTHON, name="setuptools")
    except EnvironmentUnavailableError as error:
        unavailable(error)


@needs_git
@pytest.mark.wheels
class TestEditable:
    @pytest.fixture
    def builder(self, venv: Path, setuptools: Path) -> Path:
        pip(venv, "install", "--no-index", setuptools)
        return venv

    @pytest.mark.parametrize("installer", ["pip", pytest.param("uv", marks=needs_uv)])
    @pytest.mark.parametrize("layout", ["", "src/"])
    def test_the_source_tree_is_found(self, builder: Path, tmp_path: Path, installer: str, layout: str) -> None:
        source = fake_project(
            tmp_path / "src tree", files={layout + name: data for name, data in DEFAULT_FILES.items()}
        )
        if layout:
            project = source / "pyproject.toml"
            project.write_text(project.read_text().replace("find]\n", 'find]\nwhere = ["src"]\n'))
        git(source, "init", "--quiet")
        options = ("--no-build-isolation", "--no-deps", "--editable", source)
        if installer == "pip":
            pip(builder, "install", *options)
        else:
            uv = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--python", builder)
            run(*uv, *options, UV_CACHE_DIR=str(tmp_path / "cache"))
        for target in (Target(python=builder), Target(path=builder.parents[1] / SITE)):
            found = locate(target, environ={})
            assert (found.layout, found.root) == (Layout.EDITABLE, source / layout)
            assert found.state_dir == source / ".git" / "gaudi-patch"
            assert found.record is None
            assert agrees_with_import(found, builder)

    def test_links_to_the_source_tree_are_refused(self, builder: Path, tmp_path: Path) -> None:
        source = repository(tmp_path / "src")
        strict = ("--config-settings", "editable_mode=strict")
        pip(builder, "install", "--no-build-isolation", "--no-deps", *strict, "--editable", source)
        with pytest.raises(GaudiPatchError) as caught:
            locate(Target(python=builder), environ={})
        assert caught.value.code == "strict-editable"
        assert caught.value.details[0] == str(imported(builder))

    def test_setup_py_develop_is_refused(self, builder: Path, tmp_path: Path) -> None:
        source = repository(tmp_path / "src")
        site = builder.parents[1] / SITE
        # As left by setuptools up to 79: a link file, and the tree in easy-install.pth.
        (source / "lmcache.egg-info").mkdir()
        (source / "lmcache.egg-info" / "PKG-INFO").write_text("Name: lmcache\nVersion: 0.5.6\n")
        (site / "lmcache.egg-link").write_text(f"{source}\n.")
        (site / "easy-install.pth").write_text(f"{source}\n")
        assert imported(builder) == source / "lmcache"
        with pytest.raises(GaudiPatchError) as caught:
            locate(Target(python=builder), environ={})
        assert caught.value.code == "legacy-install"
        assert f"--path {source}" in caught.value.hint

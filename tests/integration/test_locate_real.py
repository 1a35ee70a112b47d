"""How real installations by pip and uv are located."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.target.installation import Layout
from gaudi_patch.target.interpreter import identify
from gaudi_patch.target.locate import Target, locate
from gaudi_patch.target.site_folder import _is_leftover
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
from tests.support.environments import clean_environment
from tests.support.fake_wheel import fake_project


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pythons")
    return {
        "venv": make_venv(folder / "venv"),
        "venv with system packages": make_venv(folder / "open", "--system-site-packages"),
        "base": Path(sys.base_prefix, "bin", f"python{PYTHON}"),
    }


class TestPathOfANormalRun:
    """The probe runs isolated but still knows the path of a normal run."""

    @pytest.mark.parametrize("kind", ["venv", "venv with system packages", "base"])
    @pytest.mark.parametrize(
        "variables",
        [
            {},
            {"PYTHONPATH": "{tmp}/a:{tmp}/b"},
            {"PYTHONPATH": "relative:"},
            {"PYTHONPATH": ":{tmp}/a:/no/such/folder:{tmp}/a"},
            {"PYTHONUSERBASE": "{tmp}/user"},
            {"PYTHONUSERBASE": "{tmp}/user", "PYTHONNOUSERSITE": "1"},
            {"HOME": "{tmp}/home"},
            {"PYTHONUSERBASE": "{tmp}/user", "PYTHONPATH": "{tmp}/a"},
            {"PYTHONUSERBASE": "{tmp}/no-such-folder"},
        ],
        ids=lambda variables: " ".join(f"{k}={v}" for k, v in variables.items()) or "plain",
    )
    def test_it_is_what_python_itself_says(
        self,
        pythons: dict[str, Path],
        kind: str,
        variables: dict[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for user in (tmp_path / "user", tmp_path / "home" / ".local"):
            (user / SITE).mkdir(parents=True)
            (user / SITE / "b.pth").write_text("# comment\nextra\n\n/no/such/line\n")
            (user / SITE / "a.pth").write_text(f"{tmp_path / 'absolute'}\n")
            (user / SITE / "extra").mkdir()
        for name in ("a", "b", "relative", "absolute"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        env = {name: value.format(tmp=tmp_path) for name, value in variables.items()}
        python = pythons[kind]
        said = json.loads(run(python, "-c", "import sys, json; print(json.dumps(sys.path[1:]))", **env))
        expected = list(dict.fromkeys(str(Path(tmp_path, entry)) for entry in said))
        answer = identify(str(python), "lmcache", {**clean_environment(), **env})
        existing = [entry for entry in answer.path if Path(entry).exists()]
        assert existing == [entry for entry in expected if Path(entry).exists()]
        assert answer.executable == python
        assert answer.version == sys.version_info[:2]
        assert answer.cache_tag == sys.implementation.cache_tag

    def test_in_this_process_it_is_the_same_as_asked_from_outside(self, pythons: dict[str, Path]) -> None:
        script = (
            "import os, sys, json\n"
            "from gaudi_patch.target.interpreter import own_interpreter\n"
            "print(json.dumps(own_interpreter('lmcache', os.environ).path))"
        )
        for python in pythons.values():
            inside = json.loads(run(python, "-c", script, PYTHONPATH=str(REPOSITORY)))
            env = {**clean_environment(), "PYTHONPATH": str(REPOSITORY)}
            assert inside == list(identify(str(python), "lmcache", env).path)

    def test_what_pythonpath_and_the_current_folder_hold_cannot_take_over_the_probe(
        self, pythons: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("json", "site", "sitecustomize", "os", "collections"):
            (tmp_path / f"{name}.py").write_text("open('hijacked', 'w')\nraise SystemExit(1)\n")
        monkeypatch.chdir(tmp_path)
        answer = identify(str(pythons["venv"]), "lmcache", {**clean_environment(), "PYTHONPATH": str(tmp_path)})
        assert answer.path[0] == str(tmp_path)
        assert not (tmp_path / "hijacked").exists()

    def test_the_places_of_bytecode_are_known(self, pythons: dict[str, Path]) -> None:
        env = {**clean_environment(), "PYTHONPYCACHEPREFIX": "/var/cache/pyc"}
        assert identify(str(pythons["venv"]), "lmcache", env).pycache_prefix == "/var/cache/pyc"
        assert identify(str(pythons["venv"]), "lmcache", clean_environment()).pycache_prefix is None

    def test_the_probe_writes_no_bytecode_into_the_environment(self, tmp_path: Path) -> None:
        python = make_venv(tmp_path / "venv")
        site = tmp_path / "venv" / SITE
        (site / "hook.py").write_text("")
        (site / "hook.pth").write_text("import hook\n")
        env = clean_environment()
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        identify(str(python), "lmcache", env)
        assert sorted(path.name for path in site.iterdir()) == ["hook.pth", "hook.py"]


class TestWheels:
    def test_pip(self, venv: Path, wheel: Path) -> None:
        pip(venv, "install", wheel)
        found = locate(Target(python=venv), environ={})
        assert (found.layout, found.version) == (Layout.WHEEL, "0.5.6")
        assert found.record is not None and b"lmcache/engine.py" in found.record.read_bytes()
        assert found.warnings == ()
        assert agrees_with_import(found, venv)

    @needs_uv
    @pytest.mark.parametrize("mode", ["hardlink", "symlink", "copy", "clone"])
    def test_uv(self, venv: Path, wheel: Path, tmp_path: Path, mode: str) -> None:
        command = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--python", venv, wheel)
        run(*command, UV_LINK_MODE=mode, UV_CACHE_DIR=str(tmp_path / "cache"))
        found = locate(Target(python=venv), environ={})
        engine = found.root / "lmcache" / "engine.py"
        assert engine.is_symlink() == (mode == "symlink")
        if mode in ("hardlink", "copy"):  # in other modes, links depend on the file system
            assert (engine.stat().st_nlink > 1) == (mode == "hardlink")
        assert found.record is not None
        assert agrees_with_import(found, venv)

    def test_a_target_folder(self, venv: Path, wheel: Path, tmp_path: Path) -> None:
        pip(venv, "install", "--target", tmp_path / "dir", wheel)
        found = locate(Target(path=tmp_path / "dir"), environ={})
        assert found.root == tmp_path / "dir"
        assert found.python is None
        env = {"PYTHONPATH": str(tmp_path / "dir")}
        found = locate(Target(python=venv), environ=env)
        assert found.root == tmp_path / "dir"
        assert agrees_with_import(found, venv, **env)

    def test_a_users_install_and_a_second_one_beside_it(self, wheel: Path, tmp_path: Path) -> None:
        python = make_venv(tmp_path / "venv", "--system-site-packages")
        env = {"PYTHONUSERBASE": str(tmp_path / "user")}
        pip(python, "install", "--user", wheel, **env)
        found = locate(Target(python=python), environ=env)
        assert found.root == tmp_path / "user" / SITE
        assert agrees_with_import(found, python, **env)
        with pytest.raises(GaudiPatchError) as caught:
            locate(Target(python=python), environ={**env, "PYTHONNOUSERSITE": "1"})
        assert caught.value.code == "not-installed"

        pip(python, "install", "--ignore-installed", wheel, PYTHONNOUSERSITE="1")
        with pytest.raises(GaudiPatchError) as caught:
            locate(Target(python=python), environ=env)
        assert caught.value.code == "ambiguous-installation"
        for site in (tmp_path / "user" / SITE, tmp_path / "venv" / SITE):
            assert f"--path {site}" in caught.value.hint
            chosen = locate(Target(path=site), environ={**env, "VIRTUAL_ENV": str(tmp_path / "venv")})
            assert chosen.root == site
        assert imported(python, **env).parent == tmp_path / "venv" / SITE

    def test_a_wheel_shadowed_by_pythonpath_is_refused(self, venv: Path, wheel: Path, tmp_path: Path) -> None:
        pip(venv, "install", wheel)
        source = fake_project(tmp_path / "src")
        env = {"PYTHONPATH": str(source)}
        with pytest.raises(GaudiPatchError) as caught:
            locate(Target(python=venv), environ=env)
        assert caught.value.code == "shadowed-installation"
        assert caught.value.details[0] == str(imported(venv, **env))

    def test_a_conda_like_environment_with_hardlinked_files(self, wheel: Path, tmp_path: Path) -> None:
        packages = tmp_path / "pkgs" / "lmcache-0.5.6"
        pip(make_venv(tmp_path / "builder"), "install", "--no-compile", "--target", packages, wheel)
        python = make_venv(tmp_path / "envs" / "vllm")
        (tmp_path / "envs" / "vllm" / "conda-meta").mkdir()
        shutil.copytree(packages, tmp_path / "envs/vllm" / SITE, copy_function=os.link, dirs_exist_ok=True)
        environ = {"CONDA_PREFIX": str(tmp_path / "envs" / "vllm")}
        found = locate(Target(), environ=environ)
        assert found.root == tmp_path / "envs/vllm" / SITE
        assert "CONDA_PREFIX" in found.how
        assert agrees_with_import(found, python)

    def test_an_image_filled_by_pip(self, venv: Path, wheel: Path, tmp_path: Path) -> None:
        pip(venv, "install", "--root", tmp_path / "image", "--prefix", "/usr/local", wheel)
        found = locate(Target(root=tmp_path / "image"), environ={})
        assert (found.layout, found.root) == (Layout.IMAGE, tmp_path / "image/usr/local" / SITE)
        assert found.python_version == sys.version_info[:2]

    def test_after_an_uninstall_it_is_not_installed(self, venv: Path, wheel: Path) -> None:
        pip(venv, "install", wheel)
        litter = locate(Target(python=venv), environ={}).root / "lmcache" / "left.orig"
        litter.write_text("")
        pip(venv, "uninstall", "--yes", "lmcache")
        with pytest.raises(GaudiPatchError) as caught:
            locate(Target(python=venv), environ={})
        assert caught.value.code == "not-installed"
        assert any(str(litter.parent) in detail for detail in caught.value.details)

    def test_every_name_that_pip_gives_to_what_it_moves_aside_is_known(self) -> None:
        names = run(
            sys.executable,
            "-c",
            "import itertools\n"
            "from pip._internal.utils.temp_dir import AdjacentTempDirectory as T\n"
            "for name in ('lmcache', 'lmcache-0.5.6.dist-info'):\n"
            "    print('\\n'.join(itertools.islice(T._generate_names(name), 300)))",
        ).splitlines()
        assert len(names) > 500
        assert [name for name in names if not _is_leftover(name, "lmcache")] == []

    @pytest.mark.wheels
    @pytest.mark.parametrize("version", ["0.5.6", "0.4.2"])
    def test_the_real_release(self, venv: Path, lmcache_wheel: Callable[..., Path], version: str) -> None:
        pip(venv, "install", "--no-deps", "--no-compile", lmcache_wheel(version, PYTHON))
        found = locate(Target(python=venv), environ={})
        assert (found.version, found.layout, found.warnings) == (version, Layout.WHEEL, ())
        assert (found.root / "lmcache" / "v1").is_dir()

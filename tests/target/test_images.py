"""Roots of unpacked images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit
from gaudi_patch.target.image_root import ImageRoot
from gaudi_patch.target.installation import Layout
from gaudi_patch.target.locate import Target
from tests.support.fake_wheel import fake_project
from tests.target.installations import checkout, error, find, install, install_editable, poisoned, tree


class TestImage:
    @pytest.mark.parametrize(
        "place",
        [
            "usr/lib/python3/dist-packages",
            "usr/local/lib/python3.11/dist-packages",
            "usr/local/lib/python3.11/site-packages",
            "usr/lib64/python3.9/site-packages",
            "usr/local/lib64/python3.12/site-packages",
            "opt/venv/lib/python3.11/site-packages",
            "opt/habanalabs/venv/lib/python3.10/site-packages",
            "opt/conda/lib/python3.11/site-packages",
            "opt/conda/envs/vllm/lib/python3.11/site-packages",
            "root/.local/lib/python3.10/site-packages",
            "root/.venv/lib/python3.10/site-packages",
            "root/miniconda3/envs/x/lib/python3.10/site-packages",
            "root/.pyenv/versions/3.11.7/lib/python3.11/site-packages",
            "home/user/.local/lib/python3.11/site-packages",
            "home/user/venv/lib/python3.11/site-packages",
            "app/.venv/lib/python3.11/site-packages",
            "venv/lib/python3.13/site-packages",
        ],
    )
    def test_every_usual_place_is_looked_at(self, tmp_path: Path, place: str) -> None:
        root = tmp_path / "image"
        info = install(root / place)
        found = find(Target(root=root))
        assert (found.layout, found.root, found.dist_info) == (Layout.IMAGE, root / place, info)
        assert (found.record, found.state_dir) == (info / "RECORD", info / "gaudi-patch")
        assert (found.python, found.prefix, found.own_interpreter) == (None, None, False)
        assert found.python_version == (
            None if "python3/" in place else (3, int(place.split("python3.")[-1].split("/")[0]))
        )

    def test_several_environments_are_refused_naming_each(self, tmp_path: Path) -> None:
        infos = [install(tmp_path / "image" / p / "lib/python3.11/site-packages") for p in ("opt/a", "opt/b", "usr")]
        refused = error(Target(root=tmp_path / "image"))
        assert refused.code == "ambiguous-installation"
        assert sorted(refused.details) == sorted(map(str, infos))

    def test_a_package_without_metadata_is_refused(self, tmp_path: Path) -> None:
        info = install(tmp_path / "image/opt/venv/lib/python3.11/site-packages")
        info.rename(tmp_path / "moved")
        refused = error(Target(root=tmp_path / "image"))
        assert refused.code == "no-metadata"
        assert refused.details == [str(info.parent / "lmcache")]

    def test_a_folder_that_cannot_be_read_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = tmp_path / "image/root/.local/lib/python3.11/site-packages"
        home = tmp_path / "image/home/other"
        info = install(tmp_path / "image/opt/venv/lib/python3.11/site-packages")
        closed.mkdir(parents=True)
        home.mkdir(parents=True)
        listdir = os.listdir

        def guarded(path: str) -> list[str]:  # chmod does not stop root
            if path in (str(closed), str(home)):
                raise PermissionError(13, "Permission denied", path)
            return listdir(path)

        monkeypatch.setattr(os, "listdir", guarded)
        found = find(Target(root=tmp_path / "image"))
        assert found.dist_info == info
        assert found.warnings == (f"{closed} cannot be read: Permission denied",)

    def test_a_copy_without_metadata_in_another_environment_shadows_nothing(self, tmp_path: Path) -> None:
        info = install(tmp_path / "image/opt/venv/lib/python3.11/site-packages")
        other = tmp_path / "image/app/venv/lib/python3.11/site-packages/lmcache"
        other.mkdir(parents=True)
        (other / "__init__.py").touch()
        found = find(Target(root=tmp_path / "image"))
        assert found.dist_info == info
        assert found.warnings == (f"{other} is left alone (another copy without metadata)",)

    def test_an_absolute_link_starts_at_the_images_root(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        info = install(root / "usr/local/lib/python3.11/site-packages")
        (root / "opt").mkdir()
        (root / "opt/venv").symlink_to("/usr/local")
        (root / "lib").symlink_to("usr/lib")
        assert find(Target(root=root)).root == info.parent

    def test_no_link_leads_out_of_the_image(self, tmp_path: Path) -> None:
        install(tmp_path / "host/lib/python3.11/site-packages")
        root = tmp_path / "image"
        (root / "opt").mkdir(parents=True)
        (root / "opt/a").symlink_to(tmp_path / "host")
        (root / "opt/b").symlink_to("../../host")
        (root / "opt/0-loop").symlink_to("0-loop")
        assert error(Target(root=root)).code == "not-installed"
        info = install(root / "opt/venv/lib/python3.11/site-packages")
        assert find(Target(root=root)).dist_info == info

    def test_a_package_folder_linked_to_the_host_is_refused(self, tmp_path: Path) -> None:
        site = tmp_path / "image/opt/venv/lib/python3.11/site-packages"
        install(site)
        (site / "lmcache").rename(site / "kept")
        (site / "lmcache").symlink_to("/opt/venv/lib/python3.11/site-packages/kept")
        assert error(Target(root=tmp_path / "image")).code == "symlinked-package"

    def test_metadata_that_is_an_absolute_link_is_read_inside_the_image(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        info = install(root / "opt/venv/lib/python3.11/site-packages")
        (root / "cache").mkdir()
        (info / "METADATA").rename(root / "cache/METADATA")
        (info / "METADATA").symlink_to("/cache/METADATA")
        assert find(Target(root=root)).version == "0.5.6"

    def test_nothing_of_the_image_is_run(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        info = install(root / "opt/venv/lib/python3.11/site-packages")
        poisoned(root / "opt/venv/bin/python", tmp_path / "run")
        (info.parent / "x.pth").write_text(f"import os; os.mkdir({str(tmp_path / 'run')!r})\n")
        before = tree(root)
        environ = {"VIRTUAL_ENV": str(root / "opt/venv"), "PATH": str(root / "opt/venv/bin"), "PYTHONPATH": "/x"}
        found = find(Target(root=root), {**environ, "PYTHONPYCACHEPREFIX": "/host/cache"})
        assert not (tmp_path / "run").exists()
        assert tree(root) == before
        assert found.pycache_prefix is None

    def test_an_editable_install_is_found_where_the_image_has_its_source(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        source = checkout(root / "workspace/LMCache")
        site = root / "opt/venv/lib/python3.11/site-packages"
        info = install_editable(site, Path("/workspace/LMCache"))
        found = find(Target(root=root))
        assert (found.layout, found.root) == (Layout.EDITABLE, source)
        assert (found.dist_info, found.state_dir) == (info, source / ".git/gaudi-patch")

    def test_path_lines_of_an_image_start_at_its_root(self, tmp_path: Path) -> None:
        root = tmp_path / "image"
        source = checkout(root / "workspace/LMCache", {"code/lmcache/__init__.py": ""})
        site = root / "opt/venv/lib/python3.11/site-packages"
        install_editable(site, Path("/workspace/LMCache"), pth="/workspace/LMCache/code\n")
        assert find(Target(root=root)).root == source / "code"

    @pytest.mark.parametrize("place", ["opt/venv/lib/python2.7/site-packages", "proc/1/lib/python3.11/site-packages"])
    def test_other_places_are_not_looked_at(self, tmp_path: Path, place: str) -> None:
        install(tmp_path / "image" / place)
        assert error(Target(root=tmp_path / "image")).code == "not-installed"
        info = install(tmp_path / "image/home/proc/venv/lib/python3.11/site-packages")
        assert find(Target(root=tmp_path / "image")).dist_info == info

    def test_the_git_folder_of_an_image_is_not_taken_from_the_host(self, tmp_path: Path) -> None:
        host = checkout(tmp_path / "host")
        root = tmp_path / "image"
        source = fake_project(root / "workspace/LMCache")
        (source / ".git").symlink_to(host / ".git")
        install_editable(root / "opt/venv/lib/python3.11/site-packages", Path("/workspace/LMCache"))
        assert error(Target(root=root)).code == "broken-checkout"
        (source / ".git").unlink()
        (source / ".git").write_text(f"gitdir: {host / '.git'}\n")
        assert error(Target(root=root)).code == "broken-checkout"

    def test_a_root_that_is_not_there_is_a_wrong_option(self, tmp_path: Path) -> None:
        assert error(Target(root=tmp_path / "missing")).exit is Exit.USAGE

    def test_a_circle_of_links_is_an_error_and_not_a_hang(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("/a")
        with pytest.raises(OSError, match="symbolic links"):
            ImageRoot(str(tmp_path)).resolve(str(tmp_path / "a" / "x"))

    def test_links_are_followed_as_a_chroot_does(self, tmp_path: Path) -> None:
        image = ImageRoot(str(tmp_path))
        (tmp_path / "d").mkdir()
        (tmp_path / "d/up").symlink_to("../../../d")
        (tmp_path / "abs").symlink_to("/d/up/./x")
        assert image.resolve(str(tmp_path / "d/up/y")) == str(tmp_path / "d/y")
        assert image.resolve(str(tmp_path / "abs")) == str(tmp_path / "d/x")
        assert image.resolve(image.on_host("/d/../abs")) == str(tmp_path / "d/x")
        assert image.resolve(str(tmp_path)) == str(tmp_path)

"""The complete workflow in every kind of environment, created by the real tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import environments, tiny
from tests.support.cli import Done, gaudi_patch
from tests.support.fake_wheel import fake_project, fake_wheel
from tests.support.installers import Venv, installed, must, venv
from tests.support.tiny import PATCHED, PRISTINE, VERSION, Node, tree


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return fake_wheel(tmp_path / "wheels", VERSION, dict(PRISTINE))


@pytest.fixture
def patches(tmp_path: Path, wheel: Path) -> Path:
    """Return a manifest with a series for the tiny LMCache."""
    data = {VERSION: {"tiny.patch": tiny.patch(PRISTINE, PATCHED, tiny.EXECUTABLE)}}
    return tiny.write_manifest(tmp_path / "patches", data, {VERSION: wheel}).directory


def story(patches: Path, folder: Path, *target: str | Path, env: dict[str, str] | None = None) -> Done:
    """Run check, apply, check, apply, rollback, check: no byte of ``folder`` changes. Returns the first check."""

    def verb(name: str, *more: str) -> Done:
        quiet = ["--no-smoke"] if name == "apply" else []
        return gaudi_patch(name, *target, "--manifest", patches, *quiet, *more, env=env)

    before = tree(folder)
    first = verb("check", "--json")
    codes = [first.code, *(verb(name).code for name in ("apply", "check", "apply", "rollback", "check"))]
    assert codes == [10, 0, 0, 0, 0, 10], (codes, first)
    assert tree(folder) == before
    return first


@pytest.mark.parametrize("installer", ["pip", "uv", "uv-copy", "uv-symlink"])
def test_a_virtual_environment(installer: str, wheel: Path, patches: Path, tmp_path: Path) -> None:
    """case_13 case_15 case_62"""
    target = installed(tmp_path / "venv", wheel, installer)
    found = story(patches, target.prefix, "--python", target.python).json["data"]
    assert (found["layout"], found["root"]) == ("wheel", str(target.site_packages))


def test_the_active_environment_is_the_default(wheel: Path, patches: Path, tmp_path: Path) -> None:
    target = installed(tmp_path / "venv", wheel, "pip")
    found = story(patches, target.prefix, env={"VIRTUAL_ENV": str(target.prefix)}).json["data"]
    assert found["root"] == str(target.site_packages)


def test_a_conda_like_layout_with_hardlinks(wheel: Path, patches: Path, tmp_path: Path) -> None:
    """case_13: files hardlinked to a package cache, and to a second environment."""
    target = installed(tmp_path / "envs" / "a", wheel, "pip")
    for other in ("pkgs", "envs/b-site"):
        for file in target.site_packages.rglob("*"):
            link = tmp_path / other / file.relative_to(target.site_packages)
            if file.is_file():
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)
    untouched = tree(tmp_path / "pkgs", times=True), tree(tmp_path / "envs/b-site", times=True)
    story(patches, target.prefix, "--python", target.python)
    assert (tree(tmp_path / "pkgs", times=True), tree(tmp_path / "envs/b-site", times=True)) == untouched


def test_pip_install_target(wheel: Path, patches: Path, tmp_path: Path) -> None:
    """case_22: a plain directory, named with --path."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "-t"]
    must([*command, tmp_path / "plain", wheel], {})
    found = story(patches, tmp_path / "plain", "--path", tmp_path / "plain").json["data"]
    assert found["python"] is None


@pytest.mark.parametrize("folder", ["usr/lib/python3/dist-packages", "opt/venv/lib/python3.12/site-packages"])
def test_an_unpacked_image(folder: str, wheel: Path, patches: Path, tmp_path: Path) -> None:
    """case_22 case_49: Debian's dist-packages and a venv; nothing in the image is run, however the image is named."""
    root = tmp_path / "image"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "-t"]
    must([*command, root / folder, wheel], {})
    python = root / "usr/bin/python3"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text("#!/bin/sh\ntouch /tmp/gaudi-patch-ran-an-image\nexit 1\n")
    python.chmod(0o755)
    found = story(patches, root, "--root", root).json["data"]
    assert (found["layout"], found["root"]) == ("image", str(root / folder))
    assert not Path("/tmp/gaudi-patch-ran-an-image").exists()


def test_an_image_mounted_elsewhere_is_rolled_back(wheel: Path, patches: Path, tmp_path: Path) -> None:
    """case_22: nothing in the state depends on the image's path."""
    site = "usr/lib/python3/dist-packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "-t"]
    must([*command, tmp_path / "image" / site, wheel], {})
    before = tree(tmp_path / "image")
    assert gaudi_patch("apply", "--root", tmp_path / "image", "--manifest", patches, "--no-smoke").code == 0
    (tmp_path / "image").rename(tmp_path / "mounted")
    assert gaudi_patch("check", "--root", tmp_path / "mounted", "--manifest", patches).code == 0
    assert gaudi_patch("rollback", "--root", tmp_path / "mounted", "--manifest", patches).code == 0
    assert tree(tmp_path / "mounted") == before


# Source trees


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "tests@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return must(["git", "-c", "core.autocrlf=false", "-C", folder, *arguments], who)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a git checkout of a tag, with its build metadata, inside another repository."""
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet")
    folder = fake_project(outer / "lmcache", VERSION, dict(PRISTINE))
    (folder / ".gitignore").write_text("__pycache__/\n*.egg-info/\nbuild/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "release")
    git(folder, "tag", f"v{VERSION}")
    return folder


def work_tree(folder: Path) -> dict[str, Node]:
    return {name: node for name, node in tree(folder).items() if not name.startswith(".git/")}


def changed_in_git(folder: Path) -> set[str]:
    return {line[3:] for line in git(folder, "status", "--porcelain").splitlines()}


def test_a_git_checkout_of_a_tag(checkout: Path, patches: Path) -> None:
    """case_56 case_58: state is kept under the git directory; `git status` shows only the patched files."""

    def verb(name: str, *more: str) -> Done:
        quiet = ["--no-smoke"] if name == "apply" else []
        return gaudi_patch(name, "--path", checkout, "--manifest", patches, *quiet, *more)

    before = work_tree(checkout)
    assert verb("check").code == 10
    assert changed_in_git(checkout) == set()
    assert verb("apply").code == 0
    assert (checkout / ".git/gaudi-patch/state.json").is_file()
    assert changed_in_git(checkout) == {
        "lmcache/gaudi/" if path.startswith("lmcache/gaudi/") else path for path in PATCHED
    }
    assert git(checkout.parent, "status", "--porcelain").strip() in ("?? lmcache/", "")
    assert verb("check").code == 0
    assert verb("rollback").code == 0
    assert work_tree(checkout) == before
    assert changed_in_git(checkout) == set()
    assert not (checkout / ".git/gaudi-patch").exists()


def test_a_dev_commit_whose_files_are_the_releases_is_matched_by_hash(checkout: Path, patches: Path) -> None:
    """case_52 case_56: other files may have changed since the tag."""
    (checkout / "lmcache/untouched.py").write_bytes(b"ANSWER = 43\n")
    git(checkout, "commit", "--quiet", "-am", "go on")
    done = gaudi_patch("check", "--path", checkout, "--manifest", patches, "--json")
    assert (done.code, done.json["data"]["matched_by_hash"]) == (10, True)
    (checkout / "lmcache/engine.py").write_bytes(b"# rewritten\n")
    git(checkout, "commit", "--quiet", "-am", "go on")
    done = gaudi_patch("check", "--path", checkout, "--manifest", patches, "--json")
    assert (done.code, done.code_of_error) == (3, "unknown-version")


def test_a_checkout_that_moved_on_under_a_patch_is_not_set_back(checkout: Path, patches: Path) -> None:
    """case_60: state in the git directory survives a checkout of another commit; its files are not restored over it."""
    assert gaudi_patch("apply", "--path", checkout, "--manifest", patches, "--no-smoke").code == 0
    git(checkout, "checkout", "--quiet", "-f", f"v{VERSION}")
    git(checkout, "clean", "--quiet", "-fdx")
    (checkout / "lmcache/engine.py").write_bytes(b"# rewritten\n")
    git(checkout, "commit", "--quiet", "-am", "go on")
    before = work_tree(checkout)
    for verb in ("check", "apply", "rollback"):
        quiet = ["--no-smoke"] if verb == "apply" else []
        done = gaudi_patch(verb, "--path", checkout, "--manifest", patches, "--json", *quiet)
        assert done.code in (1, 3), done
    assert work_tree(checkout) == before


def test_a_checkout_that_was_cleaned_under_a_patch_is_patched_again(checkout: Path, patches: Path) -> None:
    """case_59: the hashes decide."""
    before = work_tree(checkout)
    for _ in range(2):
        assert gaudi_patch("apply", "--path", checkout, "--manifest", patches, "--no-smoke").code == 0
        git(checkout, "checkout", "--quiet", "-f", f"v{VERSION}")
        git(checkout, "clean", "--quiet", "-fdx")
        assert gaudi_patch("check", "--path", checkout, "--manifest", patches).code == 10
    assert gaudi_patch("rollback", "--path", checkout, "--manifest", patches).code == 0
    assert work_tree(checkout) == before
    assert gaudi_patch("check", "--path", checkout, "--manifest", patches).code == 10


def test_a_worktree_keeps_its_state_in_its_own_git_folder(checkout: Path, patches: Path, tmp_path: Path) -> None:
    """case_58"""
    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "second"), f"v{VERSION}")
    assert gaudi_patch("apply", "--path", tmp_path / "second", "--manifest", patches, "--no-smoke").code == 0
    assert (checkout / ".git/worktrees/second/gaudi-patch/state.json").is_file()
    assert gaudi_patch("check", "--path", checkout, "--manifest", patches).code == 10
    assert gaudi_patch("rollback", "--path", tmp_path / "second", "--manifest", patches).code == 0
    assert changed_in_git(tmp_path / "second") == set()


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_an_editable_install(tool: str, checkout: Path, patches: Path, tmp_path: Path) -> None:
    """case_56: the source tree is patched; RECORD and the rest of the environment are not touched."""
    try:
        backend = environments.wheel("80.9.0", f"{sys.version_info[0]}.{sys.version_info[1]}", name="setuptools")
    except environments.EnvironmentUnavailableError as error:
        pytest.skip(f"no setuptools to build with: {error}")
    target = venv(tmp_path / "venv", {"UV_CACHE_DIR": str(tmp_path / "uv-cache")})
    target.pip("install", "--quiet", "--no-index", backend)
    options = ("install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", checkout)
    if tool == "pip":
        target.pip(*options)
    else:
        target.uv(*options)
    before = work_tree(checkout), tree(target.prefix)

    def verb(name: str) -> int:
        quiet = ["--no-smoke"] if name == "apply" else []
        return gaudi_patch(name, "--python", target.python, "--manifest", patches, *quiet).code

    assert [verb(name) for name in ("check", "apply", "check")] == [10, 0, 0]
    assert tree(target.prefix) == before[1]
    asked = target.run("-c", "import lmcache.engine as e; print(e.device())")
    assert asked.stdout.strip() == "hpu", asked.stderr
    assert [verb(name) for name in ("rollback", "check")] == [0, 10]
    assert (work_tree(checkout), tree(target.prefix)) == before


def test_a_venv_inside_of_somebodys_repository_is_no_checkout(wheel: Path, patches: Path, tmp_path: Path) -> None:
    """case_58: git apply does nothing there and exits 0."""
    git(tmp_path, "init", "--quiet")
    target = installed(tmp_path / "venv", wheel, "pip")
    found = story(patches, target.prefix, "--python", target.python).json["data"]
    assert found["layout"] == "wheel"
    assert not (tmp_path / ".git/gaudi-patch").exists()


# Broken and doubled metadata


@pytest.fixture
def target(wheel: Path, tmp_path: Path) -> Venv:
    return installed(tmp_path / "venv", wheel, "pip")


def codes(target: Venv, patches: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for name in ("check", "apply", "rollback"):
        quiet = ["--no-smoke"] if name == "apply" else []
        done = gaudi_patch(name, "--python", target.python, "--manifest", patches, "--json", *quiet)
        found[name] = (done.code, done.code_of_error)
    return found


def test_two_dist_infos_are_refused(target: Venv, patches: Path) -> None:
    """case_53"""
    site = target.site_packages
    shutil.copytree(site / f"lmcache-{VERSION}.dist-info", site / "lmcache-0.4.2.dist-info")
    file = site / "lmcache-0.4.2.dist-info/METADATA"
    file.write_text(file.read_text().replace(VERSION, "0.4.2"))
    before = tree(target.prefix, times=True)
    assert set(codes(target, patches).values()) == {(1, "ambiguous-installation")}
    assert tree(target.prefix, times=True) == before


def test_an_empty_dist_info_and_what_an_interrupted_pip_left_are_ignored(target: Venv, patches: Path) -> None:
    """case_53: reported, but no obstacle."""
    site = target.site_packages
    (site / "lmcache-0.5.0.dist-info").mkdir()
    shutil.copytree(site / f"lmcache-{VERSION}.dist-info", site / f"~mcache-{VERSION}.dist-info")
    first = story(patches, target.prefix, "--python", target.python)
    assert len(first.json["warnings"]) == 2


def test_a_copy_that_comes_first_on_the_path_is_refused(target: Venv, patches: Path, tmp_path: Path) -> None:
    """case_54 case_55: the metadata names one package, import would load another."""
    vendored = tmp_path / "vendored"
    shutil.copytree(target.site_packages / "lmcache", vendored / "lmcache")
    (target.site_packages / "a.pth").write_text(f"import sys; sys.path.insert(0, {str(vendored)!r})\n")
    before = tree(target.prefix, times=True), tree(vendored, times=True)
    assert set(codes(target, patches).values()) == {(1, "shadowed-installation")}
    assert (tree(target.prefix, times=True), tree(vendored, times=True)) == before


def test_a_copy_that_comes_later_is_left_alone_with_a_warning(target: Venv, patches: Path, tmp_path: Path) -> None:
    """case_54"""
    vendored = tmp_path / "vendored"
    shutil.copytree(target.site_packages / "lmcache", vendored / "lmcache")
    (target.site_packages / "z.pth").write_text(f"{vendored}\n")
    before = tree(vendored, times=True)
    first = story(patches, target.prefix, "--python", target.python)
    assert any(str(vendored) in text for text in first.json["warnings"])
    assert tree(vendored, times=True) == before


@pytest.mark.parametrize("how", ["missing", "lf", "crlf", "quoted", "absolute", "unparsable"])
def test_whatever_its_record_a_package_is_patched_and_restored(how: str, target: Venv, patches: Path) -> None:
    """case_62"""
    record = target.site_packages / f"lmcache-{VERSION}.dist-info/RECORD"
    data = record.read_bytes().replace(b"\r\n", b"\n")
    changed = {
        "lf": data,
        "crlf": data.replace(b"\n", b"\r\n"),
        "quoted": b"".join(b'"' + line.replace(b",", b'",', 1) for line in data.splitlines(keepends=True)),
        "absolute": data.replace(b"lmcache/engine.py", bytes(target.site_packages / "lmcache/engine.py")),
        "unparsable": b"\x00garbage\n" + data + b'"open\n',
    }
    record.unlink()
    if how != "missing":
        record.write_bytes(changed[how])
    story(patches, target.prefix, "--python", target.python)


def test_uninstall_by_pip_after_apply_with_bytecode_leaves_nothing(target: Venv, patches: Path) -> None:
    """case_61: Python's cached bytecode of created modules is removed, too."""
    assert gaudi_patch("apply", "--python", target.python, "--manifest", patches, "--no-smoke").code == 0
    ran = target.run("-c", "import lmcache.gaudi.kernels", env={"PYTHONDONTWRITEBYTECODE": ""})
    assert ran.returncode == 0
    assert list(target.site_packages.glob("lmcache/gaudi/__pycache__/*"))
    target.pip("uninstall", "--quiet", "--yes", "lmcache")
    assert [path for path in target.prefix.rglob("*") if "lmcache" in path.name or "gaudi" in path.name] == []


def test_a_running_process_keeps_its_code(target: Venv, patches: Path) -> None:
    """case_48: the next step names a restart; nothing else is done about it."""
    process = subprocess.Popen(
        [target.python, "-c", "import lmcache.engine as e; print(flush=True); input(); print(e.device())"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    done = gaudi_patch("apply", "--python", target.python, "--manifest", patches, "--no-smoke")
    assert "restart" in done.out
    out, _ = process.communicate("\n", timeout=60)
    assert out.strip() == "cuda"

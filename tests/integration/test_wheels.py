"""The main job on LMCache's wheels from PyPI, installed by the real pip and the real uv."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Done, gaudi_patch
from tests.support.installers import Venv, installed, venv
from tests.support.tiny import Node, tree

pytestmark = pytest.mark.wheels

VERSIONS = ["0.5.6", "0.4.2"]
INSTALLERS = ["pip", "uv"]

Wheel = Callable[..., Path]


def patch(verb: str, target: Venv, manifest: Path, *more: str | Path) -> Done:
    """Apply without smoke checks, which have their own tests: there is no PyTorch in these environments."""
    quiet = ["--no-smoke"] if verb == "apply" else []
    return gaudi_patch(verb, "--python", target.python, "--manifest", manifest, *quiet, *more)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, lmcache_wheel: Wheel) -> Venv:
    """Return an environment with 0.5.6 by pip; copy it, never change it."""
    return installed(tmp_path_factory.mktemp("original") / "venv", lmcache_wheel("0.5.6"), "pip")


@pytest.fixture
def copy(original: Venv, tmp_path: Path) -> Venv:
    """Return a private copy of an environment with 0.5.6."""
    shutil.copytree(original.prefix, tmp_path / "venv", symlinks=True)
    return Venv((tmp_path / "venv").resolve(), original.env)


def traces(target: Venv) -> list[str]:
    """Return every path below the environment that concerns LMCache or gaudi-patch."""
    words = ("lmcache", "gaudi")
    names = (path.relative_to(target.prefix).as_posix() for path in target.prefix.rglob("*"))
    return sorted(name for name in names if any(word in name.lower() for word in words))


def without_bytecode(target: Venv) -> dict[str, Node]:
    """Return the tree without the contents of .pyc files, which include the installation time."""
    return {name: node for name, node in tree(target.prefix).items() if not name.endswith(".pyc")}


@pytest.mark.parametrize("installer", INSTALLERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_apply_and_rollback_leave_every_byte_as_installed(
    version: str, installer: str, manifest: Path, lmcache_wheel: Wheel, tmp_path: Path
) -> None:
    """case_13 case_29 case_62 case_63: the whole story, on wheels by pip (CRLF in RECORD) and by uv (LF, hardlinks)."""
    target = installed(tmp_path / "venv", lmcache_wheel(version), installer)
    before = tree(target.prefix)
    cache = tree(tmp_path / "uv-cache", times=True) if installer == "uv" else {}

    assert patch("check", target, manifest).code == 10
    assert tree(target.prefix) == before

    applied = patch("apply", target, manifest, "--json")
    assert applied.code == 0, applied
    assert applied.json["data"]["changed"]
    after = tree(target.prefix)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {one["path"] for one in applied.json["data"]["planned"] if one["action"] != "delete"} <= {
        name.partition("site-packages/")[2] for name in changed
    }

    assert patch("check", target, manifest).code == 0
    with_times = tree(target.prefix, times=True)
    again = patch("apply", target, manifest, "--json")
    assert (again.code, again.json["data"]["changed"]) == (0, False)
    assert tree(target.prefix, times=True) == with_times

    rolled = patch("rollback", target, manifest)
    assert rolled.code == 0, rolled
    assert tree(target.prefix) == before
    assert patch("check", target, manifest).code == 10
    if installer == "uv":
        assert tree(tmp_path / "uv-cache", times=True) == cache

    assert patch("rollback", target, manifest).code == 0
    assert tree(target.prefix) == before


@pytest.mark.parametrize("installer", INSTALLERS)
def test_uninstall_after_apply_leaves_nothing(
    installer: str, manifest: Path, lmcache_wheel: Wheel, tmp_path: Path
) -> None:
    """case_61: files created by the series, state and backups are removed with the package."""
    target = installed(tmp_path / "venv", lmcache_wheel("0.5.6"), installer)
    assert patch("apply", target, manifest).code == 0
    assert target.run("-c", "import lmcache").returncode == 0
    if installer == "pip":
        target.pip("uninstall", "--quiet", "--yes", "lmcache")
    else:
        target.uv("uninstall", "--quiet", "lmcache")
    assert traces(target) == []
    found = target.run("-c", "import importlib.util as u, importlib.metadata as m; print(u.find_spec('lmcache'))")
    assert found.stdout.strip() == "None"


@pytest.mark.parametrize("mode", ["hardlink", "symlink", "copy"])
def test_another_environment_of_the_same_uv_cache_is_untouched(
    mode: str, manifest: Path, lmcache_wheel: Wheel, tmp_path: Path
) -> None:
    """case_13 case_15: the target gets private files; links are restored by a rollback."""
    wheel = lmcache_wheel("0.5.6")
    target = installed(tmp_path / "target", wheel, f"uv-{mode}")
    sibling = installed(tmp_path / "sibling", wheel, f"uv-{mode}")
    module = target.site_packages / "lmcache" / "__init__.py"
    if mode == "hardlink" and module.stat().st_nlink < 2:
        pytest.skip("uv did not hardlink here: the cache is on another file system")
    assert module.is_symlink() == (mode == "symlink")
    before = tree(target.prefix)
    untouched = tree(sibling.prefix, times=True), tree(tmp_path / "uv-cache", times=True)

    assert patch("apply", target, manifest).code == 0
    files = patch("check", target, manifest, "--json").json["data"]["files"]
    for one in files:
        file = target.site_packages / one["path"]
        assert not file.exists() or (not file.is_symlink() and file.stat().st_nlink == 1), file
    assert (tree(sibling.prefix, times=True), tree(tmp_path / "uv-cache", times=True)) == untouched
    assert patch("check", sibling, manifest).code == 10

    assert patch("rollback", target, manifest).code == 0
    assert tree(target.prefix) == before
    assert (tree(sibling.prefix, times=True), tree(tmp_path / "uv-cache", times=True)) == untouched


def test_a_rollback_gives_real_files_where_the_uv_cache_lost_them(
    manifest: Path, lmcache_wheel: Wheel, tmp_path: Path
) -> None:
    """case_15: a link without its target would break the package; a file with its bytes is restored instead."""
    target = installed(tmp_path / "venv", lmcache_wheel("0.5.6"), "uv-symlink")
    listed = patch("check", target, manifest, "--json").json["data"]["files"]
    files = [target.site_packages / one["path"] for one in listed if one["pre_sha256"]]
    cached = {file: (file.resolve(), file.read_bytes()) for file in files}
    assert patch("apply", target, manifest).code == 0
    for original, _ in cached.values():
        original.unlink()
    done = patch("rollback", target, manifest)
    assert done.code == 0, done
    assert {file: file.read_bytes() for file in files} == {file: data for file, (_, data) in cached.items()}
    assert not any(file.is_symlink() for file in files)
    assert patch("check", target, manifest).code == 10


def test_the_patched_code_runs_where_unchecked_bytecode_of_the_old_was(copy: Venv, manifest: Path) -> None:
    """case_46: Python trusts an unchecked-hash .pyc whatever its source contains."""
    package = copy.site_packages / "lmcache"
    script = (
        "import compileall, py_compile, sys; compileall.compile_dir(sys.argv[1], quiet=2, "
        "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    assert copy.run("-c", script, package).returncode == 0
    before = tree(copy.site_packages)
    changed = [
        one["path"]
        for one in patch("check", copy, manifest, "--json").json["data"]["files"]
        if one["path"].endswith(".py")
    ]
    ask = (
        "import sys, json, importlib.machinery as m\n"
        "out = {}\n"
        "for path in sys.argv[2:]:\n"
        "    file = sys.argv[1] + '/' + path\n"
        "    loaded = m.SourceFileLoader('x', file).get_code('x')\n"
        "    out[path] = loaded == compile(open(file, 'rb').read(), file, 'exec')\n"
        "print(json.dumps(out))\n"
    )
    assert patch("apply", copy, manifest).code == 0
    runs = json.loads(copy.run("-c", ask, copy.site_packages, *changed).stdout)
    assert runs and all(runs.values()), runs
    pycs = [(package.parent / path).parent / "__pycache__" for path in changed]
    assert all(folder.is_dir() for folder in pycs), "the changed modules are compiled again, as they were"
    assert patch("rollback", copy, manifest).code == 0
    assert tree(copy.site_packages) == before


def test_import_runs_the_patched_code(copy: Venv, manifest: Path) -> None:
    """case_46: observed through `import lmcache` itself, with unchecked bytecode of the old __init__.py in place."""
    assert patch("apply", copy, manifest).code == 0
    planned = patch("check", copy, manifest, "--json").json["data"]["files"]
    assert all(one["state"] == "patched" for one in planned)
    done = copy.run("-c", "import lmcache; print(lmcache.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(copy.site_packages)


def test_a_version_after_the_manifest_names_the_nearest(copy: Venv, manifest: Path) -> None:
    """case_51 case_52: the metadata says 9.9.9, the files are unknown: exit 3."""
    info = next(copy.site_packages.glob("lmcache-*.dist-info"))
    info.rename(info.with_name("lmcache-9.9.9.dist-info"))
    metadata = copy.site_packages / "lmcache-9.9.9.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("Version: 0.5.6", "Version: 9.9.9", 1))
    for file in (copy.site_packages / "lmcache").rglob("*.py"):
        file.write_bytes(file.read_bytes() + b"# changed upstream\n")
    before = tree(copy.prefix, times=True)
    done = patch("apply", copy, manifest, "--json")
    assert (done.code, done.code_of_error) == (3, "unknown-version")
    assert "0.5.6" in done.json["errors"][0]["message"]
    assert tree(copy.prefix, times=True) == before


def test_no_installation_is_its_own_exit_code(manifest: Path, tmp_path: Path) -> None:
    """case_50: nothing installed exits 3; --if-installed turns only that into 0."""
    empty = venv(tmp_path / "venv")
    for verb in ("check", "apply", "rollback"):
        done = patch(verb, empty, manifest, "--json")
        assert (done.code, done.code_of_error) == (3, "not-installed")
    assert patch("apply", empty, manifest, "--if-installed").code == 0
    assert patch("check", empty, manifest, "--if-installed").code == 0


@pytest.mark.parametrize("edit", [b"\n# mine\n", None])
def test_a_file_edited_by_hand_is_named_and_kept(edit: bytes | None, copy: Venv, manifest: Path) -> None:
    """case_31: the hunks may still fit; a file with an unknown hash is refused anyway."""
    listed = patch("check", copy, manifest, "--json").json["data"]["files"]
    path = next(one["path"] for one in listed if one["pre_sha256"] and one["path"] != "lmcache/__init__.py")
    file = copy.site_packages / path
    if edit is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + edit)
    before = tree(copy.prefix, times=True)
    for verb in ("check", "apply", "rollback"):
        done = patch(verb, copy, manifest, "--json")
        assert (done.code, done.code_of_error) == (1, "drift"), (verb, done)
        assert any(path in line for line in done.json["errors"][0]["details"])
    assert tree(copy.prefix, times=True) == before


def test_read_only_site_packages_are_an_environment_error(copy: Venv, manifest: Path) -> None:
    """case_6: tested on a read-only bind mount, where `check` and --dry-run still work."""
    before = tree(copy.prefix, times=True)
    site = copy.site_packages
    if subprocess.run(["mount", "--bind", site, site], capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", site], check=True, capture_output=True)
        assert patch("check", copy, manifest).code == 10
        for more in ([], ["--dry-run"]):
            done = patch("apply", copy, manifest, "--json", *more)
            assert (done.code, done.code_of_error) == (4, "erofs"), done
            assert str(site) in done.json["errors"][0]["file"]
    finally:
        subprocess.run(["umount", site], check=True, capture_output=True)
    assert tree(copy.prefix, times=True) == before


@pytest.mark.parametrize(
    ("content", "line"),
    [('{\n"schema": \n', 3), ('{"schema": 99}', 1), ('{"schema": 2}', 1)],
)
def test_a_broken_manifest_is_a_usage_error(
    content: str, line: int, copy: Venv, manifest: Path, tmp_path: Path
) -> None:
    """The file, the key and the line are named; nothing is written."""
    (tmp_path / "patches").mkdir()
    shutil.copy(manifest / "manifest.toml", tmp_path / "patches")
    (tmp_path / "patches" / "manifest.lock").write_text(content)
    before = tree(copy.prefix, times=True)
    for verb in ("check", "apply", "rollback"):
        done = patch(verb, copy, tmp_path / "patches", "--json")
        assert (done.code, done.code_of_error) == (2, "bad-manifest")
        (error,) = done.json["errors"]
        assert (error["file"], error["line"]) == (str(tmp_path / "patches" / "manifest.lock"), line)
    assert tree(copy.prefix, times=True) == before


def test_a_converted_patch_is_told_from_an_edited_one(copy: Venv, manifest: Path, tmp_path: Path) -> None:
    """case_26: the hint names .gitattributes if a checkout with autocrlf was the only cause."""
    shutil.copytree(manifest, tmp_path / "patches")
    for file in (tmp_path / "patches").rglob("*.patch"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    done = patch("apply", copy, tmp_path / "patches", "--json")
    assert (done.code, done.code_of_error) == (2, "bad-manifest")
    assert ".gitattributes" in done.json["errors"][0]["hint"]


def test_reinstall_and_upgrade_over_a_patch_are_clean(manifest: Path, lmcache_wheel: Wheel, tmp_path: Path) -> None:
    """case_59 case_60: state and backups belong to their dist-info, and are removed with it."""
    target = installed(tmp_path / "venv", lmcache_wheel("0.4.2"), "pip")
    pristine = without_bytecode(target)
    assert patch("apply", target, manifest).code == 0
    target.pip("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", lmcache_wheel("0.4.2"))
    assert without_bytecode(target) == pristine
    assert patch("check", target, manifest).code == 10
    assert patch("rollback", target, manifest).code == 0
    assert without_bytecode(target) == pristine

    assert patch("apply", target, manifest).code == 0
    target.pip("install", "--quiet", "--no-deps", "--no-index", lmcache_wheel("0.5.6"))
    assert [path.name for path in target.site_packages.glob("*.dist-info")] == ["lmcache-0.5.6.dist-info"]
    upgraded = tree(target.prefix)
    fresh = installed(tmp_path / "fresh", lmcache_wheel("0.5.6"), "pip")
    assert set(tree(fresh.site_packages)) == set(tree(target.site_packages))
    assert patch("check", target, manifest).code == 10
    assert patch("rollback", target, manifest).code == 0
    assert tree(target.prefix) == upgraded


def test_reinstall_by_uv_over_a_patch_is_clean(manifest: Path, lmcache_wheel: Wheel, tmp_path: Path) -> None:
    """case_59"""
    target = installed(tmp_path / "venv", lmcache_wheel("0.5.6"), "uv")
    pristine = tree(target.prefix)
    assert patch("apply", target, manifest).code == 0
    wheel = lmcache_wheel("0.5.6")
    target.uv("install", "--quiet", "--no-deps", "--no-index", "--reinstall", "--link-mode=hardlink", wheel)
    assert patch("check", target, manifest).code == 10
    assert {name: node for name, node in tree(target.prefix).items() if not name.endswith("uv_cache.json")} == {
        name: node for name, node in pristine.items() if not name.endswith("uv_cache.json")
    }


def test_demo_tells_the_whole_story_and_leaves_nothing(lmcache_wheel: Wheel, tmp_path: Path) -> None:
    """The demo runs on the built-in manifest, here with wheels on disk."""
    wheel = lmcache_wheel("0.5.6")
    if not (Path(__file__).resolve().parents[2] / "patches" / "manifest.toml").is_file():
        pytest.skip("no built-in manifest yet")
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "TMPDIR": str(scratch)}
    done = gaudi_patch("demo", "--version", "0.5.6", "--no-smoke", "--json", env=env)
    assert done.code == 0, done
    assert [step["status"] for step in done.json["data"]["steps"]] == ["ok"] * 7, done
    assert list(scratch.iterdir()) == []

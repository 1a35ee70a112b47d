"""The bounds of an installation, checked by path text and by descriptor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaudi_patch import opening
from gaudi_patch.confined import Area, Bounds
from gaudi_patch.disk import Disk, FileImage, read_image
from gaudi_patch.engine.guard import Ground, check_name, modest
from gaudi_patch.errors import Exit, GaudiPatchError
from tests.support import tiny
from tests.support.tiny import Tiny


@pytest.fixture
def target(tmp_path: Path) -> Tiny:
    return tiny.make(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["lmcache/engine.py", "{info}/RECORD", "{info}/gaudi-patch/state.json", "{info}/gaudi-patch.journal/undo"],
)
def test_package_record_state_and_journal_belong_to_it(name: str, target: Tiny) -> None:
    name = name.format(info=target.dist_info.name)
    assert target.ground.path(name) == target.site / name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "/", "//etc/passwd", "/etc/passwd", "lmcache", "lmcache/../x", "./lmcache/x", "lmcache//x",
        "lmcache/", "other/x.py", "lmcachex/y.py", "{info}/METADATA", "{info}/x/RECORD", "{info}",
        "{info}/gaudi-patch2/x",
        "lmcache/a\0b", "lmcache/\ud800", "lmcache/" + "x" * 256, "lmcache/" + "x/" * 3000 + "y",
    ],
)  # fmt: skip
def test_nothing_else_does(name: str, target: Tiny) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        target.ground.path(name.format(info=target.dist_info.name))


def test_a_name_of_undecodable_bytes_is_a_path() -> None:
    check_name("lmcache/\udcff.pyc")


def test_bytecode_is_that_of_a_source_and_lies_where_python_caches_it(target: Tiny, tmp_path: Path) -> None:
    prefixed = Tiny(target.site, target.manifest, pycache_prefix=str(tmp_path / "cache")).ground
    mirrored = f"{tmp_path}/cache{target.site}/lmcache/engine.cpython-311.pyc"
    for name in ("lmcache/engine.pyc", "lmcache/__pycache__/engine.cpython-39.opt-2.pyc", mirrored):
        assert prefixed.cached(name, {"lmcache/engine.py"}) == target.site / name
    for name in (
        "lmcache/engine.py",
        "lmcache/__pycache__/other.cpython-311.pyc",
        "lmcache/v1/__pycache__/engine.cpython-311.pyc",
        f"{tmp_path}/cache/lmcache/engine.cpython-311.pyc",
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            prefixed.cached(name, {"lmcache/engine.py"})


def test_bytecode_below_another_prefix_is_refused_with_the_command_that_reaches_it(
    target: Tiny, tmp_path: Path
) -> None:
    """Otherwise unchecked bytecode of the patched source would run after a rollback."""
    import py_compile
    from dataclasses import replace

    cache = tmp_path / "cache"
    cached = Path(f"{cache}{target.site}/lmcache/engine.cpython-311.pyc")
    py_compile.compile(str(target.site / "lmcache/engine.py"), cfile=str(cached))
    prefixed = replace(target, pycache_prefix=str(cache))
    prefixed.apply()
    for verb in (target.check, target.rollback):
        with pytest.raises(GaudiPatchError) as caught:
            verb()
        assert (caught.value.exit, caught.value.code) == (Exit.REFUSED, "other-bytecode-cache")
        assert caught.value.hint.endswith(f"PYTHONPYCACHEPREFIX={cache}")
    assert prefixed.rollback().exit is Exit.OK


def directory(mode: int) -> os.stat_result:
    """Return a package's directory with owner 5 and group 6."""
    return os.stat_result((mode, 0, 0, 0, 5, 6, 0, 0, 0, 0))


def test_a_restored_file_gets_no_more_than_the_one_it_replaces() -> None:
    image, closed = FileImage(b"", 0o7777, owner=(0, 0)), directory(0o40755)
    assert modest(image, None, closed) == FileImage(b"", 0o755, owner=(5, 6))
    assert modest(image, FileImage(b"", 0o644, owner=(7, 8)), closed) == FileImage(b"", 0o755, owner=(7, 8))
    assert modest(image, FileImage(b"", 0o2664, owner=(0, 0)), closed) == FileImage(b"", 0o2775, owner=(0, 0))
    assert modest(image._replace(owner=(5, 6)), FileImage(b"", owner=(7, 8)), closed).owner == (5, 6)
    assert modest(image, FileImage(b"", 0o7777, owner=(7, 8), link="x"), closed).mode == 0o755
    assert modest(image._replace(owner=None), None, closed).owner is None


def test_what_a_group_may_write_in_its_directory_stays_writable_to_it() -> None:
    """With a umask of 002, pip makes directories 0775 and files 0664."""
    assert modest(FileImage(b"", 0o664), None, directory(0o40775)).mode == 0o664
    assert modest(FileImage(b"", 0o666), None, directory(0o40775)).mode == 0o664


# By descriptor


@pytest.fixture
def bounds(tmp_path: Path) -> Bounds:
    (tmp_path / "root/package/sub/deep").mkdir(parents=True)
    (tmp_path / "root/package/sub/x").write_bytes(b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"outside")
    return Bounds([Area(tmp_path / "root", ("package",), links=True), Area(tmp_path / "root", ("state",))])


@pytest.mark.parametrize("link", ["sub", "./sub/", "sub/deep/..", "../package/sub", "{root}/package/sub", "other"])
def test_a_directory_may_be_a_link_that_stays_in_the_package(link: str, bounds: Bounds, tmp_path: Path) -> None:
    package = tmp_path / "root/package"
    (package / "other").symlink_to("sub")
    if link != "other":
        (package / "other").unlink()
    (package / "link").symlink_to(link.format(root=tmp_path / "root"))
    image = read_image(package / "link/x", bounds)
    assert image is not None and image.data == b"x"
    assert bounds.names(package / "link") == ["deep", "x"]


@pytest.mark.parametrize(
    "link", ["../../outside", "{tmp}/outside", "..", "../..", "../../../../../../..", "sub/../../.."]
)
def test_a_directory_that_is_a_link_out_is_refused(link: str, bounds: Bounds, tmp_path: Path) -> None:
    package = tmp_path / "root/package"
    (package / "link").symlink_to(link.format(tmp=tmp_path))
    disk = Disk()
    with disk.within(bounds):
        for work in (
            lambda: disk.read(package / "link/x"),
            lambda: disk.unlink(package / "link/x"),
            lambda: disk.write_new(package / "link/new", FileImage(b"")),
            lambda: disk.mkdir(package / "link/new"),
            lambda: disk.rmdir(package / "link/deep"),
            lambda: disk.replace(package / "sub/x", package / "link/y"),
            lambda: disk.replace(package / "link/x", package / "sub/y"),
            lambda: disk.sync_directory(package / "link/deep"),
        ):
            with pytest.raises((GaudiPatchError, FileNotFoundError)) as caught:
                work()
            assert isinstance(caught.value, FileNotFoundError) or caught.value.exit is Exit.REFUSED
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["x"]
    assert (package / "sub/x").exists()


def test_where_no_link_may_be_none_is_followed(bounds: Bounds, tmp_path: Path) -> None:
    """Not even a link to the package: a state that is the package would be removed with it."""
    (tmp_path / "root/state").symlink_to("package/sub")
    (tmp_path / "root/package/__pycache__").symlink_to("sub")
    for path in (tmp_path / "root/state/x", tmp_path / "root/package/__pycache__/x"):
        with pytest.raises(GaudiPatchError, match="symbolic link") as caught:
            read_image(path, bounds)
        assert caught.value.code == "link-in-the-way"


def test_the_way_to_the_root_is_held_too(tmp_path: Path) -> None:
    """A directory at the time of the look-up becomes a link before the write."""
    root = tmp_path / "home/root"
    (root / "package").mkdir(parents=True)
    bounds = Bounds([Area(root, ("package",))])
    (tmp_path / "home").rename(tmp_path / "away")
    (tmp_path / "home").symlink_to("away")
    with pytest.raises(NotADirectoryError), bounds.parent(root / "package/x"):
        pass


def test_a_directory_that_may_not_be_listed_is_passed_through(bounds: Bounds, tmp_path: Path) -> None:
    """/home is often 0711: a non-root user may pass through it, but not list it."""
    if os.geteuid() == 0:
        from tests.support.faults import in_child

        for folder in (tmp_path, *tmp_path.parents):
            if len(folder.parts) > 2:
                folder.chmod(0o711)
        image = FileImage(b"")

        def work() -> None:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            assert (read_image(tmp_path / "root/package/sub/x", bounds) or image).data == b"x"

        assert in_child(work) == 0
    else:
        tmp_path.chmod(0o311)
        assert read_image(tmp_path / "root/package/sub/x", bounds) is not None
        tmp_path.chmod(0o755)


def test_an_images_links_are_followed_inside_of_it(tmp_path: Path) -> None:
    """An absolute link means the image's file, never the host's."""
    image = tmp_path / "image"
    package = image / "site/package"
    package.mkdir(parents=True)
    (image / "etc").mkdir()
    (image / "etc/hostname").write_bytes(b"of the image")
    bounds = Bounds([Area(image / "site", ("package",), links=True)], image)
    for number, link in enumerate(["/etc/hostname", "../../etc/hostname", "../../../../../../../etc/hostname", "/x"]):
        (package / f"{number}").symlink_to(link)
    (image / "x").symlink_to("/etc/../etc/hostname")
    for number in range(4):
        found = read_image(package / f"{number}", bounds)
        assert found is not None and found.data == b"of the image"
    (package / "none").symlink_to("/etc/passwd")
    with pytest.raises(GaudiPatchError, match="leads nowhere"):
        read_image(package / "none", bounds)
    assert bounds.read_through(package / "new", "/etc/hostname") == b"of the image"
    assert bounds.read_through(package / "new", "/etc/passwd") is None


def test_no_descriptor_is_left_open(bounds: Bounds, tmp_path: Path) -> None:
    (tmp_path / "root/package/link").symlink_to("sub/deep/..")
    (tmp_path / "root/package/out").symlink_to("../..")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for name in ("link/x", "link/none", "none/none", "sub/x/y"):
        read_image(tmp_path / "root/package" / name, bounds)
    with pytest.raises(GaudiPatchError):
        read_image(tmp_path / "root/package/out/x", bounds)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    for limit, whole in ((5, True), (4, False)):
        bounds = Bounds([Area(tmp_path, limit=limit)])
        if whole:
            assert read_image(file, bounds) is not None
        else:
            with pytest.raises(GaudiPatchError, match="larger than"):
                read_image(file, bounds)
    with file.open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(GaudiPatchError) as caught:
        read_image(file)
    assert (caught.value.code, caught.value.file) == ("too-large", str(file))
    assert opening.LIMIT == 64 << 20


def test_a_ground_is_the_same_for_a_checkout_but_for_its_state(tmp_path: Path, target: Tiny) -> None:
    from dataclasses import replace

    git = tmp_path / "repository/.git"
    installation = replace(target.installation, dist_info=None, record=None, state_dir=git / "gaudi-patch")
    ground = Ground.of(installation)
    assert ground.bounds.holds(git / "gaudi-patch/state.json")
    assert ground.bounds.holds(git / "gaudi-patch.journal/undo")
    assert not ground.bounds.holds(git / "config")
    assert not ground.bounds.holds(target.record)

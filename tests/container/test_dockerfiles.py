"""Every RUN line of the Dockerfiles and of the README's, executed in a true root file system.

tests/support/debian_root.py describes the stand-in for the base image. A sample of the builds runs by default; with
GAUDI_PATCH_TEST_FULL=1 all of them run, with every smoke level, including those that reach PyPI and Debian.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.container.conftest import FILES, MakeRoot, sha256_of
from tests.support import debian_root, dockerfile, gaudi_image
from tests.support.debian_root import Root

README = FILES.parents[1] / "README.md"
#: As OpenShift runs an image: a user of group 0 that no file lists.
ARBITRARY = "1000650000:0"
FULL = os.environ.get("GAUDI_PATCH_TEST_FULL") == "1"
pytestmark = [pytest.mark.wheels, pytest.mark.torch]


class Case(NamedTuple):
    """One build: the Dockerfile, the form of the plugin, the base image's user and WORKDIR, the source of packages.

    ``python``: its Python's version, if it differs from that of the tests.
    """

    name: str
    form: str
    user: str
    workdir: str = "/"
    source: str = "offline"
    levels: str = "imports,kernels,engine"
    python: str = ""


SAMPLE = [
    Case("Dockerfile.pip", "namespace", "root", workdir="/root/scripts", levels="imports,kernels"),
    Case("Dockerfile.uv", "package", "2000:0", levels="imports"),
    Case("Dockerfile.no-compiler", "nspkg", "2000:0", levels="imports"),
    Case("Dockerfile.pip", "namespace", "root", levels="imports", python="3.12"),
]
#: In Intel's images, root's WORKDIR is below root's home, which no other user may enter.
WORKDIRS = {"root": SAMPLE[0].workdir, "2000:0": "/"}
ALL = [
    Case(name, form, user, WORKDIRS[user], source)
    for name in ("Dockerfile.pip", "Dockerfile.uv", "Dockerfile.no-compiler")
    for form in gaudi_image.FORMS
    for user in ("root", "2000:0")
    for source in (("offline", "online") if form == "namespace" else ("offline",))
]
ALL += [
    Case(name, "namespace", "2000:0", levels="imports,kernels", python=version)
    for name in ("Dockerfile.pip", "Dockerfile.uv")
    for version in ("3.10", "3.12")
]


def _name(case: Case) -> str:
    parts = (case.name, case.form, case.user, case.source, *([f"python{case.python}"] if case.python else []))
    return "-".join(parts)


def arguments(case: Case, sha256: str) -> dict[str, str]:
    given = {"GAUDI_PATCH_SHA256": sha256, "SMOKE": case.levels}
    if case.source == "offline":
        given["OFFLINE"] = "1"
        if case.name == "Dockerfile.no-compiler":
            given["COMPILER"] = "g++ --version"
    if case.user != "root":
        given["RUN_AS"] = case.user
    return given


def prepare(root: Root, case: Case) -> Root:
    """Give the base image its WORKDIR; in Intel's images it is in root's home, which only root may enter."""
    (layer,) = {layer for layer in root.images("").layers if layer.name == "plugin"}
    (layer / case.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if case.workdir.startswith("/root/"):
        (layer / "root").chmod(0o700)
    return root


def attested(root: Root) -> dict[str, object]:
    document: dict[str, object] = json.loads(root.find("/etc/gaudi-patch.json").read_bytes())
    return document


CHECK = ["/opt/gaudi-patch/bin/gaudi-patch", "check", "--python", "python3", "--against", "/etc/gaudi-patch.json"]


@pytest.mark.parametrize("case", ALL if FULL else SAMPLE, ids=_name)
def test_the_dockerfile_installs_patches_proves_and_checks(case: Case, root: MakeRoot) -> None:
    made = root(
        form=case.form, user=case.user, workdir=case.workdir, online=case.source == "online",
        compiler=case.name != "Dockerfile.no-compiler", python=case.python,
    )  # fmt: skip
    sha256 = sha256_of(made.context / "wheels")
    if case.name == "Dockerfile.no-compiler" and case.source == "offline":
        _give_the_first_stage_a_compiler(made)
    text = (FILES / case.name).read_text()
    dockerfile.build(text, prepare(made, case), arguments(case, sha256))

    document = attested(made)
    assert document["outcome"] == "applied"
    smoke = document["smoke"]
    assert isinstance(smoke, dict)
    assert smoke["status"] == "passed"
    levels = [(one["level"], one["status"], one["device"]) for one in smoke["levels"]]
    assert set(levels) == {(level, "passed", "emulated") for level in case.levels.split(",")}

    assert made.user == case.user
    # Neither this image nor one without a compiler has git: no step may need it.
    assert made.run(["sh", "-c", "command -v git"]).returncode != 0
    assert {"USER", "WORKDIR", "ENTRYPOINT"} & {one.word for one in dockerfile.parse(text)} == {"USER"}
    for user in (ARBITRARY, "10001:10001"):
        done = made.run(CHECK, user=user)
        assert done.returncode == 0, done.stdout + done.stderr
    # The serving user can read everything and change nothing.
    found = made.run(["sh", "-c", "find /opt/gaudi-patch /etc/gaudi-patch.json -writable ! -type l"], user=ARBITRARY)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr
    names = made.run(["python3", "-m", "pip", "list", "--format=freeze"], user="root").stdout
    assert "lmcache==0.5.6" in names
    if case.python:  # a CUDA build, with only the libraries that it came with
        told = made.run(["python3", "-c", "import sys, torch; print(sys.version_info[:2], torch.version.cuda)"])
        assert told.stdout.startswith(f"({case.python.replace('.', ', ')}) 13"), told.stdout + told.stderr
        names = re.sub(r"^(cuda-toolkit|nvidia-(cuda-(runtime|cupti)|cufile))==.*", "", names, flags=re.MULTILINE)
    assert not re.search(r"^(nvidia|cupy|cuda)", names, re.MULTILINE | re.IGNORECASE)


@pytest.mark.skipif(not FULL, reason="reaches PyPI; GAUDI_PATCH_TEST_FULL=1 runs it")
def test_what_the_readme_downloads_in_a_container_of_the_base_image_builds_it_offline(
    root: MakeRoot, wheels: Path, sha256: str
) -> None:
    made = root()
    (block,) = [one for one in dockerfile.snippets(FILES / "README.md", "bash") if "pip download" in one]
    made.start("base")
    build = made.place("/build")
    (build / "wheels").mkdir(parents=True)
    shutil.copy(next(wheels.glob("gaudi_patch-*.whl")), build / "wheels")
    made.online = True
    done = made.run(["sh", "-ec", block], workdir="/build")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in build.iterdir()] == ["wheels"]

    made.online, made.context = False, build
    case = Case("Dockerfile.pip", "namespace", "root", levels="imports")
    dockerfile.build((FILES / case.name).read_text(), made, arguments(case, sha256))
    assert attested(made)["outcome"] == "applied"


def _give_the_first_stage_a_compiler(made: Root) -> None:
    """Offline, `apt-get install g++` has no archive: the stage `device` starts from an image that has the compiler."""
    without = made.images("")
    layers = (*without.layers[:-1], debian_root.with_compiler(), without.layers[-1])
    with_it = replace(without, layers=layers)
    made.images = lambda name: with_it if not made.started[1:] else without


def test_a_base_whose_user_may_not_write_names_the_argument_that_helps(root: MakeRoot, sha256: str) -> None:
    case = Case("Dockerfile.pip", "namespace", "2000:0")
    given = arguments(case, sha256)
    del given["RUN_AS"]
    with pytest.raises(dockerfile.BuildError, match=r"build with --build-arg RUN_AS=2000:0\n"):
        dockerfile.build((FILES / case.name).read_text(), root(user=case.user), given)


@pytest.mark.parametrize("name", ["Dockerfile.pip", "Dockerfile.uv", "Dockerfile.no-compiler"])
@pytest.mark.parametrize("given", [{}, {"GAUDI_PATCH_SHA256": "0" * 64}], ids=["none", "another"])
def test_a_wheel_that_is_not_the_one_that_was_meant_stops_the_build(
    name: str, given: dict[str, str], root: MakeRoot
) -> None:
    made = root()
    with pytest.raises(dockerfile.BuildError, match=r"GAUDI_PATCH_SHA256 to be its sha256"):
        dockerfile.build((FILES / name).read_text(), made, given)
    assert not (made.upper / "upper/opt/gaudi-patch").exists()


def test_a_build_fails_where_the_check_of_its_last_step_fails(root: MakeRoot, sha256: str) -> None:
    """The step that a build must pass detects changes by a later layer."""
    text = (FILES / "Dockerfile.pip").read_text()
    edit = 'RUN echo "# later" >> "$("$PYTHON" -c "import lmcache.gaudi; print(lmcache.gaudi.__file__)")"\n'
    changed = text.replace("FROM patched AS end\n", f"{edit}FROM patched AS end\n")
    changed = changed.replace('--smoke "$SMOKE" --require "$REQUIRE"', "--no-smoke")
    assert "--no-smoke" in changed
    assert "# later" in changed
    with pytest.raises(dockerfile.BuildError, match=r"lmcache/gaudi/__init__\.py"):
        dockerfile.build(changed, root(compiler=False), arguments(SAMPLE[0], sha256))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("import", "libSynapse.so: cannot open shared object file"),
        ("segfault", "killed by SIGSEGV"),
        ("busy", "device is busy"),
    ],
)
def test_a_broken_plugin_stops_the_build_and_leaves_lmcache_as_installed(
    broken: str, told: str, root: MakeRoot, sha256: str
) -> None:
    made = root(broken=broken)
    with pytest.raises(dockerfile.BuildError, match=told):
        dockerfile.build((FILES / "Dockerfile.pip").read_text(), made, arguments(SAMPLE[0], sha256))
    assert not (made.upper / "upper/etc/gaudi-patch.json").exists()
    done = made.run(["/opt/gaudi-patch/bin/gaudi-patch", "check", "--python", "python3"])
    assert done.returncode == 10, done.stdout + done.stderr


def test_a_required_level_that_cannot_run_stops_the_build(root: MakeRoot, sha256: str) -> None:
    """A base image without a compiler: nothing can be proved, so nothing is claimed."""
    made = root(compiler=False)
    with pytest.raises(dockerfile.BuildError, match="apt-get install"):
        dockerfile.build((FILES / "Dockerfile.pip").read_text(), made, arguments(SAMPLE[0], sha256))
    assert not (made.upper / "upper/etc/gaudi-patch.json").exists()


def test_the_run_lines_of_the_readme_do_what_it_says(root: MakeRoot, sha256: str) -> None:
    """All default levels, as in the README."""
    (snippet,) = dockerfile.snippets(README, "dockerfile")
    made = root(env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/tmp/wheels"})
    dockerfile.build(f"FROM base\n{snippet}", made, {"GAUDI_PATCH_SHA256": sha256})
    done = made.run(["/opt/gaudi-patch/bin/gaudi-patch", "check", "--json", "--python", "python3"])
    assert json.loads(done.stdout)["data"]["state"] == "patched"

"""The text of the Dockerfiles, and how the tests read it."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest

from gaudi_patch.series import patch_files
from gaudi_patch.series.manifest import load
from tests.container.conftest import FILES, MakeRoot
from tests.support import dockerfile
from tests.support.container import Container
from tests.support.wheelhouse import LMCACHE

DOCKERFILES = ["Dockerfile.pip", "Dockerfile.uv", "Dockerfile.no-compiler"]
BASE = r"vault\.habana\.ai/gaudi-docker/\d+\.\d+\.\d+/\w+\.\d+/habanalabs/[\w.-]+:\w+"


@pytest.mark.wheels
@pytest.mark.torch
def test_the_wheel_holds_these_files_and_the_schema(wheels: Path) -> None:
    (wheel,) = wheels.glob("gaudi_patch-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"gaudi_patch/container/{path.relative_to(FILES)}" for path in FILES.rglob("*") if path.is_file()}
    assert len(shipped) == 13
    assert shipped | {"gaudi_patch/attestation/schema.json"} <= names
    directory = load().directory
    patches = {path.relative_to(directory) for path in directory.rglob("*") if path.is_file()}
    patches = {path for path in patches if not patch_files.is_litter(path)}
    assert len(patches) > 50
    assert {f"gaudi_patch/_patches/{path}" for path in patches} <= names  # including the runtime's sources


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_defaults_are_those_of_this_release_and_the_same_in_every_stage(name: str) -> None:
    defaults: dict[str, set[str]] = {}
    for one in dockerfile.parse((FILES / name).read_text()):
        if one.word == "ARG" and "=" in one.text:
            argument, _, default = one.text.partition("=")
            defaults.setdefault(argument, set()).add(default)
    assert {argument: len(given) for argument, given in defaults.items()} == dict.fromkeys(defaults, 1)
    assert defaults["LMCACHE_VERSION"] == {LMCACHE} == {load().series[0].id}
    assert re.fullmatch(BASE, defaults["BASE"].pop())


@pytest.mark.parametrize("name", DOCKERFILES)
def test_installing_and_patching_are_one_layer(name: str) -> None:
    steps = dockerfile.parse((FILES / name).read_text())
    (install,) = [one for one in steps if one.word == "RUN" and '"lmcache==' in one.text]
    assert 'gaudi-patch" apply' in install.text
    assert re.search(r'--no-deps\s+"lmcache==', install.text)
    assert "check" in steps[-1].text and "--against" in steps[-1].text


@pytest.mark.parametrize("name", DOCKERFILES)
def test_root_works_only_where_the_user_of_the_image_is_named(name: str) -> None:
    """Without RUN_AS, no stage of the image changes its user."""
    text = (FILES / name).read_text()
    users: dict[str, list[str]] = {}
    starts: dict[str, str] = {}
    for one in dockerfile.parse(text):
        if one.word == "FROM":
            start, _, alias = one.text.partition(" AS ")
            starts[alias or "last"] = start
        elif one.word == "USER":
            users.setdefault(list(starts)[-1], []).append(one.text)
    assert {stage: one for stage, one in users.items() if stage != "device"} == {
        "start-as-root": ["root"], "end-as-root": ["${RUN_AS}"],
    }  # fmt: skip
    assert (starts["patched"], starts["last"]) == ("start${RUN_AS:+-as-root}", "end${RUN_AS:+-as-root}")


def test_no_file_takes_gaudi_patch_from_an_index() -> None:
    """The name is not on any index yet: anyone who installs it from there gets a stranger's package."""
    readme = FILES.parents[1] / "README.md"
    guides = sorted((FILES.parent / "guides").glob("*.md"))
    files = [readme, *guides, *(path for path in sorted(FILES.rglob("*")) if path.is_file())]
    taken = re.compile(
        r"\b(?:pipx?|uvx?)\b.*\b(?:install|download|wheel|run)\b[^|]*[\s\"']gaudi-patch(?:[=<>\[\"'\s]|$)"
    )
    assert taken.search('python -m pip install --quiet "gaudi-patch==1"')
    assert taken.search("uv tool install gaudi-patch\n")
    for path in files:
        found = [line for line in path.read_text().splitlines() if taken.search(line)]
        assert found == [], path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_step_after_user_is_not_root_and_cannot_write(tmp_path: Path, root: MakeRoot) -> None:
    """Check the stand-ins themselves: without this, the last check would prove less than it claims."""
    container = Container(tmp_path, tmp_path, tmp_path)
    container.start("base")
    container.user = "10001"
    done = container.run(["/bin/sh", "-c", f"id -u; touch {tmp_path}/mine"])
    assert (done.stdout, done.returncode) == ("10001\n", 1)
    made = root(compiler=False)
    made.start("base")
    done = made.run(["/bin/sh", "-c", "id -u; id -g; grep CapEff /proc/self/status; touch /mine"], user="10001")
    assert (done.stdout.split(), done.returncode) == (["10001", "0", "CapEff:", "0" * 16], 1)


def test_a_stage_of_the_stand_in_sees_those_before_it_and_changes_none(root: MakeRoot) -> None:
    made = root(compiler=False)
    text = (
        "FROM base AS a\nRUN echo a > /a\nFROM a AS b\nRUN cat /a && echo b > /a && rm /etc/issue\n"
        "FROM base AS unused\nRUN false\nFROM a\nCOPY --from=b /a /from/b\nRUN test \"$(cat /a /from/b)\" = 'a\nb'\n"
        "RUN test -e /etc/issue\n"
    )
    dockerfile.build(text.replace("'a\nb'", "\"$(printf 'a\\nb')\""), made, {})
    assert made.find("/a").read_text() == "a\n"


def test_a_misspelt_build_argument_is_an_error(tmp_path: Path) -> None:
    container = Container(tmp_path, tmp_path, tmp_path)
    with pytest.raises(dockerfile.BuildError, match="SMOCK"):
        dockerfile.build("FROM base\nARG SMOKE=x\n", container, {"SMOCK": "imports"})


def test_instructions_are_read_as_docker_reads_them() -> None:
    text = "# c\nARG A=1\nFROM x AS y\n\nRUN a \\\n  # comment\n && b \\\n    c\nUSER ${A}\n"
    assert dockerfile.parse(text) == [
        ("ARG", "A=1", 2), ("FROM", "x AS y", 3), ("RUN", "a  && b     c", 5), ("USER", "${A}", 9),
    ]  # fmt: skip
    assert dockerfile.expand("${A}-$B-${C}", {"A": "1", "B": "2"}) == "1-2-"
    assert dockerfile.expand("x${A:+-y} x${B:+-y} ${B:-z} ${A:-z}", {"A": "1", "B": ""}) == "x-y x z 1"

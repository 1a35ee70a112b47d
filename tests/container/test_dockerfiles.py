"""Every RUN line of the Dockerfiles and of the README's, carried out; tests/support/container.py says in what."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import pytest

from gaudi_patch import __version__
from gaudi_patch.series import patch_files
from gaudi_patch.series.manifest import load
from tests.container.conftest import FILES
from tests.support import dockerfile
from tests.support.container import Container
from tests.support.wheelhouse import LMCACHE

README = FILES.parents[1] / "README.md"
DOCKERFILES = ["Dockerfile.pip", "Dockerfile.uv"]
BASE = r"vault\.habana\.ai/gaudi-docker/\d+\.\d+\.\d+/\w+\.\d+/habanalabs/[\w.-]+:\w+"


def attested(container: Container) -> dict[str, object]:
    document: dict[str, object] = json.loads((container.root / "etc/gaudi-patch.json").read_bytes())
    return document


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize(("name", "levels"), [("Dockerfile.pip", "imports,kernels"), ("Dockerfile.uv", "imports")])
def test_the_dockerfile_installs_patches_proves_and_checks(name: str, levels: str, container: Container) -> None:
    steps = dockerfile.build((FILES / name).read_text(), container, {"SMOKE": levels, **container.overrides})
    assert re.fullmatch(BASE, container.image)
    document = attested(container)
    assert document["outcome"] == "applied"
    smoke = document["smoke"]
    assert isinstance(smoke, dict)
    assert smoke["status"] == "passed"
    assert {one["level"] for one in smoke["levels"]} == set(levels.split(","))
    assert {one["status"] for one in smoke["levels"]} == {"passed"}
    assert (container.root / "useradd.log").read_text() == "--create-home --uid 10001 vllm\n"
    assert container.user == "10001"
    assert [one.word for one in steps[-2:]] == ["USER", "RUN"]
    cuda = re.compile(r"nvidia|cupy|cuda", re.IGNORECASE)
    assert [path.name for path in container.base.rglob("*.dist-info") if cuda.search(path.name)] == []


@pytest.mark.wheels
@pytest.mark.torch
def test_a_build_fails_where_the_check_of_its_last_step_fails(container: Container) -> None:
    """What a later layer changes is found by the step that a build must not pass."""
    text = (FILES / "Dockerfile.pip").read_text()
    changed = text.replace(
        "USER ${RUN_AS}",
        'RUN echo "# later" >> "$("$PYTHON" -c "import lmcache.gaudi; print(lmcache.gaudi.__file__)")"',
    )
    changed = changed.replace('--smoke "$SMOKE" --require "$REQUIRE"', "--no-smoke")
    assert "--no-smoke" in changed
    assert "# later" in changed
    with pytest.raises(dockerfile.BuildError, match=r"lmcache/gaudi/__init__\.py"):
        dockerfile.build(changed, container, container.overrides)


@pytest.mark.wheels
@pytest.mark.torch
def test_a_build_fails_and_attests_nothing_where_a_required_level_cannot_run(container: Container) -> None:
    """A base image without PyTorch: nothing could be proved, so nothing is said to be."""
    (pth,) = container.base.glob("lib/*/site-packages/_base_image.pth")
    for path in Path(pth.read_text().splitlines()[0]).iterdir():
        if not path.name.startswith("torch") and not (pth.parent / path.name).exists():
            (pth.parent / path.name).symlink_to(path)
    pth.unlink()
    with pytest.raises(dockerfile.BuildError, match="PyTorch is not installed"):
        dockerfile.build((FILES / "Dockerfile.pip").read_text(), container, container.overrides)
    assert not (container.root / "etc/gaudi-patch.json").exists()


@pytest.mark.wheels
@pytest.mark.torch
def test_the_run_lines_of_the_readme_do_what_it_says(container: Container) -> None:
    """All default levels, as there; only the path of gaudi-patch is put below the root."""
    (snippet,) = dockerfile.snippets(README, "dockerfile")
    steps = dockerfile.build(container.here(f"FROM base\n{snippet}"), container, {})
    assert [one.word for one in steps] == ["COPY", "RUN", "RUN", "RUN"]
    done = container.run([container.here("/opt/gaudi-patch/bin/gaudi-patch"), "check", "--json", "--python", "python3"])
    assert json.loads(done.stdout)["data"]["state"] == "patched"


@pytest.mark.wheels
@pytest.mark.torch
def test_the_wheel_holds_these_files_and_the_schema(wheels: Path) -> None:
    (wheel,) = wheels.glob("gaudi_patch-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"gaudi_patch/container/{path.relative_to(FILES)}" for path in FILES.rglob("*") if path.is_file()}
    assert len(shipped) == 6
    assert shipped | {"gaudi_patch/attestation/schema.json"} <= names
    directory = load().directory
    patches = {path.relative_to(directory) for path in directory.rglob("*") if path.is_file()}
    patches = {path for path in patches if not patch_files.is_litter(path)}
    assert len(patches) > 50
    assert {f"gaudi_patch/_patches/{path}" for path in patches} <= names  # the runtime's sources, too


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_defaults_are_those_of_this_release(name: str) -> None:
    steps = dockerfile.parse((FILES / name).read_text())
    arguments = dict(one.text.split("=", 1) for one in steps if one.word == "ARG")
    assert arguments["GAUDI_PATCH_VERSION"] == __version__
    assert arguments["LMCACHE_VERSION"] == LMCACHE == load().series[0].id
    assert re.fullmatch(BASE, arguments["BASE"])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_installing_and_patching_are_one_layer_and_root_does_not_stay(name: str) -> None:
    steps = dockerfile.parse((FILES / name).read_text())
    (install,) = [one for one in steps if one.word == "RUN" and "lmcache==" in one.text]
    assert 'gaudi-patch" apply' in install.text
    assert '--no-deps "lmcache==' in install.text
    users = [one.text for one in steps if one.word == "USER"]
    assert users == ["root", "${RUN_AS}"]
    assert "check" in steps[-1].text and "--against" in steps[-1].text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_step_after_user_is_not_root_and_cannot_write(tmp_path: Path) -> None:
    """The stand-in itself: without this, the last check would prove less than it says."""
    container = Container(tmp_path, tmp_path, tmp_path)
    container.start("base")
    container.user = "10001"
    done = container.run(["/bin/sh", "-c", f"id -u; touch {tmp_path}/mine"])
    assert (done.stdout, done.returncode) == ("10001\n", 1)


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

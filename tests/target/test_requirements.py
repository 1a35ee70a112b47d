"""The packages that a release imports on a Gaudi, by its own metadata, and those that an interpreter lacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.authoring.requires_dist import of_wheel
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.smoke.probes import _environment
from gaudi_patch.target import requirements
from gaudi_patch.target.requirements import Distributions, needs
from tests.support.cli import gaudi_patch

#: Requirements of LMCache 0.5.6 that are for CUDA or for the build only.
LEFT_OUT_OF_0_5_6 = {"cuda-python", "cufile-python", "cupy-cuda13x", "pytest", "setuptools", "setuptools_scm", "torch"}


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~ ]", requirement)[0]


@pytest.mark.wheels
@pytest.mark.parametrize("version", list(requirements.table()))
def test_the_table_is_what_the_wheel_says(lmcache_wheel: Callable[..., Path], version: str) -> None:
    assert of_wheel(lmcache_wheel(version)) == (version, requirements.table()[version])


@pytest.mark.parametrize(
    ("name", "cuda"),
    [
        *((name, True) for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy", "cufile-python", "nixl", "nixl-cu13")),
        *((name, True) for name in ("cuda-python", "nvidia-ml-py", "nvidia-cublas-cu12", "NVIDIA_nccl", "pynvml")),
        *((name, True) for name in ("flashinfer-cu126", "torch-cuda121")),
        *((name, False) for name in ("nvtx", "numba", "cucumber", "custom", "cupid", "aiofile", "barracuda", "cu")),
    ],
)
def test_cudas_packages_are_known_by_their_names(name: str, cuda: bool) -> None:
    assert requirements.is_cuda(name) is cuda


def test_the_smoke_checks_leave_out_the_same_packages() -> None:
    """A probe runs in the target and imports nothing of gaudi-patch, so it has a copy of both rules."""
    assert _environment.BUILD_ONLY == requirements.BUILD_ONLY
    names = {
        requirements._normal(re.split(r"[\s\[(<>=!~;]", line, maxsplit=1)[0])
        for lines in requirements.table().values()
        for line in lines
    }
    assert len(names) > 30
    for name in (*names, "cupy", "nixl", "pynvml", "cuda-python", "nvidia-ml-py", "torch-cuda121", "barracuda"):
        assert bool(_environment._CUDA_DISTRIBUTION.search(name)) == requirements.is_cuda(name), name


def test_every_requirement_is_asked_for_or_left_out_and_none_twice() -> None:
    for version in requirements.table():
        found = needs(version, None)
        names = [_name(text) for text in (*found.missing, *found.left_out)]
        assert len(names) == len(set(names)), version
        assert "torch" in map(_name, found.left_out), version
        assert "sortedcontainers" in map(_name, found.missing), version
    assert {_name(text) for text in needs("0.5.6", None).left_out} == LEFT_OUT_OF_0_5_6


def test_what_is_installed_is_not_asked_for_and_never_moved() -> None:
    there = Distributions({"aiofile": "3.0", "numpy": "9.0"})
    found = needs("0.5.6", there)
    assert not {"aiofile", "numpy"} & set(map(_name, found.missing))
    assert found.other == (("numpy<=2.2.6", "9.0"),)
    assert "numpy==9.0" in requirements.constraints(there, found)


def test_an_upper_bound_gives_way_where_the_image_has_a_newer_one_of_the_family() -> None:
    exporter = "opentelemetry-exporter-prometheus"
    assert f"{exporter}<=0.61b0,>=0.50b0" in needs("0.5.6", Distributions({})).missing
    assert f"{exporter}<=0.61b0,>=0.50b0" in needs("0.5.6", Distributions({"opentelemetry-api": "1.30"})).missing
    assert f"{exporter}>=0.50b0" in needs("0.5.6", Distributions({"opentelemetry-api": "1.45.2"})).missing


def test_markers_and_extras_are_those_of_the_interpreter() -> None:
    declared = ('a; python_version < "3.11"', 'b; extra == "x"', 'c; sys_platform == "linux"')
    markers = {"python_version": "3.12", "sys_platform": "linux"}
    there = Distributions({"lmcache": "0.5.6"}, declared, markers)
    assert needs("0.5.6", there).missing == ("c",)


def test_the_installed_metadata_wins_and_serves_releases_that_nobody_knows() -> None:
    there = Distributions({"lmcache": "77.0"}, ("something>=1",))
    assert needs("77.0", there).missing == ("something>=1",)
    with pytest.raises(GaudiPatchError) as caught:
        needs("77.1", there)
    assert (caught.value.code, int(caught.value.exit)) == ("unknown-version", 3)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return an interpreter that has three distributions, one with an invalid version."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    site = next((tmp_path / "bare" / "lib").iterdir()) / "site-packages"
    for name, version in (("aiofile", "3.1"), ("torch", "2.9.0a0+gitb2fb688"), ("odd", "not a version")):
        (site / f"{name}-1.dist-info").mkdir()
        (site / f"{name}-1.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    return python


def test_the_command_writes_both_files_and_says_how_to_install_them(bare: Path, tmp_path: Path) -> None:
    done = gaudi_patch("requirements", "0.5.6", "--python", bare, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert f"{bare} -m pip install -r {tmp_path}/out/requirements.txt -c {tmp_path}/out/constraints.txt" in done.out
    constraints = (tmp_path / "out" / "constraints.txt").read_text().splitlines()
    assert constraints == ["aiofile==3.1", "torch==2.9.0a0+gitb2fb688"]
    wanted = [line for line in (tmp_path / "out" / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    assert "redis" in wanted
    assert "aiofile" not in wanted
    assert wanted == [
        str(one) for one in gaudi_patch("requirements", "0.5.6", "--python", bare, "--json").json["data"]["missing"]
    ]


def test_an_interpreter_without_pytorch_is_told_apart_from_vllms(bare: Path, tmp_path: Path) -> None:
    """As after `export PATH=TOOL/bin:$PATH`: the first python3 is gaudi-patch's own."""
    arguments = ("requirements", "0.5.6", "--python", bare)
    assert gaudi_patch(*arguments, "--json").json["warnings"] == []
    (metadata,) = bare.parents[1].glob("lib/*/site-packages/torch-1.dist-info/METADATA")
    metadata.unlink()
    metadata.parent.rmdir()
    told = f"{bare} has no PyTorch; --python has to name the interpreter that runs vLLM"
    assert gaudi_patch(*arguments, "--json").json["warnings"] == [told]
    done = gaudi_patch(*arguments, "--output", tmp_path / "out")
    assert (done.code, told in " ".join(done.err.split())) == (0, True), done.err


@pytest.mark.parametrize(
    ("version", "plugin", "instead"),
    [
        ("0.5.6", "0.26.0", None),
        ("0.5.6", "0.26.0.post1+cpu", None),
        ("0.5.6", "0.21.0", "LMCache 0.4.7 does"),
        ("0.4.7", "0.11.2", "no release that can be patched does"),
    ],
)
def test_a_release_that_does_not_go_with_the_images_vllm_gaudi_is_told(
    bare: Path, version: str, plugin: str, instead: str | None
) -> None:
    """An image with such a pair can be built and proved: no required level has a vLLM."""
    (site,) = bare.parents[1].glob("lib/*/site-packages")
    (site / "vllm_gaudi.dist-info").mkdir()
    (site / "vllm_gaudi.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm-gaudi\nVersion: {plugin}\n"
    )
    told = f"LMCache {version} does not go with vllm-gaudi {plugin}, which {bare} has; {instead}"
    warnings = gaudi_patch("requirements", version, "--python", bare, "--json").json["warnings"]
    assert warnings == ([told] if instead else [])


@pytest.mark.parametrize(
    ("installed", "constraint"),
    [
        ("66.1.1", "setuptools<81.0.0,>=77.0.3"),
        ("80.9.0", "setuptools==80.9.0"),
        ("84.2.1", "setuptools==84.2.1"),
    ],
)
def test_the_setuptools_of_a_plain_environment_does_not_bar_what_needs_a_newer_one(
    bare: Path, installed: str, constraint: str
) -> None:
    """grpcio-observability 1.78.0 requires setuptools>=77.0.1; python3.11 -m venv gives 65 or 66."""
    (site,) = bare.parents[1].glob("lib/*/site-packages")
    (site / "setuptools.dist-info").mkdir()
    (site / "setuptools.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: setuptools\nVersion: {installed}\n"
    )
    done = gaudi_patch("requirements", "0.5.6", "--python", bare, "--constraints")
    assert done.out.splitlines() == ["aiofile==3.1", constraint, "torch==2.9.0a0+gitb2fb688"]


def test_stdout_is_a_requirements_file_that_pip_reads(bare: Path, tmp_path: Path) -> None:
    listed = gaudi_patch("requirements", "0.5.6", "--python", bare)
    (tmp_path / "requirements.txt").write_text(listed.out)
    program = (
        "import json, sys\n"
        "from pip._internal.req.req_file import parse_requirements\n"
        "from pip._internal.network.session import PipSession\n"
        "print(json.dumps([r.requirement for r in parse_requirements(sys.argv[1], session=PipSession())]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "requirements.txt")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == list(needs("0.5.6", requirements.distributions(bare)).missing)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("0.5.6", "--constraints"), 2),
        (("0.5.6", "--output", "x"), 2),
        (("9.9",), 3),
        (("0.5.6", "--python", "/no"), 2),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments: tuple[str, ...], code: int) -> None:
    done = gaudi_patch("requirements", *arguments)
    assert done.code == code, done.out + done.err
    assert done.out == ""
    assert "Traceback" not in done.err

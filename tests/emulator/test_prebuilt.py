"""A prebuilt device is used if it fits, and refused otherwise."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.emulator import build, prebuilt, pytorch
from gaudi_patch.emulator.options import EmulatorError
from tests.emulator.support import EMULATOR, ForkServer, run_python
from tests.support.cli import gaudi_patch

ACTIVATE = "import gaudi_patch.emulator as e; print(e.activate(lazy=False).library)"
WORKS = ACTIVATE + "; import torch; assert torch.ones(2, device='hpu').sum().item() == 2"


@pytest.fixture(scope="session")
def device(torch_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a device made by `gaudi-patch emulator build` for the tests' PyTorch."""
    file = tmp_path_factory.mktemp("device") / "device.so"
    done = gaudi_patch("emulator", "build", "--python", torch_python, "--out", file)
    assert done.code == 0, done.out + done.err
    digest, name = done.out.splitlines()[0].split("  ")
    assert (digest, name) == (hashlib.sha256(file.read_bytes()).hexdigest(), str(file))
    return file


@pytest.fixture
def copy(device: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy2(device, tmp_path / "device.so"))


@pytest.fixture
def run(forks: ForkServer, tmp_path: Path) -> Callable[..., Any]:
    """Run a program without a compiler and with an empty cache."""
    nothing = tmp_path / "nothing"
    nothing.mkdir()

    def go(program: str, device: Path, **env: str) -> Any:
        variables = {"HPU_EMULATOR_CACHE": str(tmp_path / "cache"), "PATH": str(nothing), "CXX": ""}
        return forks.run(program, {**variables, "HPU_EMULATOR_DEVICE": str(device), **env})

    return go


@pytest.mark.torch
def test_a_prebuilt_device_needs_neither_compiler_nor_cache(
    run: Callable[..., Any], copy: Path, tmp_path: Path
) -> None:
    done = run(WORKS, copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(copy)
    assert not (tmp_path / "cache").exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("pretend", "told"),
    [
        ("torch.__version__ = type(torch.__version__)('2.99.0+cpu')", "PyTorch 2.13.0+cpu, not 2.99.0+cpu"),
        ("torch.version.git_version = 'other'", "PyTorch's commit"),
        ("torch._C._GLIBCXX_USE_CXX11_ABI = False", "C++ ABI (cxx11) True, not False"),
        ("import platform; platform.machine = lambda: 'aarch64'", "machine x86_64, not aarch64"),
        ("import gaudi_patch.emulator.build as b; b.source_digest = lambda: 'x'", "sources of the emulator"),
    ],
)
def test_a_device_for_something_else_is_refused_by_name(
    run: Callable[..., Any], copy: Path, pretend: str, told: str
) -> None:
    done = run(f"import torch; {pretend}; {ACTIVATE}", copy)
    assert done.returncode == 1
    assert "does not fit here" in done.stderr
    assert told in done.stderr


@pytest.mark.torch
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-1], "is truncated"),
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: b"", "is truncated"),
        (lambda data: data + b"x", "is truncated"),
        (lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], "is damaged"),
        (lambda data: data.replace(b'"machine"', b'"maschine"'), "another version of gaudi-patch"),
        (lambda data: data.replace(b'"cxx11_abi": ', b'"cxx11_abi": ['), "is truncated"),
    ],
)
def test_a_damaged_device_is_refused(
    run: Callable[..., Any], copy: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    copy.write_bytes(damage(copy.read_bytes()))
    done = run(ACTIVATE, copy)
    assert done.returncode == 1, done.stdout
    assert told in done.stderr


@pytest.mark.torch
def test_a_device_that_is_not_there_is_said_to_be_so(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run(ACTIVATE, tmp_path / "nowhere.so")
    assert done.returncode == 1
    assert f"HPU_EMULATOR_DEVICE names {tmp_path}/nowhere.so, which cannot be read" in done.stderr


@pytest.mark.torch
def test_a_device_that_others_can_write_to_is_refused(run: Callable[..., Any], copy: Path) -> None:
    copy.chmod(0o775)
    done = run(ACTIVATE, copy)
    assert done.returncode == 1
    assert "can be written by group" in done.stderr


@pytest.mark.torch
def test_headers_of_a_wheel_are_enough(torch_python: Path, device: Path, tmp_path: Path) -> None:
    """Built from a wheel without any library, the device is byte-identical."""
    program = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    root = Path(run_python(torch_python, "-c", program).stdout.strip())
    wheel = tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(root / "version.py", "torch/version.py")
        for file in (root / "include").rglob("*"):
            if file.is_file():
                archive.write(file, f"torch/include/{file.relative_to(root / 'include')}")
    done = gaudi_patch("emulator", "build", "--torch", wheel, "--out", tmp_path / "of-wheel.so")
    assert done.code == 0, done.err
    assert prebuilt_body(tmp_path / "of-wheel.so") == prebuilt_body(device)


def prebuilt_body(file: Path) -> bytes:
    """Return the trailer of a device, which says what it is built for."""
    return file.read_bytes().rpartition(prebuilt._BEGIN)[2].partition(b'"sha256"')[0]


# --- what it is built for, without PyTorch ----------------------------------------------------------------------------


def _torch(root: Path, version: str, *, headers: bool = True, cmake: str | None = None) -> Path:
    (root / "include" / "ATen").mkdir(parents=True) if headers else root.mkdir()
    (root / "version.py").write_text(f"from typing import Optional\n__version__ = '{version}'\ngit_version = 'abc'\n")
    if cmake is not None:
        config = root / "share" / "cmake" / "Torch" / "TorchConfig.cmake"
        config.parent.mkdir(parents=True)
        config.write_text(cmake)
    return root


@pytest.mark.parametrize(
    ("version", "standard"),
    [
        ("2.7.1", "c++17"),
        ("2.9.0a0+gitb2fb688", "c++17"),
        ("2.13.0+cpu", "c++17"),
        ("2.14.0", "c++20"),
        ("3.0", "c++20"),
    ],
)
def test_the_standard_follows_the_release(tmp_path: Path, version: str, standard: str) -> None:
    found = pytorch.at(_torch(tmp_path / "torch", version))
    assert (found.version, found.git_version, found.cxx11_abi, found.standard) == (version, "abc", True, standard)


def test_the_abi_is_what_pytorch_wrote_down_for_cmake(tmp_path: Path) -> None:
    flags = 'set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")\n'
    assert pytorch.at(_torch(tmp_path / "torch", "2.7.1", cmake=flags)).cxx11_abi is False


@pytest.mark.parametrize("what", ["nothing", "no headers", "no version", "a file", "no wheel"])
def test_what_is_no_pytorch_is_refused_in_words(tmp_path: Path, what: str) -> None:
    place = tmp_path / "torch"
    if what == "no headers":
        _torch(place, "2.9.1", headers=False)
    elif what == "no version":
        _torch(place, "2.9.1")
        (place / "version.py").write_text("debug = False\n")
    elif what == "a file":
        place.write_text("")
    elif what == "no wheel":
        place = tmp_path / "torch.whl"
        place.write_text("")
    with pytest.raises(EmulatorError), pytorch.named(place):
        pass


def test_a_pytorch_that_is_too_old_is_refused_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "compile_to", lambda *arguments: pytest.fail("compiled"))
    with pytest.raises(EmulatorError, match=r"PyTorch 2\.5\.1 is too old"):
        build.build_to(tmp_path / "device.so", pytorch.at(_torch(tmp_path / "torch", "2.5.1")))


@pytest.mark.parametrize(("field", "name"), [("xpu", "XPU 20250301"), ("hip", "ROCm 20250301")])
def test_a_pytorch_with_another_accelerator_built_in_is_refused_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, name: str
) -> None:
    """PyTorch counts the built-in accelerators: each pinned allocation would end in "Cannot have both"."""
    root = _torch(tmp_path / "torch", "2.9.1")
    with (root / "version.py").open("a") as stream:
        stream.write(f"cuda: Optional[str] = '13.0'\n{field}: Optional[str] = '20250301'\n")
    monkeypatch.setattr(build, "compile_to", lambda *arguments: pytest.fail("compiled"))
    monkeypatch.setattr(build.prebuilt, "given", lambda: pytest.fail("looked for a device"))
    for refused in (lambda found: build.build_to(tmp_path / "device.so", found), build.library):
        with pytest.raises(EmulatorError, match=f"PyTorch 2.9.1 has {name} built in.*for the CPU or for CUDA"):
            refused(pytorch.at(root))


def test_a_cuda_build_is_taken(tmp_path: Path) -> None:
    root = _torch(tmp_path / "torch", "2.9.1")
    with (root / "version.py").open("a") as stream:
        stream.write("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\nxpu: Optional[str] = None\n")
    pytorch.at(root).refuse_unserved()


def test_without_a_compiler_the_packages_of_both_kinds_of_image_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EmulatorError) as caught:
        build.build_to(tmp_path / "device.so", pytorch.at(_torch(tmp_path / "torch", "2.9.1")))
    for word in ("apt-get install g++", "microdnf", "gcc-c++", "gaudi-patch emulator build", "HPU_EMULATOR_DEVICE"):
        assert word in str(caught.value)


def test_a_compilers_complaint_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\necho note: this >&2\necho device.cpp:1: error: no such thing >&2\necho more >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(EmulatorError) as caught:
        build.build_to(tmp_path / "device.so", pytorch.at(_torch(tmp_path / "torch", "2.9.1")))
    assert "\n" not in str(caught.value)
    assert "device.cpp:1: error: no such thing" in str(caught.value)


@pytest.mark.torch
def test_the_stand_alone_command_line_builds_too(torch_python: Path, tmp_path: Path) -> None:
    done = run_python(torch_python, EMULATOR, "build", "--torch", tmp_path, importable=False)
    assert done.returncode == 4
    assert done.stderr.startswith("hpu emulator: ")
    assert "Traceback" not in done.stderr

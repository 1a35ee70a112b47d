"""If pip's index provides PyTorch as a CUDA build, the demo says so and checks the room for NVIDIA's packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.demo import needs, setup, story
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output import progress

CPU = ["filelock", "sympy>=1.13.3"]
CUDA = [*CPU, "cuda-toolkit[cudart]==13.0.3; platform_system == 'Linux'", "nvidia-cudnn-cu13==9.20.0.48", "triton"]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return tmp_path / "venv" / "bin" / "python"


@pytest.mark.parametrize(("asks", "nvidia"), [(CPU, []), (CUDA, ["cuda-toolkit", "nvidia-cudnn-cu13"])])
def test_a_cuda_build_is_known_by_what_it_asks_for_before_any_of_that_is_downloaded(
    asks: list[str], nvidia: list[str], python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_of_pip: list[tuple[str, ...]] = []

    def install(target: Path, *arguments: str) -> None:
        asked_of_pip.append(arguments)
        metadata = target.parents[1] / "lib/python3.11/site-packages/torch-2.13.0.dist-info/METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text("\n".join(["Name: torch", *(f"Requires-Dist: {one}" for one in asks), "", "PyTorch"]))

    monkeypatch.setattr(setup, "install", install)
    assert setup.install_torch(python, "torch==2.13.0") == nvidia
    assert asked_of_pip == [("torch==2.13.0", "--no-deps")]


def test_the_demo_stops_before_nvidias_packages_fill_the_disk(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("went on")

    monkeypatch.setattr(needs, "missing", lambda *_, **__: [])
    monkeypatch.setattr(needs, "free_space", lambda _: needs.CUDA - 1)
    monkeypatch.setattr(story, "locate", lambda *_: None)
    monkeypatch.setattr(story, "_core", lambda *_: None)
    monkeypatch.setattr(setup, "environment", lambda _: python)
    monkeypatch.setattr(setup, "install_lmcache", lambda *_: None)
    monkeypatch.setattr(setup, "install_torch", lambda *_: ["nvidia-cudnn-cu13"])
    monkeypatch.setattr(setup, "install_proof", never)
    with pytest.raises(GaudiPatchError, match="as a CUDA build") as raised:
        story.demo(story.DemoOptions(keep=tmp_path / "kept"))
    assert (raised.value.exit, raised.value.code) == (Exit.ENVIRONMENT, "demo-cuda")
    assert raised.value.hint is not None
    assert "PIP_EXTRA_INDEX_URL" in raised.value.hint
    assert "--keep" in raised.value.hint


def test_a_cuda_build_with_room_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.start(quiet=False)  # a test before this one may have asked for JSON
    monkeypatch.setattr(needs, "free_space", lambda _: needs.CUDA)
    needs.refuse_cuda_without_room([], tmp_path)
    assert capsys.readouterr().err == ""
    needs.refuse_cuda_without_room(["nvidia-cudnn-cu13"], tmp_path)
    assert "PIP_EXTRA_INDEX_URL" in capsys.readouterr().err

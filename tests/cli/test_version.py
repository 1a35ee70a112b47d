"""`--version`: the facts for a bug report, with LMCache in the environment, and without any information."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaudi_patch import __version__
from gaudi_patch.cli import version
from gaudi_patch.errors import bad_manifest
from gaudi_patch.series.manifest import load
from tests.support.cli import environment, gaudi_patch
from tests.support.fake_wheel import fake_wheel, unpack
from tests.support.installers import venv


def test_it_names_the_tool_and_what_it_runs_with() -> None:
    done = gaudi_patch("--version")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"gaudi-patch {__version__}"
    for name in ("python", "typer", "rich", "unidiff", "packaging", "gitpython", "git", "Linux"):
        assert any(line.startswith(f"{name} ") for line in lines), name
    assert f"manifest schema 2, {len(load().series)} series, {len(load().patches)} patches" in lines


def test_it_names_the_target_and_what_lmcache_runs_with(tmp_path: Path) -> None:
    """By metadata alone: a torch that cannot be imported is still named."""
    target = venv(tmp_path / "venv")
    for name, number in (("lmcache", "0.5.6"), ("torch", "2.9.0"), ("vllm_gaudi", "0.26.0")):
        files = {f"{name}/__init__.py": "raise SystemExit('imported')\n"}
        unpack(fake_wheel(tmp_path, number, files, name=name), target.site_packages)
    done = gaudi_patch("--version", env={"VIRTUAL_ENV": str(target.prefix)})
    assert done.code == 0
    lines = done.out.splitlines()
    assert f"lmcache 0.5.6 ({target.site_packages})" in lines
    assert any(line.startswith(f"target: {target.prefix}/bin/python") for line in lines)
    assert {"torch 2.9.0", "vllm-gaudi 0.26.0", "vllm is not installed", "habana-torch-plugin is not installed"} <= set(
        lines
    )


def test_without_lmcache_git_or_a_manifest_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise bad_manifest("is not valid TOML", "manifest.toml")

    monkeypatch.setattr(version, "load", fail)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "gone"))
    text = version.version_text()
    assert "git is not installed" in text
    assert "manifest: manifest.toml: is not valid TOML" in text
    assert "target: none by default (" in text


def test_a_package_in_a_zip_file_is_named_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = fake_wheel(tmp_path, "9.8.7", {"unidiff/__init__.py": ""}, name="unidiff")
    monkeypatch.setattr(sys, "path", [str(wheel)])
    lines = version.version_text().splitlines()
    assert "unidiff 9.8.7" in lines
    assert "rich is not installed" in lines


def test_it_imports_none_of_what_it_names() -> None:
    code = (
        "import sys\nfrom gaudi_patch.cli.version import version_text\nversion_text()\n"
        "heavy = {'rich', 'git', 'unidiff', 'torch', 'numpy', 'pydantic', 'importlib.metadata'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_it_goes_into_the_report_of_a_bug() -> None:
    from gaudi_patch.cli import run

    result = run.guarded("check", lambda: 1 // 0, False)  # type: ignore[arg-type, return-value]
    (error,) = result.errors
    report = Path(error.hint.removeprefix("please report it with "))
    text = report.read_text()
    report.unlink()
    assert text.startswith(f"gaudi-patch {__version__}\n")
    assert "ZeroDivisionError" in text
    assert "\ntarget: " in text

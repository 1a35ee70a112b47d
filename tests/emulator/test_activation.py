"""The device is active when requested, and never by accident."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.emulator.activations import Run
from tests.emulator.support import EMULATOR, run_python

pytestmark = pytest.mark.torch


def test_nothing_is_importable_without_activation(torch_python: Path) -> None:
    """Neither with gaudi_patch on the path nor with every emulator module imported; PyTorch is not imported either."""
    program = """
        import importlib, importlib.util, pkgutil, sys
        assert importlib.util.find_spec("habana_frameworks") is None
        import gaudi_patch.emulator as package
        for module in pkgutil.iter_modules(package.__path__):
            if module.name not in ("__main__", "packages"):
                importlib.import_module(f"{package.__name__}.{module.name}")
        assert importlib.util.find_spec("habana_frameworks") is None
        assert "torch" not in sys.modules, "importing the emulator imports torch"
        import torch
        assert not hasattr(torch, "hpu")
        try:
            torch.empty(1, device="hpu")
        except Exception:
            pass
        else:
            raise AssertionError("a device without activation")
    """
    done = run_python(torch_python, "-c", textwrap.dedent(program))
    assert done.returncode == 0, done.stderr


def test_a_failed_activation_leaves_nothing_importable(run: Run, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    run(
        """
        import importlib.util
        import gaudi_patch.emulator as e
        try:
            e.activate(lazy=False)
        except e.EmulatorError:
            pass
        else:
            raise AssertionError("activated without a place for its library")
        assert importlib.util.find_spec("habana_frameworks") is None
        try:
            e.current()
        except e.EmulatorError:
            pass
        else:
            raise AssertionError("there is a current device")
        """,
        HPU_EMULATOR_CACHE=str(blocker / "cache"),
    )


@pytest.fixture
def real_package(tmp_path: Path) -> Path:
    """Return a directory with an imitation of an installed habana_frameworks."""
    site = tmp_path / "site"
    for folder in ("habana_frameworks", "habana_frameworks/torch"):
        (site / folder).mkdir(parents=True)
        (site / folder / "__init__.py").write_text("REAL = True\n")
    return site


#: The signs of a host with a Gaudi: a node below /dev/accel.
NODES = """
    import glob, os, pathlib
    original, listed, exists = pathlib.Path.glob, glob.glob, os.path.exists
    def fake(self, pattern, **options):
        if str(self) == "/dev/accel":
            return iter([self / "accel0"])
        return original(self, pattern, **options)
    pathlib.Path.glob = fake
    glob.glob = lambda p, **o: ["/dev/accel/accel0"] if str(p).startswith("/dev/accel") else listed(p, **o)
    os.path.exists = lambda p: True if str(p) == "/dev/accel/accel0" else exists(p)
"""


def test_activation_is_refused_where_a_gaudi_and_its_software_are(run: Run, real_package: Path) -> None:
    printed = run(
        textwrap.dedent(NODES)
        + f"sys_path_entry = {str(real_package)!r}"
        + textwrap.dedent("""
        import sys
        sys.path.insert(0, sys_path_entry)
        import gaudi_patch.emulator as e
        try:
            e.activate(lazy=False)
        except e.EmulatorError as error:
            print(error)
        else:
            raise AssertionError("shadowed the real one")
        import habana_frameworks
        assert habana_frameworks.REAL
        import torch
        assert not hasattr(torch, "hpu")
    """)
    )
    assert "habana_frameworks" in printed
    assert "real" in printed


def test_the_command_line_is_refused_too(torch_python: Path, real_package: Path, tmp_path: Path) -> None:
    (real_package / "sitecustomize.py").write_text(textwrap.dedent(NODES))
    script = tmp_path / "script.py"
    script.write_text("print('ran')\n")
    done = run_python(torch_python, EMULATOR, script, env={"PYTHONPATH": str(real_package)}, importable=False)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ran" not in done.stdout
    assert "Traceback" not in done.stderr


def test_activation_is_refused_once_the_real_package_is_imported(run: Run, real_package: Path) -> None:
    run(f"""
        import sys
        sys.path.insert(0, {str(real_package)!r})
        import habana_frameworks
        import gaudi_patch.emulator as e
        try:
            e.activate(lazy=False)
        except e.EmulatorError:
            pass
        else:
            raise AssertionError("mixed with the real one")
    """)


def test_the_software_without_a_device_does_not_prevent_it(run: Run, real_package: Path) -> None:
    """As in the build of a Gaudi image."""
    run(f"""
        import sys
        sys.path.insert(0, {str(real_package)!r})
        import gaudi_patch.emulator as e
        e.activate(lazy=False)
        import habana_frameworks.torch as htorch
        assert not hasattr(htorch, "REAL")
        import torch
        assert torch.ones(2, device="hpu").sum().item() == 2
    """)


def test_activation_is_refused_where_torch_has_another_hpu_backend(run: Run) -> None:
    run("""
        import types, torch
        torch._register_device_module("hpu", types.ModuleType("torch.hpu"))
        import gaudi_patch.emulator as e
        try:
            e.activate(lazy=False)
        except e.EmulatorError:
            pass
        else:
            raise AssertionError("two backends")
    """)

"""If Intel's plugin is installed without a card, the emulated device runs, in children too."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emulator.support import EMULATOR, REPOSITORY
from tests.support import gaudi_image
from tests.support.environments import Environment, clean_environment
from tests.support.gaudi_image import GaudiImage

pytestmark = pytest.mark.torch

REPORT = """
    import json, os, sys
    import torch
    import habana_frameworks, habana_frameworks.torch
    value = torch.ones(2, device="hpu").sum().item()
    print("report:", json.dumps({
        "emulated": getattr(habana_frameworks, "IS_EMULATED", False),
        "plugin": os.environ.get("GAUDI_IMAGE_PLUGIN_IMPORTED"),
        "value": value,
    }))
"""
RIGHT = {"emulated": True, "plugin": None, "value": 2.0}


@pytest.fixture(scope="module")
def images(
    lmcache_overlay: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], GaudiImage]:
    """``images(form)``: a Gaudi image with the plugin in this form; do not change it."""
    made: dict[str, GaudiImage] = {}

    def get(form: str) -> GaudiImage:
        if form not in made:
            lmcache_overlay("0.4.2")
            made[form] = gaudi_image.make("0.4.2", tmp_path_factory.mktemp(form), form=form)
        return made[form]

    return get


def _run(image: GaudiImage, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(image.python), "-B", *map(str, arguments)],
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _reports(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line.partition(": ")[2]) for line in done.stdout.splitlines() if line.startswith("report: ")]


@pytest.mark.parametrize("form", gaudi_image.FORMS)
@pytest.mark.parametrize("lazy", ["1", "0"])
def test_a_script_and_its_children_run_on_the_emulated_device(
    images: Callable[[str], GaudiImage], tmp_path: Path, form: str, lazy: str
) -> None:
    child = gaudi_image.script(REPORT, tmp_path / "child.py")
    parent = tmp_path / "parent.py"
    # The child starts as vLLM's model inspection does: a new interpreter that inherits only the environment.
    parent.write_text(child.read_text() + f"import subprocess\nsubprocess.run([sys.executable, {str(child)!r}])\n")
    # With PT_HPU_LAZY_MODE=0, the plugin's autoload imports the whole plugin.
    assert _reports(_run(images(form), EMULATOR, parent, PT_HPU_LAZY_MODE=lazy)) == [RIGHT, RIGHT]


@pytest.mark.parametrize("form", gaudi_image.FORMS)
def test_a_module_runs_on_the_emulated_device(images: Callable[[str], GaudiImage], tmp_path: Path, form: str) -> None:
    gaudi_image.script(REPORT, tmp_path / "reports.py")
    path = f"{REPOSITORY}:{tmp_path}"
    done = _run(images(form), "-m", "gaudi_patch.emulator", "--eager", "-m", "reports", PYTHONPATH=path)
    assert _reports(done) == [RIGHT]


def test_activation_after_torch_drops_the_plugins_namespace(
    images: Callable[[str], GaudiImage], tmp_path: Path
) -> None:
    """In lazy mode, the plugin's autoload imports only its namespace."""
    text = """
        import sys
        import torch
        assert "habana_frameworks" in sys.modules, "the stand-in's entry point was not called"
        import gaudi_patch.emulator as e
        e.activate()
    """
    script = gaudi_image.script(text, tmp_path / "late.py")
    script.write_text(script.read_text() + gaudi_image.script(REPORT, tmp_path / "report.py").read_text())
    assert _reports(_run(images("namespace"), script, PYTHONPATH=str(REPOSITORY))) == [RIGHT]


def test_a_plugin_that_torch_has_brought_in_is_refused_with_what_to_do(
    images: Callable[[str], GaudiImage], tmp_path: Path
) -> None:
    script = gaudi_image.script("import torch\nimport gaudi_patch.emulator as e\ne.activate()\n", tmp_path / "late.py")
    done = _run(images("namespace"), script, PYTHONPATH=str(REPOSITORY), PT_HPU_LAZY_MODE="0")
    assert done.returncode == 1
    assert "EmulatorError: the real habana_frameworks is already imported" in done.stderr
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in done.stderr


#: An import hook of an editable installation: it answers before sys.path is searched.
_FINDER = """
import importlib.util, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "habana_frameworks":
            return importlib.util.spec_from_file_location(name, {init!r}, submodule_search_locations=[{folder!r}])
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("how", ["by path", "as a module"])
def test_another_package_in_front_of_the_emulated_one_is_refused(
    images: Callable[[str], GaudiImage], tmp_path: Path, how: str
) -> None:
    """Before, the script ran with the real package over the emulated device, and the exit code was 0."""
    folder = tmp_path / "editable" / "habana_frameworks"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_FINDER.format(init=str(folder / "__init__.py"), folder=str(folder)))
    script = gaudi_image.script("print('ran')", tmp_path / "script.py")
    start = [EMULATOR] if how == "by path" else ["-m", "gaudi_patch.emulator"]
    done = _run(images("namespace"), *start, script, PYTHONPATH=f"{hook}:{REPOSITORY}")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ran" not in done.stdout
    assert "is not the emulated package" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_environments_own_start_up_file_still_runs(images: Callable[[str], GaudiImage], tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text("import builtins\nbuiltins.start_up_file_ran = True\n")
    text = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(start_up_file_ran)'], check=True)\n"
    script = gaudi_image.script(text, tmp_path / "script.py")
    done = _run(images("namespace"), EMULATOR, script, PYTHONPATH=str(hook))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


def test_a_modules_options_are_its_own(images: Callable[[str], GaudiImage], tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text("import sys\nprint(sys.argv[1:])\n")
    for before, after in (([], ["-q"]), (["--eager"], ["--lazy", "-m", "x"]), (["--schedule", "sync"], ["--", "-h"])):
        done = _run(images("namespace"), EMULATOR, *before, "-m", "echo", *after, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == repr(after)


# --- the same with the handling of the plugin broken: what the tests above would see ---------------------------------

_MUTANTS = {
    "none": (),
    "the variable does not go on to children": (
        ("real_plugin.py", '    environ[AUTOLOAD_VARIABLE] = "0"\n', ""),
        (
            "device.py",
            "        emulator = Emulator(",
            "        _restore(real_plugin.AUTOLOAD_VARIABLE, before)\n        emulator = Emulator(",
        ),
    ),
    "the namespace is not dropped": (("real_plugin.py", "    _drop_namespace()\n", ""),),
    "what was imported is not looked at": (("real_plugin.py", "    confirm()\n", ""),),
}


def _mutant(folder: Path, name: str) -> Path:
    """Return a directory for PYTHONPATH with a copy of the emulator that has one fault."""
    copy = folder / "mutant" / "gaudi_patch" / "emulator"
    shutil.copytree(EMULATOR, copy, ignore=shutil.ignore_patterns("__pycache__"))
    copy.with_name("__init__.py").write_text("")
    for file, old, new in _MUTANTS[name]:
        text = (copy / file).read_text()
        assert text.count(old) == 1, f"{file} has changed: mutant {name!r} is to be written anew"
        (copy / file).write_text(text.replace(old, new))
    return folder / "mutant"


@pytest.mark.parametrize("name", _MUTANTS)
def test_each_part_of_the_handling_is_needed(images: Callable[[str], GaudiImage], tmp_path: Path, name: str) -> None:
    """Without a fault, the three runs are right; each fault breaks the one run that it concerns."""
    path = str(_mutant(tmp_path, name))
    report = gaudi_image.script(REPORT, tmp_path / "report.py")
    parent = gaudi_image.script(
        f"import subprocess, sys\nimport habana_frameworks\nsubprocess.run([sys.executable, {str(report)!r}])\n",
        tmp_path / "parent.py",
    )
    late = tmp_path / "late.py"
    late.write_text("import torch\nimport gaudi_patch.emulator as e\ne.activate()\n" + report.read_text())
    hook, editable = tmp_path / "hook", tmp_path / "editable" / "habana_frameworks"
    for folder in (hook, editable):
        folder.mkdir(parents=True)
    (editable / "__init__.py").write_text("")
    (hook / "sitecustomize.py").write_text(_FINDER.format(init=str(editable / "__init__.py"), folder=str(editable)))
    ran = gaudi_image.script("print('ran')", tmp_path / "ran.py")

    image, emulator, right = images("namespace"), f"{path}/gaudi_patch/emulator", f"report: {json.dumps(RIGHT)}"
    runs = {
        "the variable does not go on to children": lambda: (
            right in _run(image, emulator, parent, PYTHONPATH=path, PT_HPU_LAZY_MODE="0").stdout
        ),
        "the namespace is not dropped": lambda: right in _run(image, late, PYTHONPATH=path).stdout,
        "what was imported is not looked at": lambda: (
            (done := _run(image, emulator, ran, PYTHONPATH=f"{hook}:{path}")).returncode == 4
            and "ran" not in done.stdout
        ),
    }
    seen = {what: run() for what, run in runs.items() if name in (what, "none")}
    print(f"{name}: {'all three runs are right' if all(seen.values()) else 'seen'}")
    assert seen == dict.fromkeys(seen, name == "none")

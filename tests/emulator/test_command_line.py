"""The command line, and processes started by a program."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.emulator.activations import Run
from tests.emulator.support import EMULATOR, run_python

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("by_path", [True, False], ids=["by path", "as a module"])
def test_a_script_runs_with_the_device(torch_python: Path, script: Path, by_path: bool) -> None:
    how = [EMULATOR] if by_path else ["-m", "gaudi_patch.emulator"]
    done = run_python(torch_python, *how, "--eager", script, "one", "--two", importable=not by_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["argv"] == ["one", "--two"]
    assert printed["name"] == "__main__"
    assert printed["argv0"] == printed["file"] == str(script)
    assert printed["sum"] == 8
    assert printed["lazy"] is False
    assert printed["helper"] == "found beside the script"
    if by_path:
        assert printed["gaudi_patch"] is False


def test_by_path_no_module_of_the_folder_is_importable_by_its_bare_name(torch_python: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.util\n"
        "for name in ('options', 'device', 'build', 'cli', 'packages'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
    )
    done = run_python(torch_python, EMULATOR, script, importable=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("body", "status"), [("raise SystemExit(7)", 7), ("raise ValueError('no')", 1)])
def test_the_scripts_exit_status_is_the_commands(torch_python: Path, tmp_path: Path, body: str, status: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(body + "\n")
    assert run_python(torch_python, EMULATOR, script, importable=False).returncode == status


def test_counters_are_written_at_the_end(torch_python: Path, script: Path, tmp_path: Path) -> None:
    target = tmp_path / "counters.json"
    done = run_python(torch_python, EMULATOR, "--lazy", "--counters", target, script, importable=False)
    assert done.returncode == 0, done.stderr
    counted = json.loads(target.read_text())
    assert counted["step_causes"] == {"mark_step": 1, "item": 1}
    assert counted["ops"] >= 2


def test_wrong_usage_is_said(torch_python: Path, tmp_path: Path) -> None:
    assert run_python(torch_python, EMULATOR, importable=False).returncode == 2
    assert run_python(torch_python, EMULATOR, "--schedule", "fast", "x.py", importable=False).returncode == 2
    done = run_python(torch_python, EMULATOR, tmp_path / "missing.py", importable=False)
    assert done.returncode not in (0, 70)
    assert "missing.py" in done.stderr


def test_a_child_process_can_have_the_same_device(run: Run) -> None:
    """With ``Emulator.environment()``, importing habana_frameworks.torch activates it, as vLLM's workers need."""
    run("""
        import os, subprocess, sys
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=False, schedule="reversed")
        program = (
            "import habana_frameworks.torch, torch, hpu_emulator;"
            "assert torch.ones(2, device='hpu').sum().item() == 2;"
            "o = hpu_emulator.current().options; assert (o.lazy, o.schedule) == (False, 'reversed'), o"
        )
        environment = {**os.environ, **emulator.environment()}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    """)


@pytest.mark.parametrize("option", ["lazy", "schedule"])
def test_a_spawned_process_has_its_parents_device(torch_python: Path, tmp_path: Path, option: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing

        def work(queue):
            import habana_frameworks.torch
            import hpu_emulator
            import torch
            t = torch.ones(4, device="hpu") * 3
            queue.put((t.sum().item(), hpu_emulator.current().options.{option}))

        if __name__ == "__main__":
            import hpu_emulator
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            child = context.Process(target=work, args=(queue,))
            child.start()
            total, value = queue.get(timeout=120)
            child.join()
            assert (total, child.exitcode) == (12.0, 0)
            print(value == hpu_emulator.current().options.{option})
        """)
    )
    options = ("--eager", "--schedule", "reversed")
    done = run_python(torch_python, EMULATOR, *options, script, importable=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    assert done.stdout.strip() == "True"


def test_leaving_with_pending_work_is_no_error(run: Run) -> None:
    run("""
        import gaudi_patch.emulator as e
        e.activate(lazy=True)
        import torch
        t = torch.ones(8, device="hpu") + 1
        out = t.to("cpu", non_blocking=True)
    """)

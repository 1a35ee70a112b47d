"""The device is there when asked for, as it was asked for, and never otherwise."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emulator.support import EMULATOR, ForkServer, run_python

pytestmark = pytest.mark.torch

Run = Callable[..., str]


@pytest.fixture
def run(forks: ForkServer) -> Run:
    """Run a program, which has to succeed, and return what it printed."""

    def go(program: str, **env: str) -> str:
        done = forks.run(textwrap.dedent(program), env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return go


# --- never by accident ----------------------------------------------------------------------------------------------


def test_nothing_is_importable_without_activation(torch_python: Path) -> None:
    """Not with gaudi_patch on the path, and not with every module of the emulator imported; PyTorch stays out too."""
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


# --- beside the real package ----------------------------------------------------------------------------------------


@pytest.fixture
def real_package(tmp_path: Path) -> Path:
    """Return a directory with something that looks like an installed habana_frameworks."""
    site = tmp_path / "site"
    for folder in ("habana_frameworks", "habana_frameworks/torch"):
        (site / folder).mkdir(parents=True)
        (site / folder / "__init__.py").write_text("REAL = True\n")
    return site


#: What a host with a Gaudi shows: a node below /dev/accel.
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


# --- as asked -------------------------------------------------------------------------------------------------------


def test_the_rules_follow_the_environment_and_its_default(run: Run) -> None:
    program = """
        import gaudi_patch.emulator as e
        emulator = e.activate()
        from habana_frameworks.torch.utils.internal import is_lazy
        print(is_lazy(), emulator.options.lazy)
    """
    assert run(program) == "True True"
    assert run(program, PT_HPU_LAZY_MODE="1") == "True True"
    assert run(program, PT_HPU_LAZY_MODE="0") == "False False"


def test_the_rules_given_in_code_win_over_the_environment(run: Run) -> None:
    program = """
        import gaudi_patch.emulator as e
        e.activate(lazy=False)
        import os
        from habana_frameworks.torch.utils.internal import is_lazy
        print(is_lazy(), os.environ["PT_HPU_LAZY_MODE"])
    """
    assert run(program, PT_HPU_LAZY_MODE="1") == "False 0"


def test_options_come_from_the_environment(run: Run) -> None:
    program = """
        import gaudi_patch.emulator as e
        o = e.activate(strict="raise").options
        print(o.schedule, o.poison, o.strict, o.int64_as_int32)
    """
    printed = run(
        program,
        HPU_EMULATOR_SCHEDULE="reversed",
        HPU_EMULATOR_POISON="0",
        HPU_EMULATOR_STRICT="off",
        HPU_EMULATOR_INT64_AS_INT32="1",
    )
    assert printed == "reversed False raise True"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("e.activate(no_such_option=1)", "TypeError"),
        ("e.activate(schedule='fast')", "ValueError"),
        ("e.activate(poison='yes')", "ValueError"),
        ("e.activate(lazy='0')", "ValueError"),
    ],
)
def test_wrong_options_raise(run: Run, call: str, error: str) -> None:
    run(f"""
        import gaudi_patch.emulator as e
        try:
            {call}
        except {error}:
            pass
        else:
            raise AssertionError("taken")
        import torch
        assert not hasattr(torch, "hpu")
    """)


def test_a_wrong_value_in_the_environment_raises(forks: ForkServer) -> None:
    for name, value in (("HPU_EMULATOR_POISON", "perhaps"), ("HPU_EMULATOR_SCHEDULE", "fast")):
        done = forks.run("import gaudi_patch.emulator as e; e.activate()", {name: value})
        assert done.returncode == 1
        assert "ValueError" in done.stderr


def test_a_misspelt_variable_raises(forks: ForkServer) -> None:
    """An option that silently is not in force would make a check pass that should not."""
    done = forks.run("import gaudi_patch.emulator as e; e.activate()", {"HPU_EMULATOR_SCHEDUL": "sync"})
    assert done.returncode == 1
    assert "HPU_EMULATOR_SCHEDUL" in done.stderr


def test_a_second_activation_is_the_same_device_or_refused(run: Run) -> None:
    run("""
        import gaudi_patch.emulator as e
        first = e.activate(lazy=False, schedule="reversed")
        assert e.activate() is first is e.activate(lazy=False) is e.current()
        for options in ({"lazy": True}, {"schedule": "sync"}, {"poison": False}):
            try:
                e.activate(**options)
            except e.EmulatorError:
                pass
            else:
                raise AssertionError(f"{options} contradict the active device")
    """)


def test_the_module_is_one_under_its_two_names(run: Run) -> None:
    run("""
        import sys
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=False)
        import hpu_emulator
        assert hpu_emulator is e is sys.modules["gaudi_patch.emulator"]
        assert hpu_emulator.current() is emulator
    """)


def test_noncontiguous_copies_to_the_host_as_the_bridge_does_them(run: Run) -> None:
    """Bridge 1.19 loses (lazy) or misplaces (eager) them; the device can refuse them, or do the same."""
    for lazy in (True, False):
        run(f"""
            import gaudi_patch.emulator as e
            emulator = e.activate(lazy={lazy}, noncontiguous_d2h="raise")
            import torch
            device = torch.arange(12.0, device="hpu").reshape(3, 4)
            lazy = {lazy}
            def target():
                # lazy: a host tensor that is not contiguous; eager: a contiguous slice of a pool
                return torch.zeros(4, 3).t() if lazy else torch.zeros(24)[12:].view(4, 3)
            source = device if lazy else device.t()
            try:
                target().copy_(source)
            except RuntimeError:
                pass
            else:
                raise AssertionError("not refused")
            emulator.configure(noncontiguous_d2h="bridge")
            lost = target()
            lost.copy_(source)
            assert not torch.equal(lost, source.cpu()), "the bridge's fault is not reproduced"
            emulator.configure(noncontiguous_d2h="copy")
            right = target()
            right.copy_(source)
            assert torch.equal(right, source.cpu())
        """)


def test_tolerant_index_is_off_unless_asked_for(run: Run) -> None:
    run("""
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=False)
        import torch
        t = torch.arange(4.0, device="hpu")
        index = torch.tensor([-1, 2], device="hpu")
        def select():
            value = t.index_select(0, index)
            torch.hpu.synchronize()
            return value
        try:
            select()
        except (RuntimeError, IndexError):
            pass
        else:
            raise AssertionError("an index of -1 was taken")
        emulator.configure(tolerant_index=True)
        assert select().cpu()[1] == 2
    """)


def test_eager_stream_join_is_the_bridges_wait_for_the_default_stream(run: Run) -> None:
    run("""
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=False)
        import torch
        def result():
            t, out = torch.ones(8, device="hpu"), torch.zeros(8).pin_memory()
            torch.hpu.synchronize()
            t.add_(4)
            side = torch.hpu.Stream()
            with torch.hpu.stream(side):
                out.copy_(t, non_blocking=True)
            side.synchronize()
            value = out[0].item()
            torch.hpu.synchronize()
            return value
        assert result() != 5
        emulator.configure(eager_stream_join=True)
        assert result() == 5
    """)


def test_a_trace_lists_what_was_issued(run: Run) -> None:
    printed = run("""
        import json
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=True)
        import torch
        t = torch.ones(8, device="hpu")
        torch.hpu.synchronize()
        emulator.trace(True)
        u = t + 1
        u.cpu()
        torch.hpu.synchronize()
        events = emulator.trace(False)
        v = t + 2
        torch.hpu.synchronize()
        assert emulator.trace(False) == []
        print(json.dumps(events))
    """)
    events = json.loads(printed)
    assert [event["kind"] for event in events] == ["graph", "d2h", "synchronize"]
    assert events[0]["cause"] == "d2h"
    assert events[0]["ops"] == 1
    assert events[1]["bytes"] == 32


def test_options_that_are_fixed_cannot_be_configured(run: Run) -> None:
    run("""
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=False)
        for options, error in (({"lazy": True}, ValueError), ({"schedule": "fast"}, ValueError), ({"x": 1}, TypeError)):
            try:
                emulator.configure(**options)
            except error:
                pass
            else:
                raise AssertionError(options)
        emulator.configure(schedule="reversed")
        assert emulator.options.schedule == "reversed"
        assert emulator.options.lazy is False
    """)


def test_a_compiled_function_is_one_launch(run: Run) -> None:
    """As with torch.compile(backend="hpu_backend") under eager mode; a second call is the same recipe."""
    run("""
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=False)
        import torch
        def gather(cache, index):
            rows = cache.index_select(0, index)
            return torch.cat([rows, rows + 1]) * 2
        compiled = torch.compile(gather, backend="hpu_backend", dynamic=False, fullgraph=True)
        cache, index = torch.arange(32.0).reshape(8, 4), torch.tensor([5, 0])
        device = cache.to("hpu"), index.to("hpu")
        compiled(*device)
        torch.hpu.synchronize()
        emulator.counters.reset()
        result = compiled(*device)
        counted = emulator.counters.snapshot()
        assert counted["graph_launches"] == 1, counted
        assert counted["step_causes"] == {"compiled": 1}
        assert counted["graph_compilation"] == 0
        assert torch.equal(result.cpu(), gather(cache, index))
    """)


def test_hpu_graphs_call_the_wrapped_module(run: Run) -> None:
    run("""
        import gaudi_patch.emulator as e
        emulator = e.activate(lazy=True)
        import torch
        import habana_frameworks.torch as htorch
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 2)
        reference = layer(torch.ones(3, 4)).detach()
        wrapped = htorch.hpu.wrap_in_hpu_graph(layer.to("hpu"), disable_tensor_cache=True)
        x = torch.ones(3, 4, device="hpu")
        torch.hpu.synchronize()
        emulator.counters.reset()
        result = wrapped(x)
        assert emulator.counters.snapshot()["graph_launches"] == 1
        assert torch.equal(result.detach().cpu(), reference)
        try:
            htorch.hpu.HPUGraph().replay()
        except NotImplementedError:
            pass
        else:
            raise AssertionError("a replay did nothing and said nothing")
    """)


# --- the command line -----------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
import hpu_emulator
import torch
import habana_frameworks.torch.core as htcore
t = torch.ones(4, device="hpu") + 1
htcore.mark_step()
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "sum": t.sum().item(), "file": __file__,
    "lazy": hpu_emulator.current().options.lazy, "helper": __import__("helper").VALUE,
    "gaudi_patch": "gaudi_patch" in sys.modules, "argv0": sys.argv[0],
}))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "scripts" / "script.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    (path.parent / "helper.py").write_text("VALUE = 'found beside the script'\n")
    return path


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
    """``Emulator.environment()``: importing habana_frameworks.torch then brings it up, as vLLM's workers need."""
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

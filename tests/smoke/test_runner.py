"""The runner trusts a probe only if its exit status and its complete result agree."""

from __future__ import annotations

import os
import signal
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from gaudi_patch.smoke import checks, levels, runner
from gaudi_patch.smoke.counted import Failure
from gaudi_patch.smoke.levels import Level
from gaudi_patch.smoke.outcome import LevelResult
from gaudi_patch.target import process

PRELUDE = """
import argparse, json, os, pathlib, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
for name in ("--result", "--rules", "--device"):
    parser.add_argument(name)
args, more = parser.parse_known_args()
def result(**changes):
    data = {"schema": 1, "complete": True, "level": "imports", "rules": args.rules, "device": args.device,
            "status": "passed", "reason": "fine", "checks": 3, "failures": [], "counters": {"launches": 2}}
    data.update(changes)
    pathlib.Path(args.result).write_text(json.dumps(data))
"""
# A stand-in for the emulator: runs the program named by its first argument.
FAKE_EMULATOR = """
import runpy, sys
sys.argv.pop(0)
if sys.argv[0] == "build":
    open(sys.argv[2], "w").write("/the/compiled/device.so")  # build --name-to FILE
else:
    runpy.run_path(sys.argv[0], run_name='__main__')
"""

Run = Callable[..., list[LevelResult]]


def _package(site: Path, name: str) -> None:
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text("")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter whose environment has packages named torch and lmcache."""
    prefix = tmp_path_factory.mktemp("target")
    venv.create(prefix, with_pip=False, symlinks=True)
    site = next((prefix / "lib").iterdir()) / "site-packages"
    _package(site, "torch")
    _package(site, "lmcache")
    return prefix / "bin" / "python"


@pytest.fixture
def run(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(source)``: the results of a probe with that source, on the emulator's stand-in."""
    emulator = tmp_path / "emulator.py"
    emulator.write_text(FAKE_EMULATOR)
    monkeypatch.setattr(runner, "EMULATOR", emulator)

    def call(
        source: str, *, python: Path = target, needs: tuple[str, ...] = (), processes: int = 1, **options: object
    ) -> list[LevelResult]:
        probe = tmp_path / "probe.py"
        probe.write_text(PRELUDE + source)
        monkeypatch.setattr(levels, "LEVELS", (Level("imports", str(probe), needs, processes=processes),))
        settings: dict[str, object] = {"rules": ("lazy",), "timeout": 60.0, **options}
        return runner.run(python, levels=["imports"], **settings)  # type: ignore[arg-type]

    return call


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _alive(pid)


def test_a_complete_result_with_the_matching_exit_status_is_believed(run: Run) -> None:
    (result,) = run("result()")
    assert (result.status, result.reason, result.device, result.rules) == ("passed", "fine", "emulated", "lazy")
    assert (result.checks, result.counters.document, result.exit_code) == (3, {"launches": 2}, 0)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "exit status 0 and it wrote no result"),
        ("print(json.dumps({'status': 'passed', 'complete': True, 'checks': 3}))", "it wrote no result"),
        ('pathlib.Path(args.result).write_text(\'{"schema": 1, "comp\')', "not JSON"),
        ("pathlib.Path(args.result).write_text('[' * 100000)", "not JSON"),
        ("pathlib.Path(args.result).write_text('[]')", "incomplete"),
        ("pathlib.Path(args.result).write_bytes(b'\\xff\\xfe' * 10)", "not JSON"),
        ("pathlib.Path(args.result).write_bytes(b' ' * (5 << 20))", "larger than 4 MB"),
        ("os.mkdir(args.result)", "cannot be read"),
        ("result(complete=False)", "incomplete"),
        ("result(schema=2)", "incomplete"),
        ("result(level='engine')", "for level 'engine', not 'imports'"),
        ("result(rules='eager')", "for rules 'eager', not 'lazy'"),
        ("result(device='hpu')", "for device 'hpu', not 'emulated'"),
        ("result(status='ok')", "wrong type"),
        ("result(checks=True)", "wrong type"),
        ("result(reason='')", "wrong type"),
        ("result(failures=[{'message': 'x'}])", "wrong type"),
        ("result(checks=0)", "passed with 0 checks"),
        ("result(failures=[{'check': 'a', 'message': 'b'}])", "passed with 3 checks and 1 failures"),
        ("result(status='failed'); sys.exit(1)", "names no failure"),
        ("result(); sys.exit(1)", "reported passed but ended with exit status 1"),
        ("result(); sys.exit(77)", "reported passed but ended with exit status 77"),
        ("result(status='skipped')", "reported skipped but ended with exit status 0"),
        ("result(); os.kill(os.getpid(), signal.SIGSEGV)", "ended with killed by SIGSEGV"),
        ("os.abort()", "killed by SIGABRT and it wrote no result"),
        ("raise RuntimeError('the device is on fire')", "RuntimeError: the device is on fire"),
        ("sys.exit(4)", "exit status 4 and it wrote no result"),
        (
            "print('hpu emulator: no C++ compiler was found', file=sys.stderr); sys.exit(4)",
            "no emulated HPU here: no C++",
        ),
    ],
)
def test_a_probe_that_dies_or_gives_no_complete_result_never_passes(run: Run, source: str, reason: str) -> None:
    (result,) = run(source)
    assert result.status == ("skipped" if "no emulated" in reason else "failed")
    assert reason in result.reason


def test_failures_and_skips_keep_their_reason(run: Run) -> None:
    (failed,) = run(
        "result(status='failed', reason='slot 3', failures=[{'check': 'a', 'message': 'b', 'slot': 3}]); sys.exit(1)"
    )
    assert (failed.status, failed.reason) == ("failed", "slot 3")
    assert failed.failures == (Failure("a", "b", {"slot": 3}),)
    fault = checks.fault_of([failed], checks.SmokeOptions())
    assert fault is not None and "--smoke-timeout" not in fault.hint
    assert failed.to_json()["failures"] == [{"check": "a", "message": "b", "slot": 3}]
    (skipped,) = run("result(status='skipped', reason='no msgspec', checks=0); sys.exit(77)")
    assert (skipped.status, skipped.reason) == ("skipped", "no msgspec")


def test_a_probe_that_hangs_is_killed_with_everything_that_it_started(run: Run, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    (result,) = run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
        "print('about to hang', flush=True); time.sleep(600)",
        timeout=2.0,
    )
    assert result.status == "failed"
    assert "timed out" in result.reason
    fault = checks.fault_of([result], checks.SmokeOptions(timeout=2.0))
    assert fault is not None and fault.hint.endswith("a slow machine needs more than --smoke-timeout 2")
    assert "about to hang" in result.output_tail
    assert _gone(int(pid.read_text()))


def test_a_probe_that_hangs_after_its_result_has_failed(run: Run) -> None:
    (result,) = run("result(); time.sleep(600)", timeout=2.0)
    assert result.status == "failed"
    assert "did not exit" in result.reason


def test_what_a_finished_probe_left_running_is_killed(run: Run, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    (result,) = run(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid)); result()"
    )
    assert result.status == "passed"
    assert _gone(int(pid.read_text()))


def test_a_probe_may_close_its_output_and_go_on(run: Run) -> None:
    (result,) = run("os.close(1); os.close(2); time.sleep(0.5); result(); os._exit(0)")
    assert result.status == "passed"


def test_of_a_flood_of_output_the_last_megabyte_is_kept(run: Run) -> None:
    (result,) = run(
        "for _ in range(20): sys.stdout.write('x' * (1 << 20))\nsys.stdout.buffer.write(b'\\xff last words')\nresult()"
    )
    assert result.status == "passed"
    assert len(result.output_tail) <= process.OUTPUT_LIMIT
    assert result.output_tail.endswith(" last words")


def test_what_was_left_in_the_pipe_at_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_without_reading(running: process.Child, *_: object) -> bool:
        while not running._has_ended():
            time.sleep(0.01)
        os.set_blocking(running.output, False)
        return True

    monkeypatch.setattr(process.Child, "follow", wait_without_reading)
    command = [sys.executable, "-c", "print('last words')"]
    finished = process.run(command, timeout=60, environ=os.environ, cwd=tmp_path)
    assert finished.tail == "last words\n"


def test_an_interrupt_kills_the_probe(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    source = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    def started() -> bool:
        return pid.exists() and bool(pid.read_text())

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3)
        with pytest.raises(KeyboardInterrupt):
            process.run([sys.executable, "-c", source], timeout=60, environ=os.environ, cwd=tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert started()
    assert _gone(int(pid.read_text()))


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Path]:
    """``bare("torch", ...)``: an interpreter with only these packages."""

    def make(*packages: str) -> Path:
        prefix = tmp_path / "bare"
        venv.create(prefix, with_pip=False, symlinks=True)
        for name in packages:
            _package(next((prefix / "lib").iterdir()) / "site-packages", name)
        return prefix / "bin" / "python"

    return make


@pytest.mark.parametrize(
    ("packages", "device", "reason"),
    [
        (("torch",), "auto", "LMCache is not installed"),
        (("lmcache",), "auto", "PyTorch is not installed"),
        (("lmcache", "torch"), "hpu", "no HPU: habana_frameworks is not installed"),
    ],
)
def test_what_cannot_be_checked_is_skipped_with_the_reason(
    run: Run, bare: Callable[..., Path], packages: tuple[str, ...], device: str, reason: str
) -> None:
    (result,) = run("result()", python=bare(*packages), device=device)
    assert result.status == "skipped"
    assert reason in result.reason
    assert result.device == "none"


def test_a_level_that_needs_a_module_is_skipped_without_it(run: Run) -> None:
    (result,) = run("result()", needs=("numpy",))
    assert result.status == "skipped"
    assert "numpy" in result.reason


def test_an_interpreter_that_cannot_be_run_is_a_failure(run: Run, tmp_path: Path) -> None:
    (missing,) = run("result()", python=tmp_path / "nowhere" / "python")
    assert missing.status == "failed"
    assert "No such file" in missing.reason
    (other,) = run("result()", python=Path("/bin/true"))
    assert other.status == "failed"
    assert "cannot ask" in other.reason


def test_a_probe_runs_apart_from_the_callers_folder_and_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / "torch.py").write_text("raise SystemExit('hostile')")
    monkeypatch.chdir(hostile)
    (result,) = run(
        "import torch\n"
        "assert 'hostile' not in torch.__file__\n"
        "assert 'LMCACHE_CONFIG_FILE' not in os.environ and os.environ['PT_HPU_LAZY_MODE'] == '0'\n"
        "assert os.listdir('.') == [], os.listdir('.')\n"
        "result()",
        rules=("eager",),
        environ={**os.environ, "PYTHONPATH": str(hostile), "LMCACHE_CONFIG_FILE": "/nowhere", "PYTHONOPTIMIZE": "2"},
    )
    assert result.status == "passed", result.output_tail


def test_a_check_writes_nothing_into_the_target(run: Run, bare: Callable[..., Path]) -> None:
    python = bare("torch", "lmcache")

    def files() -> set[Path]:
        return set(python.parent.parent.rglob("*"))

    before = files()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    (result,) = run("import torch, lmcache; result()", python=python, environ=environ)
    assert result.status == "passed"
    assert files() == before


def test_a_probe_gets_its_levels_arguments_and_no_others(run: Run) -> None:
    (result,) = run("result(reason=' '.join(more))", arguments={"imports": ["--model", "m"], "engine": ["--other"]})
    assert result.reason == "--model m"


def test_a_level_of_several_processes_has_the_time_for_each_of_them(run: Run) -> None:
    (result,) = run("time.sleep(1.2)\nresult(reason=' '.join(more))", processes=8, timeout=0.8)
    assert (result.status, result.reason) == ("passed", "--case-seconds 0.8")
    (result,) = run("time.sleep(60)", processes=2, timeout=0.4)
    assert "was still running after 0.8 s" in result.reason


def test_levels_run_in_the_tables_order_whatever_the_order_asked_for() -> None:
    assert [level.name for level in levels.select(["engine", "imports", "engine"])] == ["imports", "engine"]


def test_progress_names_each_level_its_device_and_its_end(run: Run) -> None:
    lines: list[str] = []
    results = run("result()", rules=("eager", "lazy"), on_progress=lines.append)
    assert [result.rules for result in results] == ["lazy", "eager"]
    assert "looking for the compiled device" in lines[0]
    assert lines[1] == "imports (lazy): running on the emulated HPU"
    assert lines[2].startswith("imports (lazy): passed in ")
    assert lines[3] == "imports (eager): running on the emulated HPU"


@pytest.mark.parametrize(
    "options", [{"levels": ["imprts"]}, {"levels": []}, {"device": "cuda"}, {"rules": ("fast",)}, {"rules": ()}]
)
def test_what_does_not_exist_is_refused_before_anything_runs(options: dict[str, object]) -> None:
    settings: dict[str, object] = {"levels": ["imports"], **options}
    with pytest.raises(ValueError, match=r"unknown|nothing would be checked"):
        runner.run(Path("/nowhere"), **settings)  # type: ignore[arg-type]

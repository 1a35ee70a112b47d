"""The parts of levels connector and inference that need no vLLM: models, controls, processes."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaudi_patch.smoke import runner

SMOKE = Path(__file__).resolve().parents[2] / "gaudi_patch" / "smoke"
PROBES, PLUGIN = SMOKE / "probes", SMOKE / "vllm_plugin"


def _run(python: Path, code: str, folder: Path) -> str:
    environ = {**os.environ, "PYTHONPATH": str(PLUGIN)}
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, env=environ, cwd=folder, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("tails", "shared", "length", "local", "hit"),
    [
        (False, 300, 300, 0, 256),  # whole chunks of 64
        (True, 300, 300, 0, 299),  # the tail as well; the last token is always computed
        (True, 192, 256, 0, 192),  # another prompt: its tail differs
        (True, 200, 200, 0, 192),  # a prefix of the stored prompt: the stored tail is longer
        (False, 128, 128, 0, 127),
        (False, 300, 300, 160, 96),
        (False, 300, 300, 288, 0),  # vLLM has more than LMCache
    ],
)
def test_the_hits_that_are_expected_follow_from_chunks_and_tails(
    load: Any, monkeypatch: pytest.MonkeyPatch, tails: bool, shared: int, length: int, local: int, hit: int
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "gaudi_smoke_hpu")
    stored = length if shared == 128 else 300
    engine = SimpleNamespace(saves_tails=tails)
    assert load("_vllm.prompts").expected_hit(engine, stored, length, shared, local) == hit


@pytest.mark.torch
@pytest.mark.parametrize("mla", [False, True])
def test_the_tiny_model_answers_by_its_whole_context(torch_python: Path, tmp_path: Path, mla: bool) -> None:
    code = f"""
import random, torch
from pathlib import Path
from gaudi_smoke_hpu import models, tiny
folder = tiny.write(Path('model'), mla={mla})
prompt = [random.Random(1).randrange(3, 512) for _ in range(60)]
prompt = [random.Random(n).randrange(3, 512) for n in range(60)]
answers = {{tuple(models.reference(folder, torch.float32, prompt[:n] + [7] + prompt[n + 1:], 6)) for n in (0, 20, 40)}}
right = models.reference(folder, torch.float32, prompt, 6)
print(len(answers | {{tuple(right)}}), len(set(right)) > 2, right == models.reference(folder, torch.float32, prompt, 6))
"""
    assert _run(torch_python, code, tmp_path) == "4 True True"


@pytest.mark.torch
@pytest.mark.parametrize("fault", ["none", "bit", "swapped", "zero"])
def test_the_pattern_model_sees_a_single_wrong_bit(torch_python: Path, tmp_path: Path, fault: str) -> None:
    code = f"""
import torch
from types import SimpleNamespace as N
from gaudi_smoke_hpu import pattern
to, synchronize = torch.Tensor.to, None
torch.Tensor.to = lambda self, *a, **k: self if a == ('hpu',) else to(self, *a, **k)
torch.hpu = N(synchronize=lambda: None)
model = pattern.PatternModel(N(hf_config=N(num_hidden_layers=2, num_key_value_heads=2, vocab_size=100), use_mla=False,
                               dtype=torch.bfloat16, get_head_size=lambda: 8))
pages = [(torch.zeros(64, 2, 8, dtype=torch.bfloat16), torch.zeros(64, 2, 8, dtype=torch.bfloat16)) for _ in range(2)]
tokens, slots = list(range(5, 25)), torch.randperm(64, generator=torch.Generator().manual_seed(0))[:20]
model.step(tokens, 0, 12, slots[:12], pages)
model.step(tokens, 12, 20, slots, pages)
raw = pages[1][0].view(torch.uint8).view(64, -1)
fault = {fault!r}
if fault == 'bit':
    raw[slots[7], 31] ^= 4
elif fault == 'swapped':
    raw[slots[[3, 4]]] = raw[slots[[4, 3]]]
elif fault == 'zero':
    pages[0][1][slots[19]] = 0
print(model.differing(tokens, 20, slots, pages))
"""
    wrong = {"none": [], "bit": [(1, 0, 7)], "swapped": [(1, 0, 3), (1, 0, 4)], "zero": [(0, 1, 19)]}[fault]
    assert _run(torch_python, code, tmp_path) == str(wrong)


def _case(load: Any, answers: list[list[int]], right: list[int], external: int = 4) -> tuple[Any, Any]:
    """Return a case of level inference whose engine gives ``answers`` in turn."""
    module, probe_module = load("_vllm.case"), load("_probe")
    engine_module = load("_vllm.engine")
    probe = probe_module.Probe("inference", "lazy", "emulated", Path("/nonexistent"))
    probe.counters["requests"] = []
    case = object.__new__(module.VllmCase)
    case.probe = probe
    case.errors = SimpleNamespace(first="")
    case.reference = SimpleNamespace(answer=lambda tokens: right, available=True)
    given = iter(answers)
    case.engine = SimpleNamespace(
        generate=lambda prompts, count: [engine_module.Answer(next(given), 9, 0, external, external) for _ in prompts]
    )
    return case, probe


def test_a_wrong_answer_and_a_missing_hit_are_failures(load: Any) -> None:
    case, probe = _case(load, [[1, 2]], right=[1, 3], external=0)
    case.ask("hit", [[5]], external=[4])
    assert [failure.check for failure in probe.failures] == ["hit", "hit"]
    assert "0 of 9 tokens, not 4" in probe.failures[0].message
    assert "answered [1, 2], must be [1, 3]" in probe.failures[1].message


def test_a_right_answer_with_its_hit_passes(load: Any) -> None:
    case, probe = _case(load, [[1, 3]], right=[1, 3])
    case.ask("hit", [[5]], external=[4], local=[0])
    assert (probe.failures, probe.checks) == ([], 3)


def test_a_fault_that_changes_no_answer_fails_the_check_itself(load: Any) -> None:
    case, probe = _case(load, [[1, 3], [9, 9]], right=[1, 3])
    case.ask("control: zeroed KV", [[5]], external=[4], wrong=True)
    assert "did not change the answer" in probe.failures[0].message
    case.ask("control: zeroed KV", [[5]], external=[4], wrong=True)
    assert len(probe.failures) == 1


@pytest.mark.parametrize(
    ("release", "agree", "algorithm"),
    [((0, 3, 13), False, "sha256_cbor"), ((0, 3, 10), True, "builtin"), ((0, 3, 10), False, "")],
)
def test_processes_share_keys_that_the_release_can_write(
    load: Any, monkeypatch: pytest.MonkeyPatch, release: tuple[int, ...], agree: bool, algorithm: str
) -> None:
    setup = load("_vllm.setup")
    monkeypatch.setattr(setup.kv_lmcache, "release", lambda: release)
    monkeypatch.setattr(setup, "processes_agree", lambda: agree)
    if algorithm:
        assert setup.stored_keys() == {"pre_caching_hash_algorithm": algorithm}
    else:
        with pytest.raises(load("_probe").Skip, match="do not share"):
            setup.stored_keys()


def test_whether_processes_agree_is_measured_not_concluded_from_the_version(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = load("_vllm.setup")
    answers = iter([b"1", b"1", b"1", b"1", b"1", b"1", b"2", b"1"])
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=next(answers)))
    assert setup.processes_agree()
    assert not setup.processes_agree()


def test_the_control_of_failed_loads_takes_out_what_completes_vllm_gaudis_reports(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise vLLM still learns of the failed load and recomputes, and the check would be called blind."""
    controls = load("_vllm.controls")

    def plain() -> None:
        pass

    @functools.wraps(plain)
    def report() -> None:
        plain()

    report.completed_by_gaudi = True  # type: ignore[attr-defined]
    runner, worker = SimpleNamespace(KVConnectorOutput=report), SimpleNamespace(gaudi_loads="loads")
    monkeypatch.setitem(sys.modules, "vllm_gaudi.v1.worker.hpu_model_runner", runner)
    with controls.failed_loads_unknown(worker):
        assert runner.KVConnectorOutput is plain
        assert not hasattr(worker, "gaudi_loads")
    assert (runner.KVConnectorOutput, worker.gaudi_loads) == (report, "loads")


class TestProcesses:
    """What a case may do, and which processes it leaves."""

    @pytest.fixture
    def run(self, load: Any, tmp_path: Path) -> Any:
        processes, probe_module = load("_vllm.processes"), load("_probe")
        probe = probe_module.Probe("inference", "lazy", "emulated", tmp_path)
        script = tmp_path / "case.py"
        answer = (
            "import argparse, json, pathlib\np = argparse.ArgumentParser()\np.add_argument('--result')\n"
            "path = pathlib.Path(p.parse_known_args()[0].result)\n"
            "def write(**o):\n path.write_text(json.dumps({'status': 'passed', 'checks': 2, 'failures': [],"
            " 'counters': {}, 'summary': ['fine'], **o}))\n"
        )

        def case(code: str, timeout: float = 60.0) -> Any:
            script.write_text(answer + code)
            processes.run_case(probe, "case", [str(script)], dict(os.environ), tmp_path / "scratch", timeout)
            return probe

        return case

    def test_a_result_is_taken_over(self, run: Any) -> None:
        probe = run("write()")
        assert (probe.failures, probe.checks, probe.summary) == ([], 3, ["fine"])

    def test_a_failure_is_taken_over_with_its_name(self, run: Any) -> None:
        probe = run(
            "write(status='failed', failures=[{'check': 'inference / hit', 'message': 'wrong'}])\nraise SystemExit(1)"
        )
        assert [(f.check, f.message) for f in probe.failures] == [("case / hit", "wrong")]

    def test_a_case_that_cannot_be_checked_is_said_with_its_reason(self, run: Any) -> None:
        probe = run("write(status='skipped', reason='there is one HPU only')\nraise SystemExit(77)")
        assert (probe.failures, probe.not_checked) == ([], {"case": "there is one HPU only"})
        assert probe.summary == ["case not checked (there is one HPU only)"]

    def test_a_level_of_which_no_case_could_be_checked_has_not_passed(self, run: Any, load: Any) -> None:
        probe = run("write(status='skipped', reason='no redis')\nraise SystemExit(77)")
        with pytest.raises(load("_probe").Skip, match="case: no redis"):
            load("_vllm.processes").require_one(probe, ["case"])
        load("_vllm.processes").require_one(probe, ["case", "another that was checked"])

    def test_a_case_that_hangs_is_killed(self, run: Any) -> None:
        probe = run("import time\ntime.sleep(600)", timeout=1.0)
        assert "was still running after 1 s" in probe.failures[0].message

    def test_a_case_that_finishes_and_does_not_exit_has_failed(self, run: Any) -> None:
        probe = run("write()\nimport threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()", 2.0)
        assert "finished but did not exit" in probe.failures[0].message

    def test_a_case_without_a_result_has_failed(self, run: Any) -> None:
        assert "gave no result; its last line: oh" in run("print('oh')").failures[0].message

    def test_a_result_that_the_exit_status_contradicts_is_a_failure(self, run: Any) -> None:
        assert "reported passed but ended with status 3" in run("write()\nraise SystemExit(3)").failures[0].message

    def test_a_process_that_ran_before_the_case_is_neither_counted_nor_ended(self, run: Any) -> None:
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
        with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as other:
            try:
                probe = run("write()")
                assert (probe.failures, other.poll()) == ([], None)
            finally:
                os.killpg(other.pid, signal.SIGKILL)


def test_a_child_that_outlives_its_case_is_found_and_ended(tmp_path: Path) -> None:
    """Run in a separate process, since adopting orphans stays in force."""
    code = f"""
import os, sys, time, json
from pathlib import Path
sys.path.insert(0, {str(PROBES)!r})
import _probe
from _vllm import children as vllm_children, processes as vllm_processes
vllm_processes._GRACE_SECONDS = 0.5
vllm_children.adopt_orphans()
probe = _probe.Probe('inference', 'lazy', 'emulated', Path('.'))
case = Path('case.py')
case.write_text('''
import subprocess, sys, json
from pathlib import Path
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
Path('pid').write_text(str(child.pid))
path = sys.argv[sys.argv.index('--result') + 1]
Path(path).write_text(json.dumps({{'status': 'passed', 'checks': 1, 'failures': [], 'counters': {{}}, 'summary': []}}))
''')
vllm_processes.run_case(probe, 'case', [str(case.resolve())], dict(os.environ), Path('scratch').resolve(), 60)
pid = int(Path('scratch/pid').read_text())
state = Path(f'/proc/{{pid}}/stat')
gone = not state.exists() or state.read_text().rpartition(')')[2].split()[0] == 'Z'
print(json.dumps([gone, [f.message for f in probe.failures]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith('[true, ["processes were left: ')


def test_the_path_of_the_longest_socket_fits(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one character too many, no engine of LMCache 0.3.10 to 0.4.4 started: the kernel accepts 107."""
    longest = f"engine_{uuid.uuid4()}_dp0_service_lookup_lmcache_rpc_port_0"
    processes = load("_vllm.processes")
    with runner._folder("gps-", "/tmp") as sockets:
        monkeypatch.setenv("GAUDI_PATCH_SOCKETS", sockets)
        with processes.socket_folder() as first, processes.socket_folder() as second:
            assert first != second
            assert first.stat().st_mode & 0o777 == 0o700
            assert len(str(second / longest)) <= 107
        assert not first.exists()
    monkeypatch.delenv("GAUDI_PATCH_SOCKETS")
    with processes.socket_folder() as alone:
        assert len(str(alone / longest)) <= 107


def test_a_server_that_does_not_start_is_said_so(load: Any, tmp_path: Path) -> None:
    processes = load("_vllm.processes")
    with (
        pytest.raises(RuntimeError, match="ended with status 1: ZeroDivisionError"),
        processes.server(["-c", "1/0"], dict(os.environ), tmp_path, processes.free_port(), 30.0),
    ):
        pass


@pytest.mark.parametrize(("module", "kind"), [("lmcache.c_ops", RuntimeError), ("httpx", None)])
def test_a_server_without_its_module_is_a_fault_of_lmcache_or_a_skip(
    load: Any, tmp_path: Path, module: str, kind: type[Exception] | None
) -> None:
    processes, probe = load("_vllm.processes"), load("_probe")
    code = f'raise ModuleNotFoundError("No module named {module!r}")'
    with (
        pytest.raises(kind or probe.Skip, match=module),
        processes.server(["-c", code], dict(os.environ), tmp_path, processes.free_port(), 30.0),
    ):
        pass


def test_the_plugin_is_importable_neither_by_accident_nor_from_the_package() -> None:
    from gaudi_patch.smoke import levels

    assert importlib.util.find_spec("gaudi_smoke_hpu") is None
    assert not (PLUGIN / "__init__.py").exists()
    assert levels.PROBES == PROBES


@pytest.mark.torch
def test_vllm_can_go_through_the_modules_of_either_model(torch_python: Path, tmp_path: Path) -> None:
    code = """
import torch
from pathlib import Path
from types import SimpleNamespace
from gaudi_smoke_hpu import models, pattern, tiny
folder = tiny.write(Path('model'), mla=False)
hf = SimpleNamespace(num_hidden_layers=2, num_key_value_heads=2, vocab_size=512)
config = SimpleNamespace(hf_config=hf, use_mla=False, dtype=torch.float32, get_head_size=lambda: 32)
both = models.PagedModel(models.load(folder, torch.float32, 'cpu')), pattern.PatternModel(config)
print(*(list(model.modules()) == [model] for model in both))
"""
    assert _run(torch_python, code, tmp_path) == "True True"

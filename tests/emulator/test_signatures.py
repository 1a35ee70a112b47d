"""The packages have the real signatures, and accept no argument that the real ones reject.

The table is that of HabanaAI/gaudi-pytorch-bridge 1.19.0, python_packages/habana_frameworks/torch. Code that passes a
device to ``torch.hpu.synchronize`` fails on Gaudi, so it must fail here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.support import run_script

pytestmark = pytest.mark.torch

#: hpu/__init__.py, streams.py, events.py, memory.py, random.py
HPU = """
init() is_initialized() is_available() device_count() current_device() synchronize() set_device(device)
get_device_name(device=None) get_device_capability(device=None) get_device_properties(device=None)
can_device_access_peer(device, peer_device) get_arch_list() get_gencode_flags() is_bf16_supported()
set_sync_debug_mode(debug_mode) get_sync_debug_mode() setDeterministic(val) getDeterministic()
set_autocast_hpu_enabled(enabled) is_autocast_hpu_enabled() set_autocast_hpu_dtype(dtype) get_autocast_hpu_dtype()
enable_dynamic_shape() disable_dynamic_shape() get_dynamic_shape_status()
enable_inference_mode() disable_inference_mode() enable_quantization() disable_quantization()
memory_usage(device=None) utilization(device=None) sdp_kernel(enable_recompute=True)
enable_recompute_sdp(enabled) recompute_sdp_enabled()
device.__init__(self, device) device.__enter__(self) device.__exit__(self, type, value, traceback)
device_of.__init__(self, obj)
stream(stream) set_stream(stream) current_stream(device=None) default_stream(device=None) get_stream_info(stream)
record_stream(self, stream)
StreamContext.__init__(self, stream)
Stream.__new__(cls, device=None, priority=0, **kwargs) Stream.wait_event(self, event) Stream.wait_stream(self, stream)
Stream.record_event(self, event=None) Stream.query(self) Stream.synchronize(self) Stream.id(self)
Event.__new__(cls, enable_timing=False) Event.record(self, stream=None) Event.wait(self, stream=None)
Event.query(self) Event.elapsed_time(self, end_event) Event.synchronize(self)
max_memory_allocated(device=None) memory_allocated(device=None) reset_peak_memory_stats(device=None)
reset_accumulated_memory_stats(device=None) memory_stats(device=None) memory_summary(device=None)
memory_reserved(device=None) max_memory_reserved(device=None) memory_cached(device=None) max_memory_cached(device=None)
mem_get_info(device=None)
get_rng_state(device='hpu') set_rng_state(new_state, device='hpu') manual_seed(seed) seed() initial_seed()
get_rng_state_all() set_rng_state_all(new_states) manual_seed_all(seed) seed_all()
"""
#: hpu/graphs.py, which exists only in lazy mode (hpu/__init__.py: ``if is_lazy(): from .graphs import *``)
GRAPHS = """
HPUGraph.capture_begin(self, dry_run=False) HPUGraph.capture_end(self)
HPUGraph.replay(self, asynchronous=False) HPUGraph.replayV2(self, static_tlist, tlist, asynchronous=False)
HPUGraph.replayV3(self, tlistI, asynchronous=False)
graph.__init__(self, hpu_graph, stream=None, dry_run=False)
make_graphed_callables(callables, sample_args, warmups=0, allow_unused_input=False, asynchronous=False,
 disable_tensor_cache=False, dry_run=False)
wrap_in_hpu_graph(module, asynchronous=False, disable_tensor_cache=False, dry_run=False, max_graphs=None)
wrap_in_hpu_graph_func(func, asynchronous=False, disable_tensor_cache=False, dry_run=False, max_graphs=None)
ModuleCacher.__init__(self, max_graphs=10)
is_current_stream_capturing()
"""
OTHERS = {
    # core/quantization.py
    "htcore": """
hpu_set_env(model=None) hpu_set_inference_env(model=None) hpu_reset_env() hpu_teardown_inference_env()
hpu_initialize(model=None, mark_only_scales_as_const=False, optimizer=None, args=None)
hpu_inference_initialize(model=None, mark_only_scales_as_const=False, optimizer=None, args=None)
""",
    "internal": "is_lazy() lazy_only(func)",
    "metrics": "metric_global(name) metric_localcontext(name) metrics_dump(file_name, format='json')",
}
#: core/step_closure.py: wrapped by ``lazy_only``, so ``inspect`` sees (*args, **kwargs) on Gaudi. Either is accepted.
WRAPPED = "mark_step(device_str='', sync=False) iter_mark_step(device_str='') add_step_closure(closure, args=())"


def _table(module: str, text: str) -> dict[str, list[list[str]]]:
    """Return the signatures of a table in the form of the script's report."""
    table = {}
    for name, parameters in re.findall(r"([\w.]+)\(((?:[^()]|\(\))*)\)", text):
        described = []
        for parameter in filter(None, (p.strip() for p in parameters.split(","))):
            bare, optional, default = parameter.lstrip("*").partition("=")
            kind = "VAR_KEYWORD" if parameter.startswith("**") else "POSITIONAL_OR_KEYWORD"
            described.append([bare, kind, default.strip("'") if optional else "required"])
        table[f"{module}.{name}"] = described
    return table


SIGNATURES = _table("hpu", HPU) | {k: v for module, text in OTHERS.items() for k, v in _table(module, text).items()}
GRAPH_SIGNATURES = _table("hpu", GRAPHS)
WRAPPED_SIGNATURES = _table("htcore", WRAPPED)
ANYTHING = [["args", "VAR_POSITIONAL", "required"], ["kwargs", "VAR_KEYWORD", "required"]]

#: Calls with an extra, missing or misnamed argument.
REFUSED = (
    "synchronize('hpu')",
    "synchronize(device=None)",
    "Stream(non_blocking=True)",
    "Event(blocking=True)",
    "Event(True, True)",
    "Event(interprocess=True)",
    "current_stream(0, 1)",
    "stream.synchronize(1)",
    "stream.wait_event()",
    "event.record(None, 1)",
    "event.elapsed_time()",
    "manual_seed()",
    "memory_stats(0, 1)",
    "set_device()",
)


@pytest.fixture(scope="module", params=["lazy", "eager"])
def found(request: pytest.FixtureRequest, torch_python: Path) -> dict[str, Any]:
    names = [*SIGNATURES, *GRAPH_SIGNATURES, *WRAPPED_SIGNATURES]
    report: dict[str, Any] = run_script(torch_python, "run_signatures.py", request.param, stdin=json.dumps(names))
    return report | {"mode": request.param}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_the_real_one(found: dict[str, Any], name: str) -> None:
    assert found["signatures"][name] == SIGNATURES[name]


@pytest.mark.parametrize("name", GRAPH_SIGNATURES)
def test_graphs_are_there_in_lazy_mode_only(found: dict[str, Any], name: str) -> None:
    if found["mode"] == "lazy":
        assert found["signatures"][name] == GRAPH_SIGNATURES[name]
    else:
        assert str(found["signatures"][name]).startswith("missing")


@pytest.mark.parametrize("name", WRAPPED_SIGNATURES)
def test_lazy_only_functions_have_the_real_signature(found: dict[str, Any], name: str) -> None:
    assert found["signatures"][name] in (WRAPPED_SIGNATURES[name], ANYTHING)


@pytest.mark.parametrize("call", REFUSED)
def test_arguments_that_gaudi_refuses_are_refused(found: dict[str, Any], call: str) -> None:
    assert found["calls"][call] in ("TypeError", "RuntimeError"), found["calls"][call]


def test_mark_step_takes_what_it_takes(found: dict[str, Any]) -> None:
    """Lazy: the real arguments only. Eager: a function that does nothing, whatever its arguments (lazy_only)."""
    calls = found["calls"]
    assert calls["mark_step()"] == calls["mark_step(device_str, sync)"] == "returned None"
    if found["mode"] == "lazy":
        assert calls["mark_step(1, 2, 3)"] == calls["mark_step(flush=True)"] == "TypeError"
    else:
        assert calls["mark_step(1, 2, 3)"] in ("returned None", "TypeError")


def test_nothing_is_offered_that_the_bridge_lacks(found: dict[str, Any]) -> None:
    assert found["extras"] == []


def test_side_effects_of_the_import(found: dict[str, Any]) -> None:
    assert found["alias"]
    assert found["inductor_threads"] == "1"
    assert found["is_lazy"] is (found["mode"] == "lazy")
    assert found["has_graphs"] is (found["mode"] == "lazy")

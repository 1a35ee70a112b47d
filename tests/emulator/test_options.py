"""Options of the device, from code and from the environment."""

from __future__ import annotations

import json

import pytest

from tests.emulator.activations import Run
from tests.emulator.support import ForkServer

pytestmark = pytest.mark.torch


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
    """An option that is silently ignored would make a check pass that should fail."""
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
    """Bridge 1.19 loses (lazy) or misplaces (eager) them; the device can refuse them or behave the same."""
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
    """As with torch.compile(backend="hpu_backend") in eager mode; a second call uses the same recipe."""
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

"""The bridge's requirements on a program beyond when work is done; README.md lists these rules with their sources."""

from __future__ import annotations

import pytest

from tests.emulator.activations import Run

pytestmark = pytest.mark.torch

ACTIVE = """
import torch
import gaudi_patch.emulator as emulator
device = emulator.activate({options})
count = device.counters.snapshot
"""


def program(text: str, options: str = "") -> str:
    """Return a program that runs with an active device."""
    return ACTIVE.format(options=options) + text


LAZY, EAGER = "lazy=True", "lazy=False"


@pytest.mark.parametrize("options", [LAZY, EAGER])
def test_int64_is_never_copied_from_where_it_lies(run: Run, options: str) -> None:
    text = """
for dtype in (torch.int32, torch.int64, torch.float64):
    host = torch.empty(1024, dtype=torch.uint8, pin_memory=True).view(dtype)
    target = torch.empty(host.shape, dtype=dtype, device="hpu")
    device.counters.reset()
    target.copy_(host, non_blocking=True)
    torch.hpu.synchronize()
    print(count()["pinned_copies"], count()["bounce_bytes"])
"""
    assert run(program(text, options)).split() == ["1", "0", "0", "1024", "0", "1024"]


def test_the_operators_of_all_threads_gather_in_one_graph(run: Run) -> None:
    text = """
import threading
t = torch.ones(16, device="hpu")
torch.hpu.synchronize()
device.counters.reset()
for work in (lambda: t.add_(1), lambda: t.mul_(3)):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
t.sub_(1)
torch.hpu.synchronize()
print(count()["ops"], count()["graph_launches"], t.cpu()[0].item())
"""
    assert run(program(text, LAZY)) == "3 1 5.0"
    assert run(program(text, EAGER)) == "3 3 5.0"


@pytest.mark.parametrize(("options", "cached"), [(LAZY, True), (EAGER, False)])
def test_the_current_stream_is_of_a_thread_but_cached_for_all_in_lazy_mode(
    run: Run, options: str, cached: bool
) -> None:
    text = """
import threading
side = torch.hpu.Stream()
torch.hpu.set_stream(side)
def look():
    print(torch.hpu.current_stream() == side, torch._C._accelerator_getStream(0).stream_id == side.stream_id)
thread = threading.Thread(target=look)
thread.start()
thread.join()
look()
"""
    assert run(program(text, options)).splitlines() == [f"{cached} False", "True True"]


@pytest.mark.parametrize(
    ("dtype", "call", "result"),
    [
        ("float32", "t @ t", "bfloat16"),
        ("float32", "t * t", "bfloat16"),
        ("float32", "torch.nn.functional.linear(t, t)", "bfloat16"),
        ("float32", "torch.softmax(t, 0)", "bfloat16"),
        ("bfloat16", "t.exp()", "float32"),
        ("bfloat16", "t / t", "float32"),
        ("bfloat16", "torch.nn.functional.mse_loss(t, t)", "float32"),
        ("float32", "t + t", "float32"),
        ("bfloat16", "t + t", "bfloat16"),
        ("float64", "t @ t", "float64"),
    ],
)
@pytest.mark.parametrize("options", [LAZY, EAGER])
def test_autocast_casts_by_the_bridges_lists(run: Run, options: str, dtype: str, call: str, result: str) -> None:
    text = f"""
t = torch.ones(4, 4, dtype=torch.{dtype}, device="hpu")
with torch.autocast("hpu", dtype=torch.bfloat16):
    print(({call}).dtype)
"""
    assert run(program(text, options)) == f"torch.{result}"


def test_a_copy_from_the_host_into_a_view_is_an_operator_in_lazy_mode(run: Run) -> None:
    text = """
t, host = torch.zeros(4, 16, device="hpu"), torch.ones(16)
torch.hpu.synchronize()
device.counters.reset()
t[1].copy_(host)
torch.hpu.synchronize()
print(count()["h2d_copies"], count()["op_histogram"])
"""
    assert run(program(text, LAZY)) == "1 {'strided_insert': 1}"
    assert run(program(text, EAGER)) == "1 {}"


@pytest.mark.parametrize(("switch", "signatures"), [("", 4), (", signature_offsets=False", 1)])
def test_the_offset_of_a_view_is_part_of_the_signature_unless_switched_off(
    run: Run, switch: str, signatures: int
) -> None:
    text = """
t = torch.ones(64, device="hpu")
torch.hpu.synchronize()
device.counters.reset(signatures=True)
for start in range(0, 64, 16):
    t[start : start + 16] * 2
    torch.hpu.synchronize()
print(count()["graph_compilation"])
"""
    assert run(program(text, LAZY + switch)) == str(signatures)


@pytest.mark.parametrize("options", [LAZY, EAGER])
def test_a_bounce_is_waited_for_where_the_switch_says_so(run: Run, options: str) -> None:
    text = """
out = torch.zeros(64)
out.copy_(torch.full((64,), 3.0, device="hpu"), non_blocking=True)
torch.hpu.synchronize()
print(out[0].item() == 3)
"""
    assert run(program(text, options)) == "False"
    assert run(program(text, f'{options}, bounces="waited"')) == "True"


def test_where_int64_is_supported_it_is_copied_like_everything_else(run: Run) -> None:
    text = """
host = torch.empty(1024, dtype=torch.uint8, pin_memory=True).view(torch.int64)
host.to("hpu", non_blocking=True)
print(count()["bounce_bytes"])
"""
    assert run(program(text), PT_ENABLE_INT64_SUPPORT="1") == "0"


@pytest.mark.parametrize("options", [LAZY, EAGER])
def test_only_the_first_byte_of_an_allocation_is_pinned_and_only_for_the_device(run: Run, options: str) -> None:
    text = """
import warnings
warnings.simplefilter("ignore")
block = torch.empty(64, pin_memory=True)
print(block.is_pinned("hpu"), block[:8].is_pinned("hpu"), block[8:].is_pinned("hpu"), block.is_pinned())
"""
    assert run(program(text, options)) == "True True False False"


def test_no_more_is_pinned_than_the_limit(run: Run) -> None:
    text = """
first = torch.empty(3000, dtype=torch.uint8, pin_memory=True)
for pin in (lambda: torch.empty(2000, dtype=torch.uint8, pin_memory=True), lambda: torch.empty(2000).pin_memory("hpu")):
    try:
        pin()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
del first
print(torch.empty(4096, dtype=torch.uint8, pin_memory=True).is_pinned("hpu"))
"""
    lines = run(program(text, "pinned_bytes=4096")).splitlines()
    assert lines[-1] == "True"
    assert len(lines) == 3
    assert all("synHostMalloc failed to allocate" in line for line in lines[:2])


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        ("cache.index_copy_(0, index, rows)", 0),
        ("cache.index_copy_(0, index, rows); other.index_copy_(0, index, rows)", 0),
        ("cache.index_copy_(0, index, rows); cache.index_copy_(0, index, rows)", 3),
        ("cache.index_copy_(0, index, rows + cache.index_select(0, index))", 2),
    ],
)
def test_a_compiled_graph_writes_in_place_only_what_it_uses_once(run: Run, body: str, whole: int) -> None:
    text = f"""
cache, other = torch.zeros(100, 4, device="hpu"), torch.zeros(100, 4, device="hpu")
index, rows = torch.arange(10, device="hpu"), torch.ones(10, 4, device="hpu")
torch.hpu.synchronize()
device.counters.reset()
torch.ops.hpu_emulator.begin_compiled()
{body}
torch.ops.hpu_emulator.end_compiled()
torch.hpu.synchronize()
print(count()["whole_copies"], count()["whole_copy_bytes"], cache.cpu()[:10].unique().item())
"""
    assert run(program(text, EAGER)) == f"{whole} {whole * 2 * 1600} 1.0"


CARDS = """
import os
def child(work):
    if os.fork() == 0:
        try:
            work()
        except RuntimeError as error:
            print(str(error).splitlines()[0], flush=True)
        else:
            print("taken" if torch.ops.hpu_emulator.acquired() else "not taken", flush=True)
        os._exit(0)
    os.wait()
"""

CLAIMS = (
    'torch.empty(1, device="hpu")',
    "torch.empty(1, pin_memory=True)",
    "torch.hpu.get_device_name()",
    "torch.hpu.get_device_properties()",
    "torch.hpu.current_device()",
    "torch.hpu.synchronize()",
)


def test_a_card_is_held_by_one_process(run: Run) -> None:
    text = CARDS + "\n".join(f"child(lambda: {claim})" for claim in CLAIMS)
    text += '\ntorch.empty(1, device="hpu")\n' + "\n".join(f"child(lambda: {claim})" for claim in CLAIMS)
    lines = run(program(text, "cards=1")).splitlines()
    assert lines[: len(CLAIMS)] == ["taken"] * len(CLAIMS), "each child in turn takes the card, and gives it back"
    assert len(lines) == 2 * len(CLAIMS)
    assert all("synDeviceAcquire failed" in line for line in lines[len(CLAIMS) :]), lines


def test_questions_that_need_no_card_take_none(run: Run) -> None:
    text = CARDS + 'torch.empty(1, device="hpu")\nchild(lambda: (torch.hpu.is_available(), torch.hpu.device_count()))'
    assert run(program(text, "cards=1")) == "not taken"


def test_another_host_has_cards_of_its_own(run: Run) -> None:
    text = CARDS + 'torch.empty(1, device="hpu")\n'
    text += 'os.environ["HPU_EMULATOR_HOST"] = "another"\nchild(lambda: torch.empty(1, device="hpu"))'
    assert run(program(text, "cards=1")) == "taken"


def test_the_pointer_of_a_lazy_storage_says_nothing(run: Run) -> None:
    text = """
t = torch.zeros(4, 4, device="hpu")
same = t[2:].untyped_storage().data_ptr() == t.untyped_storage().data_ptr()
print(same, t[2:]._base is t, t[1].data_ptr() - t.data_ptr())
"""
    assert run(program(text, LAZY)) == "False True 16"
    assert run(program(text, EAGER)) == "True True 16"


@pytest.mark.parametrize(
    ("dtype", "call", "falls_back"),
    [
        ("float8_e4m3fn", "t.index_put_((i,), t[:2].clone())", True),
        ("int8", "t.index_put_((i,), t[:2].clone())", True),
        ("float16", "t.index_put_((i,), t[:2].clone())", True),
        ("bfloat16", "t.index_put_((i,), t[:2].clone())", False),
        ("float8_e4m3fn", "t.gather(0, i)", True),
        ("bfloat16", "t.gather(0, i)", False),
        ("float16", "t.roll(1)", True),
        ("float8_e4m3fn", "t.flip(0)", True),
        ("int16", "t.scatter_(0, i, t[:2].clone())", True),
        ("int8", "t.take(i)", True),
        ("float8_e4m3fn", "t.index_select(0, i)", False),
        ("float8_e4m3fn", "t.index_copy_(0, i, t[:2].clone())", False),
        ("int8", "t.index_copy_(0, i, t[:2].clone())", False),
        ("int64", "t.index_copy_(0, i, t[:2].clone())", True),
    ],
)
def test_what_has_no_kernel_falls_back_to_the_cpu(run: Run, dtype: str, call: str, falls_back: bool) -> None:
    text = f"""
t = torch.zeros(8, dtype=torch.uint8).repeat_interleave(torch.{dtype}.itemsize).view(torch.{dtype}).to("hpu")
i = torch.tensor([1, 3]).to("hpu")
torch.hpu.synchronize()
device.counters.reset()
{call}
torch.hpu.synchronize()
print(count()["cpu_fallback"])
"""
    assert run(program(text)) == str(int(falls_back))

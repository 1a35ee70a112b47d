"""The operators of torch.ops.hpu that vllm-gaudi calls for a KV cache in fp8, compared with the CPU's."""

from __future__ import annotations

import pytest

from tests.emulator.activations import Run

pytestmark = pytest.mark.torch

_START = """
    from gaudi_patch.emulator import activate
    activate()
    import habana_frameworks.torch
    import torch
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(6, 8, generator=generator).to(torch.bfloat16)
    fp8 = torch.float8_e4m3fn
    def bits(tensor):
        return tensor.cpu().contiguous().view(torch.uint8)
"""


def test_a_cast_to_fp8_scales_first_and_rounds_as_the_cpu_does(run: Run) -> None:
    said = run(
        _START
        + """
    for scale in (2.0, torch.tensor(2.0)):
        given = scale if isinstance(scale, float) else scale.to("hpu")
        stored, _ = torch.ops.hpu.cast_to_fp8_v2(rows.to("hpu"), given, False, False, fp8)
        assert torch.equal(bits(stored), bits((rows.float() * 2.0).to(fp8))), scale
        back = torch.ops.hpu.cast_from_fp8(stored, 0.5, torch.bfloat16)
        right = ((rows.float() * 2.0).to(fp8).float() * 0.5).to(torch.bfloat16)
        assert back.dtype == torch.bfloat16 and torch.equal(back.cpu(), right), scale
    _, amax = torch.ops.hpu.cast_to_fp8_v2(rows.to("hpu"), 1.0, False, True, fp8)
    print(amax.item() == rows.abs().max().item())
    """
    )
    assert said == "True"


def test_a_product_in_fp8_is_that_of_the_stored_values_times_both_scales(run: Run) -> None:
    said = run(
        _START
        + """
    left, right = rows.to(fp8), rows.flip(0).to(fp8)
    product = torch.ops.hpu.fp8_gemm_v2(
        A=left.to("hpu"), trans_A=False, B=right.to("hpu"), trans_B=True, D=None, out_dtype=torch.bfloat16,
        A_scale_inv=0.5, B_scale_inv=4.0, bias=None, accumulate=False,
    )
    wanted = ((left.float() * 0.5) @ (right.float() * 4.0).mT).to(torch.bfloat16)
    print(torch.equal(product.cpu(), wanted))
    """
    )
    assert said == "True"


def test_what_is_not_emulated_is_refused(run: Run) -> None:
    said = run(
        _START
        + """
    for call in (
        lambda: torch.ops.hpu.cast_to_fp8_v2(rows.to("hpu"), 1.0, True, False, fp8),
        lambda: torch.ops.hpu.fp8_gemm_v2(rows.to("hpu"), False, rows.to("hpu"), True, None, torch.bfloat16, 1.0, 1.0),
    ):
        try:
            call()
        except (NotImplementedError, TypeError) as error:
            print(type(error).__name__)
    """
    )
    assert said.split() == ["NotImplementedError", "TypeError"]

# mypy: ignore-errors
"""A stub of the fp8 kernel, which is not emulated. It has the same helpers as FusedSDPA."""

from .FusedSDPA import gqa_input_reshape_fwd, gqa_output_reshape, is_gqa


def fp8_fused_sdpa(
    q,
    k,
    v,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    softmax_mode="None",
    d_scale_q=None,
    d_scale_k=None,
    d_scale_v=None,
    q_scale_s=None,
    q_scale_o=None,
    d_scale_s=None,
    is_amax_s=False,
    is_amax_o=False,
    valid_seq_len=None,
    seq_padding_type="left",
    recompute=None,
):
    raise NotImplementedError("hpu emulator: fp8_fused_sdpa is not emulated")

# mypy: ignore-errors
"""Fused attention, composed of plain operators: correct results, but not the kernel's speed or memory use."""

import math

import torch


def is_gqa(q, k):
    return q.dim() == 4 and k.shape[1] not in (1, q.shape[1])


def gqa_input_reshape_fwd(q, k, v, attention_mask):
    """Split the heads into (groups, heads per group), so that keys and values broadcast over the latter."""
    groups = k.shape[1]
    q = q.unflatten(1, (groups, q.shape[1] // groups))
    if attention_mask is not None:
        one_head = attention_mask.shape[1] == 1
        attention_mask = attention_mask.unsqueeze(1) if one_head else attention_mask.unflatten(1, (groups, -1))
    return q, k.unsqueeze(2), v.unsqueeze(2), attention_mask


def gqa_output_reshape(tensor):
    return tensor.flatten(1, 2)


def _padding(keys, valid_seq_len, side):
    position = torch.arange(keys, device=valid_seq_len.device)
    if side == "left":
        position = keys - 1 - position
    return position >= valid_seq_len.view(-1, 1, 1, 1)


class FusedSDPA:
    """Scaled dot product attention: ``FusedSDPA.apply(q, k, v, ...)`` for tensors [batch, heads, tokens, size].

    ``window_size`` and ``sinks`` are newer than bridge 1.19; releases of vllm-gaudi always pass them.
    """

    @staticmethod
    def apply(
        q,
        k,
        v,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        softmax_mode="None",
        recompute_mode=None,
        valid_seq_len=None,
        seq_padding_type="left",
        return_dropout_mask=False,
        return_attn_probs=False,
        window_size=(-1, -1),
        sinks=None,
    ):
        if dropout_p or return_dropout_mask or return_attn_probs or tuple(window_size) != (-1, -1) or sinks is not None:
            raise NotImplementedError(
                "hpu emulator: FusedSDPA with dropout, a window, sinks or more outputs is not emulated"
            )
        grouped = is_gqa(q, k)
        out_type = q.dtype
        if grouped:
            q, k, v, attn_mask = gqa_input_reshape_fwd(q, k, v, attn_mask)
        scores = q.float() @ k.float().transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        queries, keys = scores.shape[-2:]
        if is_causal:
            above = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(above, -math.inf)
        if valid_seq_len is not None:
            hidden = _padding(keys, valid_seq_len, seq_padding_type)
            scores = scores.masked_fill(hidden.unsqueeze(1) if grouped else hidden, -math.inf)
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask.float()
        out = (scores.softmax(-1) @ v.float()).to(out_type)
        return gqa_output_reshape(out) if grouped else out

# mypy: ignore-errors
"""Rotary embeddings in plain operators."""

from enum import Enum

import torch


class RotaryPosEmbeddingMode(Enum):
    """The elements that are rotated together: the two halves, or neighbours."""

    BLOCKWISE = 0
    PAIRWISE = 1


def apply_rotary_pos_emb(p, *args):
    """Return ``p * cos + rotated(p) * sin``; args: cos, sin, position_ids=None, offset=0, mode=BLOCKWISE."""
    if len(args) < 2:
        raise NotImplementedError("hpu emulator: a combined rope cache is not emulated")
    cos, sin, position_ids, offset, mode = (*args, *(None, 0, RotaryPosEmbeddingMode.BLOCKWISE)[len(args) - 2 :])
    if position_ids is not None or offset:
        raise NotImplementedError("hpu emulator: rotary embeddings by position ids or offset are not emulated")
    types = {p.dtype, cos.dtype, sin.dtype}
    common = torch.float32 if torch.float32 in types else p.dtype
    p, cos, sin = p.to(common), cos.to(common), sin.to(common)
    if mode is RotaryPosEmbeddingMode.BLOCKWISE:
        first, second = p.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
    else:
        rotated = torch.stack((-p[..., 1::2], p[..., ::2]), dim=-1).flatten(-2)
    return p * cos + rotated * sin

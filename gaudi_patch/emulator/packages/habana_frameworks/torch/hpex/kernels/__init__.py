# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.hpex.kernels``, as far as vllm-gaudi uses it."""

from .Fp8FusedSDPA import fp8_fused_sdpa
from .FusedSDPA import FusedSDPA
from .RotaryPosEmbeddingHelper import RotaryPosEmbeddingMode, apply_rotary_pos_emb

# mypy: ignore-errors
"""The fp8 operators of ``torch.ops.hpu`` for KV caches and matrix products, composed of the device's own operators.

Schemas: bridge, hpu_ops/op_def.cpp. A scale is a number or a tensor. Numerics are the CPU's: stored values are
multiplied in float32, whereas a Gaudi multiplies in fp8.
"""

import torch

_LIBRARY = torch.library.Library("hpu", "DEF")
_CAST_TO = "stochastic_rounding=False, bool is_amax=False, ScalarType dtype=None, int[]? scale_shape=None"
_FACTORS = "Tensor? bias=None, bool accumulate=False, int[]? B_scale_shape=None) -> Tensor"
_SCHEMAS = (
    f"cast_to_fp8_v2(Tensor input, Tensor? scale=None, bool {_CAST_TO}) -> (Tensor, Tensor)",
    f"cast_to_fp8_v2.scalar(Tensor input, float scale, bool {_CAST_TO}) -> (Tensor, Tensor)",
    "cast_from_fp8(Tensor input, Tensor? scale, ScalarType out_dtype, int[]? scale_shape=None) -> Tensor",
    "cast_from_fp8.scalar(Tensor input, float scale, ScalarType out_dtype, int[]? scale_shape=None) -> Tensor",
    "fp8_gemm_v2(Tensor A, bool trans_A, Tensor B, bool trans_B, Tensor? D, ScalarType out_dtype, "
    f"Tensor? A_scale_inv=None, Tensor? B_scale_inv=None, {_FACTORS}",
    "fp8_gemm_v2.scalar(Tensor A, bool trans_A, Tensor B, bool trans_B, Tensor? D, ScalarType out_dtype, "
    f"float A_scale_inv, float B_scale_inv, {_FACTORS}",
)


def _scaled(tensor, scale, shape):
    tensor = tensor.to(torch.float32)
    if scale is None:
        return tensor
    if shape is not None:
        scale = scale.view(shape)
    return tensor * scale


def _cast_to_fp8_v2(input, scale=None, stochastic_rounding=False, is_amax=False, dtype=None, scale_shape=None):
    if stochastic_rounding:
        raise NotImplementedError("the emulated HPU does not round stochastically")
    amax = input.abs().max().to(torch.float32) if is_amax else torch.empty(0, device=input.device)
    return _scaled(input, scale, scale_shape).to(dtype or torch.float8_e5m2), amax


def _cast_from_fp8(input, scale, out_dtype, scale_shape=None):
    return _scaled(input, scale, scale_shape).to(out_dtype)


def _fp8_gemm_v2(
    A,
    trans_A,
    B,
    trans_B,
    D,
    out_dtype,
    A_scale_inv=None,
    B_scale_inv=None,
    bias=None,
    accumulate=False,
    B_scale_shape=None,
):
    for factor in (A, B):
        if factor.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
            raise TypeError(f"fp8_gemm_v2 takes fp8, not {factor.dtype}")
    left, right = _scaled(A, A_scale_inv, None), _scaled(B, B_scale_inv, B_scale_shape)
    result = torch.matmul(left.mT if trans_A else left, right.mT if trans_B else right)
    if bias is not None:
        result = result + bias
    if accumulate and D is not None:
        result = result + D
    return result.to(out_dtype)


for _schema in _SCHEMAS:
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_name, globals()[f"_{_name.partition('.')[0]}"], "CompositeImplicitAutograd")

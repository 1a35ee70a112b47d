# mypy: ignore-errors
"""The few experimental entry points that vllm-gaudi uses."""

import enum

import torch

# Keep the original: vllm-gaudi replaces torch.Tensor.data_ptr with a function that calls _data_ptr.
_original_data_ptr = torch.Tensor.data_ptr


class synDeviceType(enum.IntEnum):
    """Device generations."""

    synDeviceGaudi = 1
    synDeviceGaudi2 = 4
    synDeviceGaudi3 = 5


def _get_device_type():
    return synDeviceType.synDeviceGaudi2


def _data_ptr(tensor):
    return _original_data_ptr(tensor)

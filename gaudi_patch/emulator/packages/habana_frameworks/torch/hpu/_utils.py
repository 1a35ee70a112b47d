# mypy: ignore-errors
"""Device indices."""

import os

import torch


def _get_device_index(device, optional=False, allow_cpu=False):
    """Return the index of a device: an int, a string, a torch.device, or None (with ``optional``: the current one)."""
    if isinstance(device, int):
        return device
    if isinstance(device, str):
        device = torch.device(device)
    index = None
    if isinstance(device, torch.device):
        if device.type == "cpu" and allow_cpu:
            return -1
        if device.type != "hpu":
            expected = "a hpu or cpu device" if allow_cpu else "a hpu device"
            raise ValueError(f"Expected {expected}, but got: {device}")
        index = device.index
    if index is not None:
        return index
    if optional:
        return 0
    raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")


def _module_id_from_environ():
    return int(os.getenv("HLS_MODULE_ID") or -1)


def _available_modules():
    text = os.getenv("HABANA_VISIBLE_MODULES", "0,1,2,3,4,5,6,7")
    modules = [int(part) for part in text.split(",")]
    assert 0 < len(modules) <= 8, "HABANA_VISIBLE_MODULES does not have valid value."
    return modules

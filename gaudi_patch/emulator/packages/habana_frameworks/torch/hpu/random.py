# mypy: ignore-errors
"""The device's random generator."""

import torch

from ._utils import _get_device_index

default_generators = [torch.ops.hpu_emulator.default_generator()]

__all__ = [
    "get_rng_state",
    "get_rng_state_all",
    "initial_seed",
    "manual_seed",
    "manual_seed_all",
    "seed",
    "seed_all",
    "set_rng_state",
    "set_rng_state_all",
]


def get_rng_state(device="hpu"):
    if _get_device_index(device, optional=True) != 0:
        raise RuntimeError("hpu get_rng_state supports only device 0")
    return default_generators[0].get_state()


def set_rng_state(new_state, device="hpu"):
    if _get_device_index(device, optional=True) != 0:
        raise RuntimeError("hpu set_rng_state supports only device 0")
    default_generators[0].set_state(new_state)


def get_rng_state_all():
    return [get_rng_state(0)]


def set_rng_state_all(new_states):
    if len(new_states) != 1:
        raise RuntimeError("hpu set_rng_state_all supports only states len of 1")
    set_rng_state(new_states[0], 0)


def manual_seed(seed):
    return default_generators[0].manual_seed(int(seed))


def manual_seed_all(seed):
    manual_seed(seed)


def seed():
    return default_generators[0].seed()


def seed_all():
    seed()


def initial_seed():
    return default_generators[0].initial_seed()

"""Pickle, torch.save and load, state dicts, shared storages."""

from __future__ import annotations

import io
import pickle

import torch

from ._case import OnHost, Target, check, compare, normal, pattern


def _saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


@compare
def save_and_load_to_the_same_device(on: Target):
    value = {"a": on(pattern(torch.bfloat16, 3, 4)), "b": [on(torch.arange(3)), 5, "text"]}
    return torch.load(_saved(value), map_location=on.type)


@compare
def save_and_load_to_the_cpu(on: Target):
    loaded = torch.load(_saved({"x": on(pattern(torch.float16, 5))}), map_location="cpu")
    return OnHost(loaded["x"])


@compare
def load_a_cpu_file_to_the_device(on: Target):
    return torch.load(_saved([torch.arange(4), normal(2, 2)]), map_location=torch.device(on.type))


@compare
def pickle_round_trip(on: Target):
    t = pickle.loads(pickle.dumps(on(pattern(torch.int16, 4, 2))))
    return OnHost(t.cpu())


@compare
def saved_after_a_pending_operation(on: Target):
    t = on(torch.zeros(4))
    t += 3
    return torch.load(_saved(t), map_location=on.type)


@compare
def state_dict_round_trip(on: Target):
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).to(on.type)
    other = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).to(on.type)
    other.load_state_dict(torch.load(_saved(model.state_dict()), map_location=on.type))
    return dict(other.state_dict())


@compare
def weights_only_load(on: Target):
    return torch.load(_saved({"w": on(normal(3))}), weights_only=True, map_location=on.type)


@compare
def fp8_is_saved(on: Target):
    return torch.load(_saved(on(pattern(torch.float8_e4m3fn, 8))), map_location=on.type)


@compare
def storage_access(on: Target):
    t = on(torch.arange(6, dtype=torch.int32))
    storage = t[2:].untyped_storage()
    return storage.nbytes(), OnHost(torch.tensor(storage.cpu().tolist()[:8])), len(t.untyped_storage())


@check
def the_device_survives_pickling():
    t = pickle.loads(pickle.dumps(torch.arange(3, device="hpu")))
    assert t.device == torch.device("hpu", 0)
    assert t.cpu().tolist() == [0, 1, 2]


@check
def sharing_with_another_process_raises():
    """There is no inter-process handle for device memory."""
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing

    from ._case import raises

    raises(
        (RuntimeError, NotImplementedError, AttributeError), lambda: ForkingPickler.dumps(torch.ones(2, device="hpu"))
    )

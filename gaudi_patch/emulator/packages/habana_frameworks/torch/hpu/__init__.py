# mypy: ignore-errors
"""Mirrors ``habana_frameworks.torch.hpu``, which is also ``torch.hpu``.

Signatures are exactly those of bridge 1.19: ``synchronize()``, for example, accepts no argument.
"""

import contextlib
import os
import threading
import warnings

import torch

from habana_frameworks.torch.utils.internal import is_lazy

from . import metrics, random
from ._utils import _available_modules, _get_device_index, _module_id_from_environ
from .events import Event
from .memory import (
    max_memory_allocated,
    max_memory_cached,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_cached,
    memory_reserved,
    memory_stats,
    memory_summary,
    reset_accumulated_memory_stats,
    reset_peak_memory_stats,
)
from .metrics import metric_global, metric_localcontext, metrics_dump
from .random import *
from .random import default_generators
from .streams import (
    Stream,
    StreamContext,
    current_stream,
    default_stream,
    get_stream_info,
    record_stream,
    set_stream,
    stream,
)

if is_lazy():
    from . import graphs
    from .graphs import (
        HPUGraph,
        ModuleCacher,
        graph,
        is_current_stream_capturing,
        make_graphed_callables,
        wrap_in_hpu_graph,
        wrap_in_hpu_graph_func,
    )

_initialized = False
_flags = {"deterministic": False, "dynamic_shape": False, "inference": False, "quantization": False, "recompute": True}


def init():
    _lazy_init()


def _lazy_init():
    """Acquire a card for this process, as the bridge does (hpu/__init__.py:67-91)."""
    global _initialized
    torch.ops.hpu_emulator.acquire()
    _initialized = True


def _is_in_bad_fork():
    return False


def is_initialized():
    return _initialized


def is_available():
    return True


def device_count():
    return 1


def current_device():
    _lazy_init()
    return 0


def synchronize():
    """Wait for all work on the device, including a pending lazy graph."""
    _lazy_init()
    torch.ops.hpu_emulator.synchronize()


def _checked_index(device):
    _lazy_init()
    index = _get_device_index(device, optional=True)
    if index < 0 or index >= device_count():
        raise AssertionError("Invalid device id")
    return index


def get_device_name(device=None):
    _checked_index(device)
    return "GAUDI2"


def get_device_capability(device=None):
    _checked_index(device)
    return "1.19.0"


def get_device_properties(device=None):
    """Return a string, not an object with fields."""
    _checked_index(device)
    return "(sramBaseAddress=0, dramBaseAddress=0, sramSize=0, dramSize=0, tpcEnabledMask=0, dramEnabled=1, fd=0)"


def can_device_access_peer(device, peer_device):
    if _checked_index(device) == _checked_index(peer_device):
        raise AssertionError("Both the ids are same.")
    return True


def get_gencode_flags():
    return ""


def get_arch_list():
    return [get_device_name(current_device())]


def is_bf16_supported():
    return True


def set_sync_debug_mode(debug_mode):
    os.environ["PT_ENABLE_HABANA_STREAMASYNC"] = str(debug_mode)


def get_sync_debug_mode():
    return int(os.environ["PT_ENABLE_HABANA_STREAMASYNC"])


def setDeterministic(val):
    warnings.warn("torch.hpu.setDeterministic is deprecated. Please use torch.use_deterministic_algorithms instead.")
    _flags["deterministic"] = bool(val)


def getDeterministic():
    warnings.warn(
        "torch.hpu.getDeterministic is deprecated. Please use torch.are_deterministic_algorithms_enabled instead."
    )
    return _flags["deterministic"]


def set_autocast_hpu_enabled(enabled):
    torch.set_autocast_enabled("hpu", enabled)


def is_autocast_hpu_enabled():
    return torch.is_autocast_enabled("hpu")


def set_autocast_hpu_dtype(dtype):
    torch.set_autocast_dtype("hpu", dtype)


def get_autocast_hpu_dtype():
    return torch.get_autocast_dtype("hpu")


def get_amp_supported_dtype():
    return [torch.bfloat16, torch.float16]


def enable_dynamic_shape():
    _flags["dynamic_shape"] = True


def disable_dynamic_shape():
    _flags["dynamic_shape"] = False


def get_dynamic_shape_status():
    return _flags["dynamic_shape"]


def enable_inference_mode():
    _flags["inference"] = True


def disable_inference_mode():
    _flags["inference"] = False


def enable_quantization():
    _flags["quantization"] = True


def disable_quantization():
    _flags["quantization"] = False


def enable_matmul3d_2d_reshape():
    pass


def disable_matmul3d_2d_reshape():
    pass


def enable_recompute_sdp(enabled):
    _flags["recompute"] = bool(enabled)


def recompute_sdp_enabled():
    return _flags["recompute"]


@contextlib.contextmanager
def sdp_kernel(enable_recompute=True):
    before = recompute_sdp_enabled()
    try:
        enable_recompute_sdp(enable_recompute)
        yield {}
    finally:
        enable_recompute_sdp(before)


def set_device(device):
    """Accept only index 0, unless HABANA_VISIBLE_MODULES or HLS_MODULE_ID is set (hpu/__init__.py:321-359)."""
    index = _get_device_index(device, optional=True)
    modules = _available_modules()
    if index not in modules and index > len(modules):
        raise AssertionError(f"Trying to open device with idx={index} when only {modules} are avaliable)")
    module = _module_id_from_environ()
    if module >= 0:
        if modules[0] == module:
            index = 0
        assert modules[index] == module, (
            f"Requested module_id={modules[index]} is different from current_module_id={module} "
            "which was previously set."
        )
    if module == -1 and "HABANA_VISIBLE_MODULES" not in os.environ:
        assert index == 0, "As HABANA_VISIBLE_MODULES is not provided, the only supported device idx is 0."
    else:
        os.environ["HLS_MODULE_ID"] = str(modules[index])
    set_device.current_device_idx = index


set_device.current_device_idx = -1


class device:
    """A context manager that selects a device; the only device is 0."""

    def __init__(self, device):
        index = _get_device_index(device, optional=True)
        environ = _module_id_from_environ()
        if index not in (0, environ):
            raise AssertionError(f"Requested device_id={index} is different from env_device_id={environ}")
        self.idx = environ
        self.prev_idx = -1

    def __enter__(self):
        self.prev_idx = set_device.current_device_idx
        if self.idx not in (-1, self.prev_idx):
            set_device(self.idx)

    def __exit__(self, type, value, traceback):
        # The bridge sets self.idx again here, which raises (or selects the last module) after any set_device(0). This
        # emulates the intention instead.
        if self.prev_idx not in (-1, self.idx):
            set_device.current_device_idx = self.prev_idx
        return False


class device_of(device):
    """A context manager that selects the device of a tensor."""

    def __init__(self, obj):
        super().__init__(obj.get_device() if obj.is_hpu else -1)


def memory_usage(device=None):
    return memory_stats(device)["InUse"]


def utilization(device=None):
    _checked_index(device)
    raise ModuleNotFoundError("pyhlml module not found, please install pyhlml")


def _typed(name, dtype):
    def __new__(cls, *args, **kwargs):
        for key, fixed in (("device", "hpu"), ("dtype", dtype)):
            given = kwargs.get(key)
            if given is not None and given != fixed:
                raise RuntimeError(f"legacy constructor expects {key}: {fixed} but {key}: {given} was passed")
        kwargs.update(device="hpu", dtype=dtype)
        return torch.Tensor._make_subclass(cls, torch.tensor(*args, **kwargs))

    return type(name, (torch.Tensor,), {"__new__": __new__})


BFloat16Tensor = _typed("BFloat16Tensor", torch.bfloat16)
BoolTensor = _typed("BoolTensor", torch.bool)
ByteTensor = _typed("ByteTensor", torch.uint8)
CharTensor = _typed("CharTensor", torch.int8)
DoubleTensor = _typed("DoubleTensor", torch.float64)
FloatTensor = _typed("FloatTensor", torch.float32)
HalfTensor = _typed("HalfTensor", torch.float16)
IntTensor = _typed("IntTensor", torch.int32)
LongTensor = _typed("LongTensor", torch.int64)
ShortTensor = _typed("ShortTensor", torch.int16)

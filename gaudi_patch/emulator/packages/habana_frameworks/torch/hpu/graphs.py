# mypy: ignore-errors
"""HPU graphs. Capture and replay of a graph are not emulated: the wrapped function is simply called.

The visible behaviour is kept: a launch before and after separates each call of a wrapped module from other work.
"""

import functools

import torch


def is_current_stream_capturing():
    return False


def input_hash(obj):
    """Hash nested inputs: tensors by shape, strides, dtype and device, everything else by value."""
    if isinstance(obj, dict):
        return hash(tuple((key, input_hash(value)) for key, value in sorted(obj.items())))
    if isinstance(obj, (list, tuple)):
        return hash(tuple(input_hash(element) for element in obj))
    if torch.is_tensor(obj):
        return hash((obj.shape, obj.stride(), obj.dtype, obj.device))
    return hash(obj)


class HPUGraph:
    """A graph that records nothing: work between capture_begin and capture_end runs as issued; replay is refused."""

    def capture_begin(self, dry_run=False):
        torch.ops.hpu_emulator.mark_step(False)

    def capture_end(self):
        torch.ops.hpu_emulator.mark_step(False)

    def replay(self, asynchronous=False):
        raise NotImplementedError("hpu emulator: replaying a captured HPUGraph is not emulated")

    def replayV2(self, static_tlist, tlist, asynchronous=False):
        self.replay(asynchronous)

    def replayV3(self, tlistI, asynchronous=False):
        self.replay(asynchronous)

    def clear_inputs(self):
        pass

    def mark_user_outputs(self, static_tlist):
        pass

    def mark_user_inputs(self, static_tlist):
        pass

    def reset(self):
        pass


class graph:
    """A context manager for the work to capture into an HPUGraph."""

    def __init__(self, hpu_graph, stream=None, dry_run=False):
        self.hpu_graph = hpu_graph
        self.dry_run = dry_run
        self.stream_ctx = torch.hpu.stream(stream)

    def __enter__(self):
        self.stream_ctx.__enter__()
        self.hpu_graph.capture_begin(self.dry_run)

    def __exit__(self, exc_type, exc_value, traceback):
        self.hpu_graph.capture_end()
        return self.stream_ctx.__exit__(exc_type, exc_value, traceback)


def _in_a_launch_of_its_own(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        if kwargs.pop("bypass_hpu_graphs", False):
            return function(*args, **kwargs)
        torch.ops.hpu_emulator.mark_step(False)
        result = function(*args, **kwargs)
        torch.ops.hpu_emulator.mark_step(False)
        return result

    return call


def wrap_in_hpu_graph_func(func, asynchronous=False, disable_tensor_cache=False, dry_run=False, max_graphs=None):
    return _in_a_launch_of_its_own(func)


def wrap_in_hpu_graph(module, asynchronous=False, disable_tensor_cache=False, dry_run=False, max_graphs=None):
    if not isinstance(module, torch.nn.Module):
        return wrap_in_hpu_graph_func(module, asynchronous, disable_tensor_cache, dry_run, max_graphs)
    module.forward = _in_a_launch_of_its_own(module.forward)
    module.clear_cache = lambda: None
    module.clear_inputs = lambda: None
    return module


def make_graphed_callables(
    callables,
    sample_args,
    warmups=0,
    allow_unused_input=False,
    asynchronous=False,
    disable_tensor_cache=False,
    dry_run=False,
):
    return callables


class ModuleCacher(torch.nn.Module):
    """A wrapper of a model's forward in cached graphs; here it returns the model unchanged."""

    def __init__(self, max_graphs=10):
        super().__init__()
        self.max_graphs = max_graphs

    def __call__(
        self,
        model,
        use_lfu=False,
        inplace=True,
        allow_unused_input=False,
        asynchronous=False,
        have_grad_accumulation=False,
        log_frequency=100,
        verbose=False,
        disable_tensor_cache=False,
        dry_run=False,
    ):
        return model

"""Deliberate faults: if a check does not notice one, the check itself has failed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
else:  # run by path, beside this file
    import _probe

    from _vllm import engine as vllm_engine


@contextlib.contextmanager
def replaced(module: str, name: str, value: Foreign) -> Iterator[None]:
    """Inject a fault into the patched LMCache: replace a module's function within the block."""
    place = _probe.load(module)
    original = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, original)


def tensors(objects: Sequence[Foreign]) -> list[Foreign]:
    """Return the tensors of memory objects, as bytes."""
    torch = _probe.load("torch")
    return [memory_object.tensor.view(torch.uint8) for memory_object in objects]


@contextlib.contextmanager
def changed(objects: Sequence[Foreign], change: Callable[[list[Foreign]], None]) -> Iterator[None]:
    """Change cached objects within the block; restore them at its end."""
    found = tensors(objects)
    kept = [tensor.clone() for tensor in found]
    change([memory_object.tensor for memory_object in objects])
    try:
        yield
    finally:
        for tensor, before in zip(found, kept, strict=True):
            tensor.copy_(before)


def zero(found: list[Foreign]) -> None:
    """Zero all KV, as if the load had been skipped."""
    for tensor in found:
        tensor.zero_()


def negate(found: list[Foreign]) -> None:
    """Negate all KV."""
    for tensor in found:
        tensor.copy_(-tensor.float())  # by way of float32: PyTorch negates no fp8


def exchange(found: list[Foreign]) -> None:
    """Replace the second half's KV by the first half's, chunk by chunk, like another request's KV."""
    half = len(found) // 2
    for first, other in zip(found[:half], found[half:], strict=True):
        before = first.clone()
        first.copy_(other)
        other.copy_(before)


#: The faults of this process that other calls of ``collective_rpc`` take back; used in worker processes.
_put_in = contextlib.ExitStack()


@contextlib.contextmanager
def negated_loads(engine: vllm_engine.Engine) -> Iterator[None]:
    """All KV that LMCache loads in the block comes with the other sign, on every rank: not what was stored."""
    engine.llm.collective_rpc(_negate_loads)
    try:
        yield
    finally:
        engine.llm.collective_rpc(_take_back)


def _negate_loads(worker: Foreign) -> None:
    """Put the fault into the process of a worker."""
    _put_in.enter_context(_negated(vllm_engine.worker_adapter().lmcache_engine.gpu_connector))


def _take_back(worker: Foreign) -> None:
    """Take the faults out of it again."""
    _put_in.close()


@contextlib.contextmanager
def _negated(connector: Foreign) -> Iterator[None]:
    """Let one connector load all KV with the other sign."""
    synchronize = _probe.load("torch").hpu.synchronize
    names = [name for name in ("batched_to_gpu", "to_gpu") if hasattr(connector, name)]
    originals = {name: getattr(connector, name) for name in names}

    def load(original: Callable[..., Foreign]) -> Callable[..., Foreign]:
        def loading(objects: Foreign, *arguments: Foreign, **options: Foreign) -> Foreign:
            loaded = list(objects) if isinstance(objects, (list, tuple)) else [objects]
            with changed(loaded, negate):
                answer = original(objects, *arguments, **options)
                synchronize()  # the device may read the objects after the call
                return answer

        return loading

    for name in names:
        setattr(connector, name, load(originals[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(connector, name, originals[name])


@contextlib.contextmanager
def failed_loads_unknown(worker: Foreign) -> Iterator[None]:
    """Disable, within the block, everything that reports a failed load to vLLM in multiprocess mode.

    These are the code in LMCache's adapter that withholds the load and, under vllm-gaudi, the code that completes the
    runner's reports; and the report of a step without a forward pass, which comes sooner or later on a busy machine.
    """
    loads = worker.__dict__.pop("gaudi_loads")
    worker.get_block_ids_with_load_errors = set
    runner = sys.modules.get("vllm_gaudi.v1.worker.hpu_model_runner")
    report = getattr(runner, "KVConnectorOutput", None)
    completed = getattr(report, "completed_by_gaudi", False)
    if completed:
        runner.KVConnectorOutput = report.__wrapped__  # type: ignore[union-attr]
    try:
        yield
    finally:
        worker.gaudi_loads = loads
        del worker.get_block_ids_with_load_errors
        if completed:
            runner.KVConnectorOutput = report  # type: ignore[union-attr]


class UnsynchronisedStores:
    """While active, LMCache's connector stores without waiting for the device.

    The content of the memory objects when the store returns is noted, because a storage backend would write that.
    """

    def __init__(self, engine: vllm_engine.Engine) -> None:
        self._connector = engine.adapter.lmcache_engine.gpu_connector
        self._noted: list[tuple[Foreign, Foreign]] = []

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make stores in the block not wait."""
        names = [name for name in ("batched_from_gpu", "from_gpu") if hasattr(self._connector, name)]
        originals = {name: getattr(self._connector, name) for name in names}
        for name in names:
            setattr(self._connector, name, self._store(originals[name]))
        try:
            yield
        finally:
            for name in names:
                setattr(self._connector, name, originals[name])

    def put_back(self) -> int:
        """Write the noted content into the objects, as if read from storage; return their number."""
        for memory_object, content in self._noted:
            tensors([memory_object])[0].copy_(content)
        return len(self._noted)

    def _store(self, original: Callable[..., Foreign]) -> Callable[..., Foreign]:
        def store(objects: Foreign, *arguments: Foreign, **options: Foreign) -> Foreign:
            with _without_waiting():
                answer = original(objects, *arguments, **options)
                stored = objects if isinstance(objects, (list, tuple)) else [objects]
                self._noted += [(entry, tensors([entry])[0].clone()) for entry in stored]
            return answer

        return store


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    hpu = _probe.load("torch").hpu
    places = [(hpu, "synchronize"), (hpu.Event, "synchronize"), (hpu.Stream, "synchronize")]
    originals = [(place, name, place.__dict__[name]) for place, name in places if name in place.__dict__]
    try:
        for place, name, _ in originals:
            setattr(place, name, lambda *arguments: None)
        yield
    finally:
        for place, name, original in originals:
            setattr(place, name, original)
        hpu.synchronize()

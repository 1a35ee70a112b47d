"""LMCache's interfaces by release (0.3.7 to 0.5.6): the only place that knows their differences."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import pkgutil
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, beside this file
    import _environment
    import _probe

INSTANCE = "gaudi-patch-smoke"


def release() -> tuple[int, ...]:
    """Return the release as numbers: ``(0, 3, 9)`` for 0.3.9.post1."""
    match = re.match(r"\d+(?:\.\d+)*", _environment.lmcache_version())
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def runtime_modules() -> list[str]:
    """Return the runtime's modules by full name, its package first; empty if LMCache is not patched."""
    try:
        spec = importlib.util.find_spec("lmcache.gaudi")
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return []
    found = pkgutil.walk_packages(list(spec.submodule_search_locations), "lmcache.gaudi.")
    return ["lmcache.gaudi", *sorted(module.name for module in found)]


def serves_multiprocess() -> bool:
    """Return whether this release's multiprocess server can run without CUDA (it imports CuPy before 0.4.7)."""
    return release() >= (0, 4, 7)


@contextlib.contextmanager
def vllm_platform() -> Iterator[None]:
    """Show LMCache, where vLLM is not installed, the platform that vllm-gaudi registers.

    Releases before 0.4.5 ask ``vllm.platforms.current_platform`` for the device. vllm-gaudi's answers
    neither ``is_cuda_alike()`` nor ``is_xpu()``, and has the device type ``hpu``.
    """
    if _environment.installed("vllm"):
        yield
        return
    package, platforms = types.ModuleType("vllm"), types.ModuleType("vllm.platforms")
    platforms.current_platform = types.SimpleNamespace(  # type: ignore[attr-defined]
        is_cuda_alike=lambda: False,
        is_cuda=lambda: False,
        is_rocm=lambda: False,
        is_xpu=lambda: False,
        device_type="hpu",
        device_name="hpu",
    )
    package.platforms = platforms  # type: ignore[attr-defined]
    stand_ins = {"vllm": package, "vllm.platforms": platforms}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def detected_device() -> str:
    """Return the device type chosen by LMCache in this process."""
    lmcache = _probe.load("lmcache")
    if hasattr(lmcache, "torch_device_type"):  # from 0.4.5
        return str(lmcache.torch_device_type)
    utils = _probe.load("lmcache.integration.vllm.utils")
    if hasattr(utils, "get_vllm_torch_dev"):  # 0.3.14 to 0.4.4
        with vllm_platform():
            return str(utils.get_vllm_torch_dev()[1])
    # Earlier, the vLLM adapter assumes CUDA; patched, it asks the runtime.
    if _environment.is_patched() and _probe.load("lmcache.gaudi.device").is_available():
        return "hpu"
    return "cuda"


def make_config(**settings: object) -> Foreign:
    """Return an engine configuration from defaults and ``settings``, independent of the process's environment."""
    config = _probe.load("lmcache.v1.config").LMCacheEngineConfig.from_defaults(**settings)
    config.validate()
    return config


def make_metadata(
    *,
    kv_shape: tuple[int, int, int, int, int],
    dtype: Foreign,
    use_mla: bool,
    rank: int = 0,
    ranks: int = 1,
) -> Foreign:
    """Return engine metadata of one rank, by default the only one; kv_shape: (layers, 1 or 2, chunk, heads, head
    size).
    """
    values: dict[str, object] = {
        "model_name": "smoke",
        "world_size": ranks,
        "local_world_size": ranks,
        "worker_id": rank,
        "local_worker_id": rank,
        "fmt": "vllm",
        "kv_dtype": dtype,
        "kv_shape": kv_shape,
        "use_mla": use_mla,
        "role": "worker",
        "chunk_size": kv_shape[2],
    }
    if importlib.util.find_spec("lmcache.v1.metadata") is not None:  # from 0.3.13
        cls = _probe.load("lmcache.v1.metadata").LMCacheMetadata
    else:
        cls = _probe.load("lmcache.config").LMCacheEngineMetadata
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})


def make_connector(config: Foreign, metadata: Foreign) -> Foreign:
    """Return the connector between vLLM's caches and memory objects that LMCache chooses for this device."""
    package = _probe.load("lmcache.v1.gpu_connector")
    if not hasattr(package, "CreateGPUConnector"):
        # Before 0.3.14 the vLLM adapter chooses, and it needs vLLM; patched, it calls this function.
        if not _environment.is_patched():
            raise RuntimeError(
                f"LMCache {_environment.lmcache_version()} has no connector for HPU: its vLLM adapter supports only "
                f"CUDA"
            )
        engine = types.SimpleNamespace(name="VLLM")
        return _probe.load("lmcache.gaudi.connector").create_connector(config, metadata, engine)
    utils = _probe.load("lmcache.utils")
    vllm = utils.EngineType.VLLM if hasattr(utils, "EngineType") else "vllm"  # a string in 0.3.14
    with vllm_platform():
        return package.CreateGPUConnector(config, metadata, vllm)


def register(connector: Foreign, kvcaches: Sequence[Foreign]) -> None:
    """Register the caches with the connector, as the vLLM adapter does after loading the model."""
    if hasattr(connector, "initialize_kvcaches_ptr"):
        connector.initialize_kvcaches_ptr(kvcaches=list(kvcaches))


def object_shapes(metadata: Foreign, connector: Foreign, tokens: int) -> tuple[list[tuple[int, ...]], list[Foreign]]:
    """Return the shapes and dtypes of a memory object's tensors for ``tokens`` tokens, from the engine's own source."""
    if hasattr(metadata, "get_shapes"):  # from 0.3.12
        return [tuple(shape) for shape in metadata.get_shapes(tokens)], list(metadata.get_dtypes())
    return [tuple(connector.get_shape(tokens))], [metadata.kv_dtype]


def object_tensors(memory_object: Foreign, count: int) -> list[Foreign]:
    """Return the tensors of a memory object, ``[kv, layers, tokens, width]`` each."""
    if count == 1:
        return [memory_object.tensor]
    return [memory_object.get_tensor(number) for number in range(count)]


def object_on_device(memory_object: Foreign) -> Foreign:
    """Return a memory object with the same content on the HPU, as on the first rank after a broadcast (MLA)."""
    management = _probe.load("lmcache.v1.memory_management")
    raw = memory_object.raw_tensor if hasattr(memory_object, "raw_tensor") else memory_object.tensor.view(-1)
    return management.TensorMemoryObj(raw_data=raw.to("hpu"), metadata=memory_object.metadata, parent_allocator=None)


class Allocator:
    """The allocator that LMCache's CPU backend uses, with one pool of ``size`` bytes.

    one_buffer: always use LMCache's own pool; patched, its CPU backend uses a pool that pins each object.
    """

    def __init__(self, size: int, *, one_buffer: bool = False) -> None:
        try:
            module = _probe.load("lmcache.v1.memory_allocators.mixed_memory_allocator")  # from 0.5.1
        except ModuleNotFoundError:
            module = _probe.load("lmcache.v1.memory_management")
        pool = module.MixedMemoryAllocator
        if _environment.is_patched() and not one_buffer:
            pool = _probe.load("lmcache.gaudi.allocator").memory_pool(make_config(), pool)
        self._allocator = pool(size)
        self._formats = _probe.load("lmcache.v1.memory_management").MemoryFormat
        self._torch = _probe.load("torch")
        parameters = inspect.signature(self._allocator.allocate).parameters
        self._lists = "shapes" in parameters  # from 0.3.12

    def allocate(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Foreign], *, use_mla: bool) -> Foreign:
        """Return a memory object with tensors ``[kv, layers, tokens, width]``; kv is 1 for MLA, else 2."""
        fmt = self._formats.KV_MLA_FMT if use_mla else self._formats.KV_2LTD
        sizes = [self._torch.Size(shape) for shape in shapes]
        arguments = (sizes, list(dtypes)) if self._lists else (sizes[0], dtypes[0])
        memory_object = self._allocator.allocate(*arguments, fmt)
        if memory_object is None:
            raise MemoryError(f"LMCache's allocator has no room for {shapes}")
        return memory_object

    def close(self) -> None:
        """Release the pool."""
        self._allocator.close()


class Answers:
    """LMCache's ``LMCacheAsyncLookupServer``: it is told what a lookup has brought, and would tell the scheduler."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}
        self._news = threading.Condition()

    def send_response_to_scheduler(self, lookup_id: str, tokens: int) -> None:
        """Take an answer, in whatever thread it comes."""
        with self._news:
            self._said[lookup_id] = tokens
            self._news.notify_all()

    def wait(self, lookup_id: str, within: float) -> int:
        """Return the answer for a lookup; -1 where it does not come in so many seconds."""
        with self._news:
            self._news.wait_for(lambda: lookup_id in self._said, within)
            return self._said.pop(lookup_id, -1)


@contextlib.contextmanager
def _short_naps(module: Foreign) -> Iterator[None]:
    """Shorten a sleep: before 0.3.10, closing an engine waits for 10 s of its statistics thread (observability.py)."""
    made = module.LMCacheStatsLogger
    if release() < (0, 3, 10):
        module.LMCacheStatsLogger = lambda metadata, log_interval: made(metadata, log_interval=0.1)
    try:
        yield
    finally:
        module.LMCacheStatsLogger = made


def make_engine(
    config: Foreign,
    metadata: Foreign,
    connector: Foreign,
    broadcast: Callable[[Foreign, int], None],
    broadcast_object: Callable[[object, int], object],
    **services: Foreign,
) -> Foreign:
    """Return a cache engine with its storage backends running; end it with ``close_engine``.

    services: what its ``post_init`` is given, in the releases that have one.
    """
    module = _probe.load("lmcache.v1.cache_engine")
    with _short_naps(module):
        engine = module.LMCacheEngineBuilder.get_or_create(
            INSTANCE,
            config,
            metadata,
            connector,
            broadcast,
            broadcast_object,
        )
    if hasattr(engine, "post_init"):
        engine.post_init(**services)
    return engine


def close_engine() -> None:
    """Stop the engine and its backends, and release its memory."""
    _probe.load("lmcache.v1.cache_engine").LMCacheEngineBuilder.destroy(INSTANCE)

"""Loads of LMCache's multiprocess mode that fail, and waits for its server, without vLLM and without a server.

A stand-in has the names of LMCache's adapters that the runtime uses. Where the release serves an HPU in this mode, its
own adapters are asked, too.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._kernel_cases import server_memory
    from gaudi_patch.smoke.probes._kernel_cases.stand_in import Adapter, Silent
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _probe
    from _kv import lmcache as kv_lmcache

    from _kernel_cases import server_memory
    from _kernel_cases.stand_in import Adapter, Silent

_RUNNER = "vllm_gaudi.v1.worker.hpu_model_runner"
_AT_ONCE_SECONDS = 20.0  # of waits that would last 300


def check_multiprocess(probe: _probe.Probe) -> None:
    """All rules, then a transfer."""
    module = _probe.load("lmcache.gaudi.multiprocess")
    with probe.section("failed loads"):
        for answer in (False, RuntimeError("put in on purpose")):
            _withheld(probe, module, answer)
        _ended(probe, module)
    with probe.section("failed stores"):
        _stores(probe, module)
    with probe.section("a request whose load failed is looked up again"):
        _promised_once(probe, module)
    with probe.section("reports of vllm-gaudi's runner"):
        _reports(probe, module)
    with probe.section("a server that does not answer"):
        _waits(probe, module)
    with probe.section("a server smaller than one prompt"):
        _small_server(probe, module)
    with probe.section("a short answer"):
        for chunks, taken in (([1, 2], [1, 2]), ([1], None), (None, None)):
            found = module.whole_answer(chunks, [[1, 2, 3, 4]], 2)
            probe.check(found == taken, f"{chunks} for four blocks, two in a chunk: taken for {found}, not {taken}")
    if kv_lmcache.release() >= (0, 5, 5):
        with probe.section("LMCache's own adapters"):
            _adapters(probe, module)
        with probe.section("lookups of a dead server"):
            _heartbeats(probe)
        with probe.section("a transfer through shared memory"):
            server_memory.check_transfer(probe)


def _worker(module: Foreign) -> Foreign:
    return module.withhold_failed_loads(type("Worker", (Adapter,), dict(vars(Adapter))))()


def _op(*blocks: int, skip: int = 0) -> Foreign:
    return SimpleNamespace(flat_block_ids=list(blocks), skip_first_n_tokens=skip)


def _withheld(probe: _probe.Probe, module: Foreign, answer: bool | Exception) -> None:
    """A failed load is not finished in steps in which nobody asks for its blocks."""
    adapter = _worker(module)
    adapter.submit_retrieve_request("sound", _op(1, 2))
    adapter.answer = answer
    try:
        adapter.submit_retrieve_request("failed", _op(3, 4, 5, 6, skip=32))
    except RuntimeError as error:
        probe.fail(f"a load that could not be asked for ends the engine: {error}")
        return
    for step, expected in (("first", {"sound"}), ("second", set())):
        _, finished = adapter.get_finished(set())
        probe.check(finished == expected, f"{answer!r}, {step} step: {finished} are finished, not {expected}")
    blocks = adapter.get_block_ids_with_load_errors()
    probe.check(blocks == {4, 5, 6}, f"{answer!r}: blocks {blocks} are invalid; 3 is vLLM's, 4, 5 and 6 were to come")
    for step, expected in (("first", {"failed"}), ("second", set())):
        _, finished = adapter.get_finished(set())
        probe.check(
            finished == expected, f"{answer!r}, {step} step after vLLM knew: {finished} are finished, not {expected}"
        )


def _ended(probe: _probe.Probe, module: Foreign) -> None:
    """A request that is ended while its failed load is withheld: its blocks are another one's by then."""
    adapter = _worker(module)
    adapter.answer = False
    adapter.submit_retrieve_request("ended", _op(3, 4))
    adapter.get_finished(set())
    told = adapter.get_finished({"ended"})
    probe.check(told == ({"ended"}, set()), f"an ended request is reported as {told}")
    blocks = adapter.get_block_ids_with_load_errors()
    probe.check(not blocks, f"blocks {blocks} are reported as invalid after they were given to another request")
    probe.check(not adapter._failed_request_ids, "an ended request counts as failed, and its name may come again")
    probe.check(adapter.get_finished(set()) == (set(), set()), "an ended request is reported twice")


def _stores(probe: _probe.Probe, module: Foreign) -> None:
    """A store that the server does not answer costs a hit; what LMCache holds for it is let go as for a dropped one."""
    for lazy in (False, True):
        adapter = _worker(module)
        adapter.lazy_offload, adapter._completed_store_requests, adapter._failed_store_requests = lazy, {}, set()
        adapter.answer = TimeoutError("put in on purpose")
        try:
            adapter.submit_store_request("stored", _op(1, 2))
        except TimeoutError as error:
            probe.fail(f"a store that the server does not answer ends the engine: {error}")
            return
        told = (adapter._completed_store_requests, adapter._failed_store_requests)
        due = ({"stored": 1}, {"stored"}) if lazy else ({}, set())
        probe.check(told == due, f"lazy offload {lazy}: the store is reported as {told}, not {due}")


def _promised_once(probe: _probe.Probe, module: Foreign) -> None:
    """It is computed: a second hit would be waited for, or fail in the same way."""
    asked: list[str] = []

    class Scheduler:
        def __init__(self) -> None:
            self._finished_lookup_results = {"failed": 64, "missed": 0}

        def maybe_submit_lookup_request(self, request_id: str) -> None:
            asked.append(request_id)

        def cleanup_lookup_result(self, request_id: str) -> None:
            self._finished_lookup_results.pop(request_id, None)

        def end_session(self, request_id: str) -> None:
            """End it."""

    scheduler = module.promise_once(Scheduler)()
    for name in ("failed", "missed"):
        scheduler.maybe_submit_lookup_request(name)
        scheduler.cleanup_lookup_result(name)
        scheduler.maybe_submit_lookup_request(name)
    probe.check(asked == ["failed", "missed", "missed"], f"asked for {asked}: a request with a hit once, others again")
    asked.clear()
    scheduler.end_session("failed")
    scheduler.maybe_submit_lookup_request("failed")
    probe.check(asked == ["failed"], "another request of the same name is not looked up")


def _adapters(probe: _probe.Probe, module: Foreign) -> None:
    """They follow the rules above; without a server, whatever goes further than the rules fails."""
    own = _probe.load("lmcache.integration.vllm.vllm_multi_process_adapter")
    refusal = _probe.load("lmcache.gaudi.guards").GaudiError
    worker = object.__new__(own.LMCacheMPWorkerAdapter)
    vars(worker).update(vars(Adapter()), lmcache_tokens_per_chunk=64, blocks_in_chunk=2, kv_caches={"layer": object()})
    worker.gaudi_loads = module.FailedLoads(worker)
    try:
        worker.submit_retrieve_request("failed", _op(1, 2), None)
    except Exception as error:
        probe.fail(f"a load that could not be asked for ends the engine: {_probe.describe(error)}")
    else:
        probe.check(worker.error_block_ids == {1, 2}, f"blocks {worker.error_block_ids} count as failed, not 1 and 2")
    worker.store_futures = {}
    try:
        worker.submit_store_request("stored", _op(1, 2), None)
    except Exception as error:
        probe.fail(f"a store that could not be asked for ends the engine: {_probe.describe(error)}")
    else:
        probe.check(not worker.store_futures, "a store that could not be asked for is waited for")
    try:
        worker.register_kv_caches({"layer": object()})
    except refusal as error:
        probe.check("once more" in str(error), str(error))
    except Exception as error:
        probe.fail(f"caches are taken once more, and it ends by {_probe.describe(error)}")
    scheduler = object.__new__(own.LMCacheMPSchedulerAdapter)
    scheduler._finished_lookup_results = {"failed": 64}
    for name in ("_pending_lookups", "_unacked_lookups", "_lookup_status", "_per_server_hits", "_lookup_params"):
        setattr(scheduler, name, set() if name == "_pending_lookups" else {})
    scheduler.cleanup_lookup_result("failed")
    try:
        scheduler.maybe_submit_lookup_request("failed", token_ids=[])
    except AttributeError as error:  # on the way to the server
        probe.fail(f"a request whose load failed is looked up again: {error}")
    else:
        probe.check(True, "it is computed")


def _heartbeats(probe: _probe.Probe) -> None:
    """The scheduler's side pings its server, and so knows that it is dead before a lookup has waited 300 s for it."""
    own = _probe.load("lmcache.integration.vllm.vllm_multi_process_adapter")
    one = own.ParallelStrategy(mla_only=False, vllm_world_size=1, vllm_worker_id=0, tp_size=1, pp_size=1, n_servers=1)
    dead = SimpleNamespace(ping=_dead, close=lambda: None)
    kept = own.RequestClientFactory, own.get_lmcache_chunk_size
    own.RequestClientFactory = SimpleNamespace(create=lambda *given, **more: dead)
    own.get_lmcache_chunk_size = lambda *given, **more: 64
    try:
        scheduler = own.LMCacheMPSchedulerAdapter(["tcp://nowhere"], None, "model", 32, one)
    finally:
        own.RequestClientFactory, own.get_lmcache_chunk_size = kept
    scheduler._ensure_heartbeat_started()
    started = dict(scheduler._heartbeats)
    try:
        deadline = time.monotonic() + _AT_ONCE_SECONDS
        while scheduler.is_healthy and started and time.monotonic() < deadline:
            time.sleep(0.01)
        probe.check(bool(started), "no heartbeat was started")
        probe.check(not scheduler.is_healthy, "a server that answers no ping counts as healthy")
    finally:
        for heartbeat in started.values():
            heartbeat.stop()


def _dead(*given: object) -> Foreign:
    raise TimeoutError


def _reports(probe: _probe.Probe, module: Foreign) -> None:
    """They name the failed blocks in every step, whatever vllm-gaudi fills in."""
    invalid = {7}
    group = SimpleNamespace(get_block_ids_with_load_errors=lambda: set(invalid))

    def output(*, invalid_block_ids: set[int] | None = None) -> SimpleNamespace:
        return SimpleNamespace(invalid_block_ids=invalid_block_ids or set())

    with (
        _module(_RUNNER, KVConnectorOutput=output) as runner,
        _module("vllm.distributed.kv_transfer", get_kv_transfer_group=lambda: group),
    ):
        probe.check(module.complete_reports() and module.complete_reports(), "the runner's reports stay as they are")
        reported = runner.KVConnectorOutput().invalid_block_ids
        probe.check(reported == {7}, f"blocks {reported} are reported, not 7")
        own = runner.KVConnectorOutput(invalid_block_ids={1}).invalid_block_ids
        probe.check(own == {1}, f"blocks {own} are reported in the place of the runner's own")


def _waits(probe: _probe.Probe, module: Foreign) -> None:
    """A wait ends with the server's life, and after a bound where it lives and says nothing."""
    adapter = _worker(module)
    threading.Timer(0.2, lambda: setattr(adapter, "is_healthy", False)).start()
    _ends(probe, "a dead server", lambda: adapter.req_client.prepare_retrieve("key", 1).result(timeout=300))
    adapter.is_healthy = True
    _ends(probe, "a dead server at the end", lambda: adapter.req_client.unregister_kv_cache().result(timeout=300))
    watched = _probe.load("lmcache.gaudi.watched")
    usual, watched._DATA_SECONDS = watched._DATA_SECONDS, 0.3
    try:
        probe.check(usual <= 30, f"a server that answers pings alone is waited for {usual} s")  # LMCache: 300
        _ends(probe, "a server that hangs", lambda: adapter.req_client.prepare_retrieve("key", 1).result(timeout=300))
    finally:
        watched._DATA_SECONDS = usual
    probe.check(isinstance(adapter.req_client.ping(), Silent), "the heartbeat itself waits for the heartbeat")


def _ends(probe: _probe.Probe, what: str, wait: Callable[[], object]) -> None:
    said: list[str] = []

    def run() -> None:
        try:
            wait()
        except TimeoutError:
            said.append("")
        except Exception as error:
            said.append(_probe.describe(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_AT_ONCE_SECONDS)
    probe.check(said == [""], f"{what}: {said[0] if said else f'still waited for after {_AT_ONCE_SECONDS:g} s'}")


def _small_server(probe: _probe.Probe, module: Foreign) -> None:
    torch, refusal = _probe.load("torch"), _probe.load("lmcache.gaudi.guards").GaudiError
    planes = [torch.zeros(8, 16, 2, 64, dtype=torch.bfloat16, device="hpu") for _ in range(8)]
    caches = {f"layer.{n}": (planes[2 * n], planes[2 * n + 1]) for n in range(4)}
    config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=4096))
    whole = 2 * 4096 * 4 * 2 * 2 * 64 * 2  # ranks, tokens, layers, K and V, heads, their size, bytes
    with _module("vllm.config", get_current_vllm_config_or_none=lambda: config):
        for what, size, refused in (("enough", whole, False), ("a byte short", whole - 1, True), ("unknown", 0, False)):
            adapter = _worker(module)
            adapter.pool_size = size
            try:
                adapter.register_kv_caches(caches)
            except refusal as error:
                probe.check(refused and "--l1-size-gb" in str(error), f"{what}: {error}")
            else:
                probe.check(not refused, f"{what}: a server that holds less than one prompt is taken")


@contextlib.contextmanager
def _module(name: str, **content: object) -> Iterator[Foreign]:
    """A module of this name and content, in the place of what is there, for the time of the block."""
    before, module = sys.modules.get(name), ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    try:
        yield module
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before

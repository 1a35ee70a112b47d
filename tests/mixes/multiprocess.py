"""Serve mixes in LMCache's multiprocess mode, as its connector for vLLM does, and compare all KV.

The server is LMCache's own, in a process of its own. The scheduler's side and a worker's side for each rank are
LMCache's, too. Several requests of a mix are served at once, in steps: loads begin while others compute, and what they
compute overwrites the blocks of those that have ended.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _children
import _probe
import numpy as np

from tests.mixes import generator, tap
from tests.mixes.rows import BLOCK, CHUNK, Rows, make_caches, vllm_request
from tests.mixes.ways import Way

_PATIENCE_SECONDS = 60.0
_MODEL = "mixes"


class Rank:
    """One rank: its caches, and LMCache's worker side over them."""

    def __init__(self, way: Way, url: str, number: int, memory: tap.Memory) -> None:
        adapters: Any = _probe.load("lmcache.integration.vllm.vllm_multi_process_adapter")
        self.number = number
        self.rng = np.random.default_rng(number)
        self.caches = make_caches(mla=way.mla, rng=self.rng)
        self.worker = adapters.LMCacheMPWorkerAdapter(
            url, _context(), _MODEL, BLOCK, strategy(way, number), extra_config={}
        )
        self.worker.req_client = tap.Tap(self.worker.req_client, memory, number)
        layers = {f"layer.{place}": entry for place, entry in enumerate(self.caches.entries)}
        self.worker.register_kv_caches(layers, layout_hints={"kv_layout": "NHD"})

    def write_elsewhere(self, taken: set[int]) -> None:
        """Let requests of others compute: their writes are pending on the device."""
        self.caches.write_pending([slot for slot in range(0, self.caches.slots, 7) if slot not in taken])


class Running:
    """A request that is served, with its rows on each rank.

    found: tokens that LMCache promised. computed: tokens with KV. stored: tokens that LMCache has. limit: it is
    preempted when that many are computed. loading: its load has begun and not ended, on these ranks.
    """

    def __init__(self, request: generator.Request, name: str, salt: str) -> None:
        self.request, self.name, self.salt = request, name, salt
        self.tokens = list(request.tokens)
        self.local, self.found, self.computed, self.stored = request.local, 0, 0, 0
        middle = max(len(request.tokens) // 2, request.local) + 1
        self.limit = middle if request.outputs else len(request.tokens)
        self.preempted = False
        self.rows: list[Rows] = []
        self.loading: set[int] = set()

    def operation(self, rank: int, start: int, end: int, skip: int = 0) -> Any:
        """Return what LMCache's connector gives to a rank's worker, for whole chunks."""
        kind: Any = _probe.load("lmcache.integration.vllm.vllm_multi_process_adapter").LoadStoreOp
        blocks = self.rows[rank].blocks[start // BLOCK : end // BLOCK]
        return kind(token_ids=self.tokens, block_ids=[blocks], start=start, end=end, skip_first_n_tokens=skip)


class Server:
    """LMCache's two sides over its server, and what was stored there."""

    def __init__(self, probe: _probe.Probe, way: Way, url: str) -> None:
        adapters: Any = _probe.load("lmcache.integration.vllm.vllm_multi_process_adapter")
        self.probe, self.way = probe, way
        self.salt: Any = _probe.load("lmcache.gaudi.identity").salt
        self.must_compute: Any = _probe.load("lmcache.gaudi.adapter").must_compute
        self.stored = generator.Stored(CHUNK, tails=False)
        self.counts = dict.fromkeys(("requests", "hits", "hit_tokens", "preempted"), 0)
        self.memory = tap.Memory(overwrites=way.overwrites)
        self.names = 0
        self.scheduler = adapters.LMCacheMPSchedulerAdapter(
            [url], _context(), _MODEL, BLOCK, strategy(way, 0), extra_config={}
        )
        self.ranks = [Rank(way, url, number, self.memory) for number in range(way.ranks)]
        kind = type(self.ranks[0].worker.transfer_ctx.engine_driven_context).__name__
        wanted = "EngineDrivenContextPickle" if way.pickled else "EngineDrivenContextShm"
        probe.check(wanted in kind or not way.pickled, f"the transfers are {kind}, not {wanted}")

    def close(self) -> None:
        """Stop both sides."""
        for rank in self.ranks:
            rank.worker.shutdown()
        self.scheduler.shutdown()

    def serve_mix(self, number: int, requests: Sequence[generator.Request], name: str) -> None:
        """Serve a mix, one to three requests at once."""
        source = random.Random(f"waves {number}")
        left = list(enumerate(requests))
        while left:
            count = source.choice((1, 2, 3))
            wave, left = left[:count], left[count:]
            with self.probe.section(f"{name}: mix {number}: requests {wave[0][0]} to {wave[-1][0]}"):
                self._wave([request for _, request in wave])

    def _wave(self, requests: Sequence[generator.Request]) -> None:
        arriving = [self._arrive(request) for request in requests]
        due = list(arriving)
        running: list[Running] = []
        while arriving or running:
            if arriving:  # one per step: its load begins while the others compute
                run = arriving.pop(0)
                self._allocate(run, running)
                running.append(run)
                self._begin_load(run)
            self._step(running)
            self._finish(running)
        self.memory.restore()
        for run in due:
            kept = run.request.tokens[: len(run.request.tokens) // CHUNK * CHUNK]
            if kept:
                self.stored.note(run.request, kept)
                found = self._found_again(run, kept)
                self._judge(found, len(kept), f"{run.name}: {found} of {len(kept)} stored tokens are found")
        for problem in self.memory.problems:
            self.probe.fail(problem)
        self.memory.problems.clear()

    def _arrive(self, request: generator.Request) -> Running:
        self.names += 1
        self.counts["requests"] += 1
        run = Running(request, f"request-{self.names}", self.salt(vllm_request(request)))
        run.found = self._lookup(run, run.name, run.tokens)
        due = self.stored.due(request)
        what = f"{run.name}, of {request.identity}"
        self._judge(
            run.found, due, f"{what}: {run.found} of {len(run.tokens)} tokens promised, {due} were stored for it"
        )
        return run

    def _judge(self, found: int, due: int, message: str) -> None:
        """Check a promise. A small server forgets chunks before they are in its directory, and may promise less."""
        self.probe.check(found <= due and found % CHUNK == 0 if self.way.below else found == due, message)

    def _lookup(self, run: Running, name: str, tokens: Sequence[int]) -> int:
        """Return LMCache's promise; wait for chunks that are stored in the background."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        self.scheduler.maybe_submit_lookup_request(name, list(tokens), cache_salt=run.salt)
        while (found := self.scheduler.check_lookup_result(name)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name}: the server does not answer a lookup")
            time.sleep(0.001)
        return int(found)

    def _found_again(self, run: Running, tokens: Sequence[int]) -> int:
        """Return how many stored tokens are found."""
        name = f"{run.name}-again"
        found = self._lookup(run, name, tokens)
        self._unlock(run, name, tokens, found)
        self.scheduler.end_session(name)
        return found

    def _unlock(self, run: Running, name: str, tokens: Sequence[int], end: int) -> None:
        self.scheduler.cleanup_lookup_result(name)
        if end:
            self.scheduler.free_lookup_locks(list(tokens), 0, end, name, cache_salt=run.salt)

    def _allocate(self, run: Running, running: Sequence[Running]) -> None:
        run.rows = []
        for rank in self.ranks:
            taken = {block for other in running for block in other.rows[rank.number].blocks}
            rows = Rows(
                rank.caches,
                run.request,
                run.tokens,
                mla=self.way.mla,
                number=rank.number,
                rng=rank.rng,
                taken=taken,
            )
            run.rows.append(rows)
            self.memory.expected[run.name, rank.number] = rows.rows

    def _begin_load(self, run: Running) -> None:
        loads = run.found > run.local
        self._unlock(run, run.name, run.tokens, run.local if loads else run.found)
        run.stored = run.found
        run.computed = max(run.local, min(run.found, len(run.tokens) - 1))
        if not loads:
            for rows in run.rows:
                rows.compute(0, run.local)
            return
        self.counts["hits"] += 1
        self.counts["hit_tokens"] += run.found - run.local
        start = run.local // CHUNK * CHUNK
        for rank, rows in zip(self.ranks, run.rows, strict=True):
            # The blocks that vLLM shares are not LMCache's business: a load may not touch their contents.
            if run.local:
                rank.caches.write_pending(rows.slots[: run.local])
            event = rank.worker.create_recorded_event()
            operation = run.operation(rank.number, start, run.found, skip=run.local - start)
            run.loading.add(rank.number)
            rank.worker.batched_submit_retrieve_requests([run.name], [operation], event, cache_salts=[run.salt])

    def _step(self, running: Sequence[Running]) -> None:
        """Compute a part of each request whose load has ended, and store the chunks that are whole then."""
        stores: list[tuple[Running, int, int]] = []
        for run in running:
            if run.loading or run.computed >= run.limit:
                continue
            stop = min(run.computed + run.request.step, run.limit)
            for rows in run.rows:
                rows.compute(run.computed, stop)
            run.computed = stop
            end = min(stop, len(run.request.tokens)) // CHUNK * CHUNK  # of the prompt alone, as LMCache's default
            if end > run.stored:
                stores.append((run, run.stored, end))
                run.stored = end
        for rank in self.ranks:
            if stores:
                event = rank.worker.create_recorded_event()
                operations = [run.operation(rank.number, start, end) for run, start, end in stores]
                names, salts = [run.name for run, _, _ in stores], [run.salt for run, _, _ in stores]
                rank.worker.batched_submit_store_requests(names, operations, event, cache_salts=salts)
            rank.write_elsewhere({slot for run in running for slot in run.rows[rank.number].slots})

    def _finish(self, running: list[Running]) -> None:
        """Ask what has ended; check loads, preempt, and free the blocks of the requests that are complete."""
        self._loads_ended(running)
        for run in list(running):
            if run.loading or run.computed < run.limit:
                continue
            if run.request.outputs and not run.preempted:
                self._preempt(run, running)
                continue
            self.scheduler.end_session(run.name)
            self._wait_for_stores(run)
            for rank, rows in zip(self.ranks, run.rows, strict=True):
                problem = rows.wrong()
                self.probe.check(not problem, f"{run.name}, rank {rank.number}: {problem}")
                rows.free()
            running.remove(run)

    def _loads_ended(self, running: Sequence[Running]) -> None:
        for rank in self.ranks:
            _, received = rank.worker.get_finished(set())
            for run in running:
                if rank.number in run.loading and run.name in (received or ()):
                    run.loading.discard(rank.number)
                    run.rows[rank.number].expect(run.local, run.found)
                    problem = run.rows[rank.number].wrong()
                    self.probe.check(not problem, f"{run.name}, rank {rank.number}, after the load: {problem}")
                    run.rows[rank.number].compute(0, run.local)
            failed = rank.worker.get_block_ids_with_load_errors()
            self.probe.check(not failed, f"rank {rank.number}: the blocks {sorted(failed)} could not be loaded")

    def _preempt(self, run: Running, running: Sequence[Running]) -> None:
        """Take its blocks away, as vLLM does between two steps, and resume it with a part of its answer."""
        run.preempted = True
        self.counts["preempted"] += 1
        for rank, rows in zip(self.ranks, run.rows, strict=True):
            rank.worker.handle_preemptions(True)
            rows.free()
        source = np.random.default_rng(run.request.tokens[0])
        run.tokens += [int(token) for token in source.integers(0, generator.VOCABULARY, run.request.outputs)]
        resumed = SimpleNamespace(num_output_tokens=run.request.outputs, skip_reading_prefix_cache=False)
        # vllm-gaudi answers wrongly after a hit of a resumed request, whatever is loaded.
        self.probe.check(self.must_compute(resumed), f"{run.name}, resumed with outputs: may be loaded")
        run.local = run.found = run.computed = run.stored = 0
        run.limit = len(run.tokens)
        self._allocate(run, [other for other in running if other is not run])

    def _wait_for_stores(self, run: Running) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for rank in self.ranks:
            ended = {run.name}
            while run.name not in (rank.worker.get_finished(ended)[0] or ()):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{run.name}: its store does not end")
                ended = set()
                time.sleep(0.001)


def strategy(way: Way, number: int) -> Any:
    """Return how vLLM's ranks share the KV."""
    kind: Any = _probe.load("lmcache.integration.vllm.vllm_multi_process_adapter").ParallelStrategy
    return kind(
        mla_only=way.mla, vllm_world_size=way.ranks, vllm_worker_id=number, tp_size=way.ranks, pp_size=1, n_servers=1
    )


def _context() -> Any:
    return _probe.load("zmq").Context.instance()


@contextlib.contextmanager
def server(way: Way, folder: Path) -> Iterator[str]:
    """Run LMCache's server for a way; yield its URL, and stop it at the end.

    Raises RuntimeError if it does not come up.
    """
    port = _free_port()
    shared = Path("/dev/shm") / f"lmcache_l1_pool_gaudi-patch-{port}"
    below = {"type": "fs_native", "base_path": str(folder), "relative_tmp_dir": "tmp", "max_capacity_gb": 1.0}
    below["eviction"] = {"eviction_policy": "LRU"}
    command = [
        *(sys.executable, "-m", "lmcache.v1.multiprocess.server", "--host", "127.0.0.1", "--port", str(port)),
        *("--chunk-size", str(CHUNK), "--eviction-policy", "LRU", "--prometheus-port", str(_free_port())),
        *(() if way.pickled else ("--no-l1-use-lazy", "--shm-name", f"gaudi-patch-{port}")),
        *("--supported-transfer-mode", "auto", *way.server),
        *(("--l2-adapter", json.dumps(below)) if way.below else ()),
    ]
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = _children.start(command, output=stream)
    try:
        _wait_for(port, process, log)
        yield f"tcp://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        shared.unlink(missing_ok=True)  # a killed server leaves it


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: Any, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise RuntimeError(f"LMCache's server does not start: {lines[-1] if lines else 'it printed nothing'}")

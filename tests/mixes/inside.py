"""Serve mixes of requests from LMCache's engine on the emulated HPU, as its vLLM adapter does, and compare all KV.

Run by the interpreter that has LMCache and PyTorch, under the emulator: ``inside.py --result FILE --rules lazy --device
emulated --way WAY ... --mix NUMBER ...``. There is no vLLM: a request's KV is a hash of its owner and of the tokens up
to it, so an answer is right if and only if all KV in its blocks is. Every block of other requests must stay unchanged.
LMCache's promises are compared with what was stored, in both directions.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = REPOSITORY / "gaudi_patch" / "smoke"
sys.path[:0] = [str(SMOKE / "probes"), str(SMOKE / "vllm_plugin")]
sys.path.append(str(REPOSITORY))
import _probe  # noqa: E402
import numpy as np  # noqa: E402
from _kv import backends as kv_backends  # noqa: E402
from _kv import device as kv_device  # noqa: E402
from _kv import lmcache as kv_lmcache  # noqa: E402
from _kv import ranks as kv_ranks  # noqa: E402

from tests.mixes import generator, multiprocess, rows  # noqa: E402
from tests.mixes.rows import BLOCK, CHUNK, LONGEST  # noqa: E402
from tests.mixes.ways import WAYS, Way  # noqa: E402

_SETTLE_SECONDS = 20.0


class Rank:
    """One rank: its caches, and an engine over them."""

    def __init__(self, way: Way, settings: dict[str, object], number: int, wire: kv_ranks.Wire) -> None:
        self.number, self.way = number, way
        self.answers = kv_lmcache.Answers()
        self.rng = np.random.default_rng(number)
        self.caches = rows.make_caches(mla=way.mla, rng=self.rng)
        config = kv_lmcache.make_config(
            chunk_size=CHUNK, save_unfull_chunk=way.tails, reserve_local_cpu_size=0.0, **settings
        )
        shape = (rows.LAYERS, self.caches.kv, CHUNK, rows.heads(mla=way.mla)[0], rows.head_size(mla=way.mla))
        metadata = kv_lmcache.make_metadata(
            kv_shape=shape, dtype=self.caches.dtype, use_mla=way.mla, rank=number, ranks=way.ranks
        )
        connector = kv_lmcache.make_connector(config, metadata)
        ends = (wire.receive_tensor, wire.receive_object) if number else (wire.send_tensor, wire.send_object)
        self.instance = f"mixes-{number}"
        with self.named():
            services = {"async_lookup_server": self.answers} if way.asynchronous else {}
            self.engine = kv_lmcache.make_engine(config, metadata, connector, *ends, **services)
        kv_lmcache.register(connector, self.caches.entries)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """LMCache identifies engines by name: each rank has its own."""
        before, kv_lmcache.INSTANCE = kv_lmcache.INSTANCE, self.instance
        try:
            yield
        finally:
            kv_lmcache.INSTANCE = before

    def lookup(self, tokens: Any, name: str, more: dict[str, Any]) -> int:
        """Return the number of tokens that LMCache promises to a request."""
        if not self.way.asynchronous:
            return int(self.engine.lookup(tokens, lookup_id=name, pin=True, **more))
        self.engine.async_lookup_and_prefetch(lookup_id=name, tokens=tokens, pin=True, **more)
        return self.answers.wait(name, _SETTLE_SECONDS)

    def close(self) -> None:
        """Stop the engine."""
        with self.named():
            kv_lmcache.close_engine()


class Serving(rows.Rows):
    """A request on one rank, served from LMCache's engine."""

    def __init__(self, rank: Rank, request: generator.Request, tokens: Sequence[int], configs: Any) -> None:
        super().__init__(rank.caches, request, tokens, mla=rank.way.mla, number=rank.number, rng=rank.rng)
        self.rank, self.configs = rank, configs
        # Other requests' writes are still running on the device; a load that waits too briefly collides with them.
        taken = set(self.slots)
        rank.caches.write_pending([slot for slot in range(0, rank.caches.slots, 7) if slot not in taken])

    def load(self, found: int, local: int, name: str) -> int:
        """Load the promised tokens after vLLM's own; return how many arrived."""
        torch = _probe.load("torch")
        skipped = local // CHUNK * CHUNK
        mask = torch.ones(found, dtype=torch.bool)
        mask[:skipped] = False
        arguments = {**self._arguments(found, name), "vllm_cached_tokens": local}
        retrieved = self.rank.engine.retrieve(torch.tensor(self.tokens[:found]), mask, **arguments)
        self.expect(local, found)
        return int(retrieved.sum()) + skipped

    def store(self, end: int, skipped: int, name: str) -> None:
        """Store the positions up to ``end``; the first ``skipped`` are already stored."""
        torch = _probe.load("torch")
        if end <= skipped:
            return
        mask = torch.ones(end, dtype=torch.bool)
        mask[:skipped] = False
        self.rank.engine.store(torch.tensor(self.tokens[:end]), mask=mask, **self._arguments(end, name))

    def _arguments(self, end: int, name: str) -> dict[str, Any]:
        slots = _probe.load("torch").tensor(self.slots[:end], dtype=_probe.load("torch").int64)
        given = {"kvcaches": self.rank.caches.entries, "slot_mapping": slots, "req_id": name}
        return given | ({"request_configs": self.configs} if self.configs else {})


class Server:
    """The ranks over one way, and what was stored there."""

    def __init__(self, probe: _probe.Probe, way: Way, settings: dict[str, object]) -> None:
        self.probe, self.way = probe, way
        self.wire = kv_ranks.Wire()
        self.adapter: Any = _probe.load("lmcache.gaudi.adapter")
        self.stored = generator.Stored(CHUNK, tails=way.tails)
        self.served = 0
        self.counts = dict.fromkeys(("requests", "hits", "hit_tokens", "preempted"), 0)
        self.ranks: list[Rank] = []
        for number in range(way.ranks):
            self.ranks.append(Rank(way, settings, number, self.wire))

    def close(self) -> None:
        """Stop all engines, the last one first."""
        for rank in reversed(self.ranks):
            rank.close()

    def serve_mix(self, number: int, requests: Sequence[generator.Request], name: str) -> None:
        """Serve a mix, one request after the other."""
        for place, request in enumerate(requests):
            what = f"{len(request.tokens)} tokens of {request.identity}"
            with self.probe.section(f"{name}: mix {number}: request {place}, {what}"):
                self.serve(request)

    def serve(self, request: generator.Request) -> None:
        """Serve a request, and resume it if it was preempted."""
        self.counts["requests"] += 1
        whole = not request.outputs
        # At least one token is computed; otherwise, nothing would be stored after vLLM's own tokens.
        middle = max(len(request.tokens) // 2, request.local) + 1
        self._prefill(request, request.tokens, request.local, until=None if whole else middle)
        if whole:
            return
        self.counts["preempted"] += 1
        source = np.random.default_rng(request.tokens[0])
        outputs = [int(token) for token in source.integers(0, generator.VOCABULARY, request.outputs)]
        resumed = SimpleNamespace(num_output_tokens=request.outputs, skip_reading_prefix_cache=False)
        # vllm-gaudi answers wrongly after a hit of a resumed request, whatever is loaded.
        self.probe.check(self.adapter.must_compute(resumed), f"resumed with {request.outputs} outputs: may be loaded")
        self._prefill(request, (*request.tokens, *outputs), 0, until=None, lookup=False)

    def _prefill(
        self,
        request: generator.Request,
        tokens: Sequence[int],
        local: int,
        *,
        until: int | None,
        lookup: bool = True,
    ) -> None:
        """Look up, load, compute and store; ``until`` limits how far the request gets."""
        self.served += 1
        name = f"request-{self.served}"
        configs = self.adapter.tag_identity(rows.vllm_request(request), None)
        found = self._lookup(request, tokens, configs, name) if lookup else 0
        length = len(tokens) if until is None else until
        runs = [Serving(rank, request, tokens, configs) for rank in self.ranks]
        loads = found > local
        for run in runs:
            if loads:
                # The blocks that vLLM shares are not LMCache's business: a load may not touch their contents.
                if local:
                    run.rank.caches.write_pending(run.slots[:local])
                came = run.load(found, local, name)
                self.probe.check(came == found, f"rank {run.rank.number}: {came} tokens came, {found} were promised")
                problem = run.wrong()
                self.probe.check(not problem, f"rank {run.rank.number}, after the load: {problem}")
            run.compute(0, local)
        self._unpin(name)
        computed = max(local, min(found, len(tokens) - 1))
        skipped = found // CHUNK * CHUNK
        for run in runs:
            self._compute(run, request, name, computed, skipped, length)
        for run in runs:
            problem = run.wrong()
            self.probe.check(not problem, f"rank {run.rank.number}: {problem}")
            run.free()
        kept = tokens[:length] if length == len(tokens) else tokens[: length // CHUNK * CHUNK]
        if not (length == len(tokens) and self.way.tails):
            kept = kept[: len(kept) // CHUNK * CHUNK]
        if kept:
            self.stored.note(request, kept)
            self._settle(request, kept, configs)
        if loads:
            self.counts["hits"] += 1
            self.counts["hit_tokens"] += found - local

    def _compute(
        self, run: Serving, request: generator.Request, name: str, computed: int, skipped: int, length: int
    ) -> None:
        while computed < length:
            stop = min(computed + request.step, length)
            run.compute(computed, stop)
            end = stop if stop == len(run.tokens) and self.way.tails else stop // CHUNK * CHUNK
            run.store(end, skipped, name)
            computed, skipped = stop, max(skipped, end // CHUNK * CHUNK)

    def _lookup(self, request: generator.Request, tokens: Sequence[int], configs: Any, name: str) -> int:
        """Return LMCache's promise; ask every rank that holds data of its own."""
        asked = self.ranks[:1] if self.way.mla else self.ranks
        arguments = {"request_configs": configs} if configs else {}
        tensor = _probe.load("torch").tensor(list(tokens))
        found = min(rank.lookup(tensor, name, arguments) for rank in asked)
        due = self.stored.due(request)
        self.probe.check(found == due, f"{found} of {len(tokens)} tokens are promised, {due} were stored for it")
        return found

    def _unpin(self, name: str) -> None:
        lists = _probe.load("lmcache.gaudi.compat").unpins_lists
        for rank in self.ranks:
            rank.engine.lookup_unpin([name] if lists(rank.engine) else name)

    def _settle(self, request: generator.Request, tokens: Sequence[int], configs: Any) -> None:
        """Wait until chunks stored in the background can be found."""
        arguments = {"request_configs": configs} if configs else {}
        tensor = _probe.load("torch").tensor(list(tokens))
        deadline = time.monotonic() + _SETTLE_SECONDS
        for rank in self.ranks[:1] if self.way.mla else self.ranks:
            while (found := int(rank.engine.lookup(tensor, **arguments))) < len(tokens) and time.monotonic() < deadline:
                time.sleep(0.005)
            self.probe.check(found == len(tokens), f"{found} of {len(tokens)} stored tokens are found")


def body(probe: _probe.Probe) -> None:
    """Serve the mixes over each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", nargs="+", choices=tuple(WAYS), required=True)
    parser.add_argument("--mix", nargs="+", type=int, required=True)
    given = parser.parse_known_args()[0]
    kv_device.confirm(probe)
    needs_server = any("{server}" in str(value) for name in given.way for value in WAYS[name].settings.values())
    with kv_backends.lm_server(probe.scratch) if needs_server else contextlib.nullcontext("") as url:
        for name in given.way:
            with kv_device.uncompiled():
                serve_way(probe, name, given.mix, url)


def serve_way(probe: _probe.Probe, name: str, mixes: Sequence[int], url: str) -> None:
    """Serve mixes over one way, by one engine."""
    folder = (probe.scratch / name).resolve()  # part of an address
    folder.mkdir()
    way, began, served = WAYS[name], time.monotonic(), 0
    with serving(probe, way, folder, url) as server:
        for number in mixes:
            served += 1
            server.serve_mix(number, generator.mix(number, chunk=CHUNK, block=BLOCK, longest=LONGEST), name)
            if any(failure.check.partition(": ")[0].endswith(name) for failure in probe.failures):
                break  # one wrong answer spoils the following ones
    probe.counters[name] = {**server.counts, "mixes": served, "seconds": round(time.monotonic() - began, 1)}


@contextlib.contextmanager
def serving(probe: _probe.Probe, way: Way, folder: Path, url: str) -> Iterator[Server | multiprocess.Server]:
    """Run what serves a way, and stop it at the end."""
    with contextlib.ExitStack() as stack:
        server: Server | multiprocess.Server
        if way.multiprocess:
            server = multiprocess.Server(probe, way, stack.enter_context(multiprocess.server(way, folder)))
        else:
            settings = {
                key: value.format(folder=folder, server=url) if isinstance(value, str) else value
                for key, value in way.settings.items()
            }
            server = Server(probe, way, settings)
        stack.callback(server.close)
        yield server


if __name__ == "__main__":
    _probe.main("engine", body)

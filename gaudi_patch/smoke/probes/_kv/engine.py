"""An engine of LMCache over one set of caches, whose requests are compared with what was computed."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kv import backends as kv_backends
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._kv import oracle as kv_oracle
    from gaudi_patch.smoke.probes._kv import ranks as kv_ranks
    from gaudi_patch.smoke.probes._kv.caches import Caches, Layout
    from gaudi_patch.smoke.probes._kv.oracle import Bytes
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _environment
    import _probe

    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache
    from _kv import oracle as kv_oracle
    from _kv import ranks as kv_ranks
    from _kv.caches import Caches

np: Any = _probe.load("numpy")

SEEDS = {False: 20250301, True: 20250302}  # MHA, MLA: separate, so that no backend has the other's prompts
CHUNK = 64
BLOCK_SIZE = 16
LAYERS = 3
BLOCKS = 96
SETTLE_SECONDS = 30.0
REQUEST = "smoke"


class Prompt:
    """Tokens, and the rows of their KV in every plane once stored."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.rows: list[Bytes] = []


class EngineCase:
    """An engine over one set of caches."""

    def __init__(self, probe: _probe.Probe, layout: Layout, heads: int, head_size: int) -> None:
        self.probe = probe
        self._rng = np.random.default_rng(SEEDS[layout.mla])
        self._torch = _probe.load("torch")
        self.caches = Caches(
            layout,
            dtype="bfloat16",
            blocks=BLOCKS,
            block_size=BLOCK_SIZE,
            heads=(heads,) * LAYERS,
            head_size=head_size,
            rng=self._rng,
        )
        self._shape = (LAYERS, self.caches.kv, CHUNK, heads, head_size)
        self._engine: Foreign = None
        self._connector: Foreign = None
        self.nobody = kv_ranks.Nobody()  # receives the broadcasts of a single rank

    @contextlib.contextmanager
    def engine(
        self,
        backend: kv_backends.Backend,
        rank: int = 0,
        ranks: int = 1,
        *broadcasts: Callable[..., Foreign],
        answers: kv_lmcache.Answers | None = None,
    ) -> Iterator[None]:
        """Run with an engine over this backend; it is closed at the end.

        broadcasts: of tensors, and of objects. answers: who is told what asynchronous loading has brought; none: it is
        off.
        """
        settings = {**backend.settings, **({"enable_async_loading": True} if answers else {})}
        config = kv_lmcache.make_config(
            chunk_size=CHUNK, save_unfull_chunk=True, reserve_local_cpu_size=0.0, **settings
        )
        services = {"async_lookup_server": answers} if answers else {}
        metadata = kv_lmcache.make_metadata(
            kv_shape=self._shape, dtype=self.caches.dtype, use_mla=self.caches.layout.mla, rank=rank, ranks=ranks
        )
        connector = kv_lmcache.make_connector(config, metadata)
        broadcasts = broadcasts or (self.nobody.send_tensor, self.nobody.send_object)
        self._engine = self._start(config, metadata, connector, *broadcasts, **services)
        self._connector = connector
        try:
            kv_lmcache.register(connector, self.caches.entries)
            yield
        finally:
            kv_lmcache.close_engine()

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the KV of one whole chunk, over all layers."""
        return int(CHUNK * self.caches.kv * sum(self.caches.widths) * self.caches.dtype.itemsize)

    @property
    def host_copied_bytes(self) -> int | None:
        """Return the bytes that the host has copied for the connector so far; None if not counted."""
        transfer = getattr(self._connector, "transfer", None)
        return None if transfer is None else int(transfer.host_copied_bytes)

    def _start(self, *arguments: Foreign, **services: Foreign) -> Foreign:
        """Return an engine; where it does not start no other one would, and what is left of it would hide the
        reason.
        """
        try:
            return kv_lmcache.make_engine(*arguments, **services)
        except Exception as error:
            with contextlib.suppress(Exception):  # left incomplete by the first error
                kv_lmcache.close_engine()
            if _environment.missing_dependency(error):
                raise
            traceback.print_exc()
            self.probe.end(f"LMCache's engine does not start: {_probe.describe(error)}")

    def prompt(self, length: int, like: Prompt | None = None, shared: int = 0) -> Prompt:
        """Return a new prompt; its first ``shared`` tokens are those of ``like``."""
        tokens = [int(token) for token in self._rng.integers(0, 100_000, length)]
        if like is not None:
            tokens[:shared] = like.tokens[:shared]
        prompt = Prompt(tokens)
        if like is not None:
            prompt.rows = like.rows
        return prompt

    def store(self, prompt: Prompt, *, pending: bool = True) -> kv_device.Counts:
        """Compute the prompt's KV into free blocks, store it, and reuse the blocks at once.

        pending: whether the computation is still under way when it is stored; it is counted, too, then.
        """
        slots = self._slots(len(prompt.tokens))
        self.caches.write_pending(slots)
        prompt.rows = [plane[slots].copy() for plane in self.caches.truth]
        if not pending:
            self.wait()
        tokens, arguments = self._torch.tensor(prompt.tokens), self._arguments(slots)
        with kv_device.counting() as counts:
            self._engine.store(tokens, **arguments)
        self.caches.write_pending(slots)
        return counts

    def lookup(self, prompt: Prompt) -> int:
        """Return the number of leading tokens that the engine reports."""
        return int(self._engine.lookup(self._torch.tensor(prompt.tokens)))

    def settle(self, prompt: Prompt, expected: int, within: float = SETTLE_SECONDS) -> None:
        """Wait until tokens stored in the background are found; this is a check unless ``within`` is given."""
        deadline = time.monotonic() + within
        while (found := self.lookup(prompt)) != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        if within == SETTLE_SECONDS:
            self.probe.check(found == expected, f"{found} of {expected} stored tokens are found after {within:g} s")

    def retrieve(
        self,
        prompt: Prompt,
        what: str,
        *,
        expected: int | None = None,
        skipped: int = 0,
        cached: int = 0,
        pending: bool = True,
    ) -> kv_device.Counts:
        """Retrieve into other blocks and compare all caches; returns what the retrieve alone has cost.

        expected: leading tokens that the engine must have, by default all. skipped: leading tokens, whole
        chunks, that are not asked for. cached: leading tokens whose rows must stay as they are. pending: whether
        other writes to the caches wait on the device; they are counted, too, then.
        """
        with self.probe.section(what):
            have = len(prompt.tokens) if expected is None else expected
            found, slots, counts = self._retrieve(prompt, have, skipped, cached, pending=pending)
            self.probe.check(found == have - skipped, f"{found} tokens were retrieved instead of {have - skipped}")
            written = range(max(skipped, cached), have)
            for token in written:
                for plane, rows in zip(self.caches.truth, prompt.rows):  # noqa: B905 - equal by construction
                    plane[slots[token]] = rows[token]
            now = self.caches.read()
            problem = kv_oracle.wrong_rows(now, self.caches.truth, {slots[token] for token in written})
            self.probe.check(not problem, f"the KV cache after a retrieve: {problem}")
            self.caches.truth = now
            return counts

    def prefetch(self, prompt: Prompt, answers: kv_lmcache.Answers) -> int:
        """Look a prompt up for a request with asynchronous loading; returns how many tokens are promised."""
        self._engine.async_lookup_and_prefetch(REQUEST, self._torch.tensor(prompt.tokens), pin=True)
        return answers.wait(REQUEST, SETTLE_SECONDS)

    def unpin(self) -> None:
        """Let go of what a lookup has pinned for the request."""
        self._engine.lookup_unpin(REQUEST)

    def held(self) -> list[tuple[int, int]]:
        """Return the references to each object in host memory, and its pins."""
        cache = self._engine.storage_manager.storage_backends["LocalCPUBackend"].hot_cache
        return [(entry.get_ref_count(), entry.metadata.pin_count) for entry in cache.values()]

    def promise_and_lose(self, prompt: Prompt, *, broken: bool = False) -> bool:
        """Look a prompt up for a request, and take all of it out of the stores; False where they are not here.

        broken: what was promised is let go, too.
        """
        stores = self._engine.storage_manager.storage_backends
        if "RemoteBackend" in stores:  # another process has them
            return False
        keys = [key for _, _, key in self._engine.token_database.process_tokens(self._torch.tensor(prompt.tokens))]
        disk = stores["LocalDiskBackend"].dict if "LocalDiskBackend" in stores else {}
        if "LocalDiskBackend" in stores:  # it writes in the background: what is taken out now would come back
            self._wait_until(lambda: all(key in disk for key in keys), "all chunks are on the disk")
        promised = int(self._engine.lookup(self._torch.tensor(prompt.tokens), lookup_id=REQUEST, pin=True))
        self.probe.check(
            promised == len(prompt.tokens), f"{promised} tokens are promised, {len(prompt.tokens)} are there to be"
        )
        for entry in [stores["LocalCPUBackend"].hot_cache.pop(key, None) for key in keys]:
            if entry is not None:
                if entry.is_pinned:
                    entry.unpin()
                entry.ref_count_down()
        for key in keys:
            disk.pop(key, None)
        if broken:
            self._engine.gaudi_promises.drop(REQUEST)
        return True

    def _wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not true() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.probe.check(true(), f"after {SETTLE_SECONDS:g} s it is not so that {what}")

    def would_retrieve(self, prompt: Prompt) -> bool:
        """Return whether a retrieve returns what was computed; the expected content is then updated to the actual."""
        found, slots, _ = self._retrieve(prompt, len(prompt.tokens), 0, 0)
        now = self.caches.read()
        right = found == len(prompt.tokens) and all(
            bool((plane[slots] == rows).all())
            for plane, rows in zip(now, prompt.rows)  # noqa: B905 - of equal length by construction
        )
        self.caches.truth = now
        return right

    def wait(self) -> None:
        """Wait for the device."""
        self._torch.hpu.synchronize()

    def _retrieve(
        self, prompt: Prompt, have: int, skipped: int, cached: int, *, pending: bool = True
    ) -> tuple[int, list[int], kv_device.Counts]:
        slots = self._slots(len(prompt.tokens))
        # A serving engine requests what lookup found; the rest of the prompt has no KV yet.
        tokens = self._torch.tensor(prompt.tokens[:have])
        mask = self._torch.ones(have, dtype=self._torch.bool)
        mask[:skipped] = False
        if pending:
            self.caches.write_pending([slot for slot in range(0, self.caches.slots, 5) if slot not in set(slots)])
        else:
            self.wait()
        mapping = slots[:have]
        arguments = {**self._arguments(mapping), "vllm_cached_tokens": cached, "req_id": REQUEST}
        with kv_device.counting() as counts:
            retrieved = self._engine.retrieve(tokens, mask, **arguments)
        return int(retrieved.sum()), slots, counts

    def _slots(self, tokens: int) -> list[int]:
        return kv_oracle.slot_map(tokens, self.caches.blocks, self.caches.block_size, self._rng)

    def _arguments(self, slots: Sequence[int]) -> dict[str, Foreign]:
        mapping = self._torch.tensor(list(slots), dtype=self._torch.int64)
        if not _environment.is_patched():  # their adapter keeps it on the device
            mapping = mapping.to("hpu")
        return {"kvcaches": self.caches.entries, "slot_mapping": mapping}

"""Faults of multiprocess mode: failed loads, waits for the server, its memory, and the copies into it."""

from __future__ import annotations

from tests.smoke.mutant import RUNTIME, Mutant, each

_LOADS = f"{RUNTIME}/multiprocess.py"
_WATCHED = f"{RUNTIME}/watched.py"
_WAITING = f"{RUNTIME}/waiting.py"
_CHUNKS = f"{RUNTIME}/server_chunks.py"

_MUTANTS = (
    # Failed loads.
    Mutant(
        "a failed load is finished before vLLM has taken its blocks",
        _LOADS,
        "                self._known[request] = False",
        "                self._known[request] = True",
    ),
    Mutant(
        "a failed load is never finished",
        _LOADS,
        "        self._known = dict.fromkeys(self._known, True)",
        "        self._known = dict.fromkeys(self._known, False)",
    ),
    Mutant(
        "a failed load is finished in every step after vLLM knew",
        _LOADS,
        "            finished.add(request)\n            del self._known[request], self._own[request]",
        "            finished.add(request)",
    ),
    Mutant(
        "blocks that vLLM had itself count as failed",
        _LOADS,
        "                self._adapter.error_block_ids -= self._shared.get(request, set())",
        "                self._adapter.error_block_ids |= self._shared.get(request, set())",
    ),
    Mutant(
        "a block that was to be loaded counts as vLLM's own",
        _LOADS,
        "        self._shared[request], self._own[request] = set(blocks[:skipped]), set(blocks[skipped:])",
        "        self._shared[request] = set(blocks[: skipped + 1])\n"
        "        self._own[request] = set(blocks[skipped + 1 :])",
    ),
    Mutant(
        "tokens are counted as blocks",
        _LOADS,
        '"skip_first_n_tokens", 0) or 0) // block_tokens',
        '"skip_first_n_tokens", 0) or 0)',
    ),
    Mutant(
        "a load that could not be asked for has no failed blocks",
        _LOADS,
        "        adapter.error_block_ids.update(self._own[request])",
        "        adapter.error_block_ids.update(())",
    ),
    Mutant(
        "a load that could not be asked for is waited for",
        _LOADS,
        "        adapter._dropped_retrieves.add(request)",
        "        adapter._dropped_retrieves.discard(request)",
    ),
    Mutant(
        "a store that the server does not answer ends the engine",
        _LOADS,
        "            except Exception:  # over shared memory",
        "            except KeyError:  # over shared memory",
    ),
    Mutant(
        "the blocks of a store that could not be asked for stay pinned",
        _LOADS,
        "                    self._completed_store_requests[request_id] = 1",
        "                    self._completed_store_requests.pop(request_id, None)",
    ),
    Mutant(
        "a load that could not be asked for ends the engine",
        _LOADS,
        "                loads.fail(request_id)",
        "                raise",
    ),
    Mutant(
        "blocks of an ended request are reported when another request has them",
        _LOADS,
        "            self._adapter.error_block_ids -= self._own.pop(request)",
        "            self._own.pop(request)",
    ),
    Mutant(
        "an ended request counts as failed under its name",
        _LOADS,
        "                self._adapter._failed_request_ids.discard(request)",
        "                self._adapter._failed_request_ids.add(request)",
    ),
    # What is promised again, and what is reported.
    Mutant(
        "a failed request is looked up again",
        _LOADS,
        '            if request_id not in self.__dict__.get("gaudi_promised", ()):',
        '            if request_id not in self.__dict__.get("promised", ()):',
    ),
    Mutant(
        "a request that had no hit is not looked up again",
        _LOADS,
        "            if self._finished_lookup_results.get(request_id) and is_available():",
        "            if request_id in self._finished_lookup_results and is_available():",
    ),
    Mutant(
        "a name stays promised after its request has ended",
        _LOADS,
        '            self.__dict__.get("gaudi_promised", set()).discard(request_id)\n',
        "",
    ),
    Mutant(
        "the runner's reports are not completed",
        _LOADS,
        "        if not output.invalid_block_ids:",
        "        if output.invalid_block_ids is None:",
    ),
    Mutant(
        "the runner's own failed blocks are replaced",
        _LOADS,
        "        if not output.invalid_block_ids:",
        "        if output is not None:",
    ),
    # The server's answers and memory.
    Mutant(
        "an answer that is a chunk short is whole",
        _LOADS,
        "    if len(chunks) * blocks_in_chunk >= needed:",
        "    if (len(chunks) + 1) * blocks_in_chunk >= needed:",
    ),
    Mutant(
        "a server that is a byte too small is taken",
        f"{RUNTIME}/pool.py",
        "    if size > 0 and size // chunk_bytes < needed:",
        "    if size > 0 and -(-size // chunk_bytes) < needed:",
    ),
    Mutant(
        "the server's memory is compared with one rank's share",
        _LOADS,
        "        ranks=adapter.world_size,",
        "        ranks=1,",
    ),
    Mutant(
        "a server's size is not looked for",
        _LOADS,
        '    size = int(getattr(context, "_pool_size", 0) or 0)',
        '    size = int(getattr(context, "pool_size", 0) or 0)',
    ),
    # Waits.
    Mutant(
        "a wait does not look at the heartbeat",
        _WATCHED,
        "            if not self._adapter.is_healthy or time.monotonic() >= deadline:",
        "            if time.monotonic() >= deadline:",
    ),
    Mutant(
        "a server that lives and says nothing is waited for as long as LMCache likes",
        _WATCHED,
        "(self._limit if timeout is None else min(timeout, self._limit))",
        "(self._limit if timeout is None else timeout)",
    ),
    Mutant(
        "loads are not watched",
        _WATCHED,
        '"prepare_retrieve", "commit_retrieve")',
        '"commit_retrieve")',
    ),
    Mutant(
        "the end of the engine waits for a dead server",
        _WATCHED,
        '        unregisters = name.startswith("unregister")',
        '        unregisters = name.endswith("unregister")',
    ),
    Mutant(
        "pings are watched",
        _WATCHED,
        "        if name not in _DATA_REQUESTS and not unregisters:\n            return call",
        "        if name is None:\n            return call",
    ),
    Mutant(
        "a wait lasts longer than half a minute",
        _WATCHED,
        "_DATA_SECONDS = 30.0",
        "_DATA_SECONDS = 300.0",
    ),
    Mutant(
        "0.5.5: lookups wait for a server that is dead",
        _LOADS,
        "            if is_available():\n                start_heartbeats(self)\n",
        "",
        release="0.5.5",
    ),
    # Copies into the server's memory.
    Mutant(
        "copies into shared memory are not waited for",
        _WAITING,
        "non_blocking=is_pinned(args[0]))",
        "non_blocking=True)",
    ),
    # Chunks in the server's memory.
    Mutant(
        "a store brings the first chunks, whichever are missing",
        _CHUNKS,
        "for n in numbers for b in blocks",
        "for n in range(len(numbers)) for b in blocks",
    ),
    Mutant(
        "a load writes the blocks that vLLM has",
        _CHUNKS,
        "self._slots(blocks[:needed]), skip=skip)",
        "self._slots(blocks[:needed]))",
    ),
    Mutant(
        "a block begins one token late",
        _CHUNKS,
        "(first + np.arange(self.block))",
        "(first + 1 + np.arange(self.block))",
    ),
    Mutant(
        "a chunk with a layer twice counts as a memory object",
        _CHUNKS,
        "    if layout.shared:\n",
        "    if layout.shared and not layout.sections:\n",
    ),
    Mutant(
        "the caches are not known again",
        _CHUNKS,
        "blocks_in_chunk and same_caches(self.caches",
        "blocks_in_chunk and not same_caches(self.caches",
    ),
    Mutant(
        "LMCache's own transfer is not waited for",
        _CHUNKS,
        "            return waiting_for_host_copies(original)(kv_caches,",
        "            return original(kv_caches,",
    ),
)

#: Level kernels tests all these rules in one quick part.
MULTIPROCESS_MUTANTS = each(_MUTANTS, cases="multiprocess")

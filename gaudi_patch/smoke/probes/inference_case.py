"""One case of level inference, in its own process: ``--case NAME`` in addition to a probe's arguments."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import case as vllm_case
    from gaudi_patch.smoke.probes._vllm import controls as vllm_controls
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
    from gaudi_patch.smoke.probes._vllm import plugin_cases as vllm_plugin_cases
    from gaudi_patch.smoke.probes._vllm import pool_cases as vllm_pool_cases
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _probe
    from _vllm import case as vllm_case
    from _vllm import controls as vllm_controls
    from _vllm import engine as vllm_engine
    from _vllm import plugin_cases as vllm_plugin_cases
    from _vllm import pool_cases as vllm_pool_cases
    from _vllm import setup as vllm_setup

#: Two pings of LMCache's heartbeat, each of 10 s, and a load and a store that wait for them; on a busy host.
_DEAD_SERVER_SECONDS = 90.0


def answers(probe: _probe.Probe, *, mla: bool = False) -> None:
    """Check a miss, a hit, a partial hit, a tail, several at once; then the negative controls."""
    case = vllm_case.VllmCase(probe, {}, mla=mla)
    block, chunk, n = vllm_setup.block_size(), vllm_setup.chunk_size(), case.length
    p, q = case.prompt(1), case.prompt(2)
    case.ask("miss", [p], external=[0])
    keys_p = set(case.engine.hot_cache())
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[case.hit(n, n, n)], local=[0])
    case.engine.forget_prefixes()
    longer = p[: 3 * chunk] + case.prompt(3, chunk)
    case.ask("partial hit", [longer], external=[case.hit(n, len(longer), 3 * chunk)], local=[0])
    case.engine.forget_prefixes()
    short = p[: 2 * chunk + block]
    case.ask("prefix of a stored prompt", [short], external=[case.hit(n, len(short), 2 * chunk)], local=[0])
    had = len(short) // block * block if vllm_setup.prefix_caching() else 0
    case.ask("hit beyond a prefix that vLLM has", [p], external=[case.hit(n, n, n, had)], local=[had])
    case.engine.forget_prefixes()
    whole = case.prompt(4, 2 * chunk)
    case.ask("miss of whole chunks", [whole], external=[0])
    case.engine.forget_prefixes()
    # The last token is computed alone: it sees the others quantized, where the cache is, which it did not before.
    exact = not vllm_setup.quantizes()
    case.ask("hit of whole chunks", [whole], external=[2 * chunk - 1], local=[0], exact=exact)
    case.ask("miss of another", [q], external=[0])
    case.engine.forget_prefixes()
    case.ask("two at once", [p, q], external=[case.hit(n, n, n)] * 2, local=[0, 0])
    _controls(case, p, q, keys_p)
    hit = case.hit(n, n, n)
    case.close()
    probe.summary.append(f"{'MLA' if mla else 'MHA'}: answers identical with {hit} of {n} tokens cached")


def _controls(case: vllm_case.VllmCase, p: list[int], q: list[int], keys_p: set[Foreign]) -> None:
    case.settle()
    chunks = case.length // vllm_setup.chunk_size()
    hits = [case.hit(case.length, case.length, case.length)]
    cached = case.engine.hot_cache()
    of_p = [cached[key] for key in cached if key in keys_p][:chunks]
    everything = list(cached.values())
    for name, change, objects in (
        ("zeroed KV", vllm_controls.zero, everything),
        ("negated KV", vllm_controls.negate, everything),
    ):
        case.engine.forget_prefixes()
        with vllm_controls.changed(objects, change):
            case.ask(f"control: {name}", [p], external=hits, wrong=True)
    of_q = _objects_of(case, q, exclude=of_p)[: len(of_p)]
    case.engine.forget_prefixes()
    with vllm_controls.changed([*of_p[: len(of_q)], *of_q], vllm_controls.exchange):
        case.ask("control: another request's KV", [p], external=hits, wrong=True)
    case.engine.forget_prefixes()
    case.ask("after the controls", [p, q], external=hits * 2)
    if case.probe.device == "emulated":  # on hardware the store may win the race
        _store_without_waiting(case)
    else:
        case.probe.summary.append("store without synchronize not tried (on hardware it may win the race)")


def _objects_of(case: vllm_case.VllmCase, tokens: list[int], exclude: list[Foreign]) -> list[Foreign]:
    """Return the cached objects of the prompt stored last: the last objects in the cache."""
    chunks = len(tokens) // vllm_setup.chunk_size()
    cached = [entry for entry in case.engine.hot_cache().values() if all(entry is not other for other in exclude)]
    shape = exclude[0].tensor.shape
    return [entry for entry in cached if entry.tensor.shape == shape][-chunks:]


def _store_without_waiting(case: vllm_case.VllmCase) -> None:
    control = vllm_controls.UnsynchronisedStores(case.engine)
    tokens = case.prompt(5)
    n = len(tokens)
    with control.active():
        case.ask("control: store without synchronize, miss", [tokens], external=[0])
    with case.probe.section("control: store without synchronize"):
        case.probe.check(control.put_back() > 0, "LMCache's connector stored nothing")
    case.engine.forget_prefixes()
    case.ask("control: store without synchronize", [tokens], external=[case.hit(n, n, n)], wrong=True)


def latent_attention(probe: _probe.Probe) -> None:
    """Check the same with MLA."""
    answers(probe, mla=True)


def disk(probe: _probe.Probe) -> None:
    """Check the local disk backend, with nothing kept in memory."""
    folder = probe.scratch / "disk"
    case = vllm_case.VllmCase(
        probe, {"local_cpu": False, "local_disk": f"file://{folder}/", "max_local_disk_size": 0.25}
    )
    n, p = case.length, case.prompt(1)
    case.ask("miss", [p], external=[0])
    _wait_for_files(probe, folder, n // vllm_setup.chunk_size())
    case.engine.forget_prefixes()
    case.ask("hit from disk", [p], external=[case.hit(n, n, n)], local=[0])
    _other_content(case, p)
    case.close()
    probe.summary.append("local disk: answers identical")


def _other_content(case: vllm_case.VllmCase, tokens: list[int]) -> None:
    """With other KV in the store the answer must be another: it comes from what was loaded, and from nothing else."""
    case.settle()
    case.engine.forget_prefixes()
    n = len(tokens)
    with vllm_controls.negated_loads(case.engine):
        case.ask("control: other KV in the store", [tokens], external=[case.hit(n, n, n)], wrong=True)


def _wait_for_files(probe: _probe.Probe, folder: Path, count: int) -> None:
    """Wait until the backends have written their files in the background."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and sum(path.is_file() for path in folder.rglob("*")) < count:
        time.sleep(0.05)
    time.sleep(0.2)
    probe.check(sum(path.is_file() for path in folder.rglob("*")) >= count, f"fewer than {count} chunks were written")


def outlives(probe: _probe.Probe) -> None:
    """Check a store that outlives the engine: one process stores, another loads."""
    given = vllm_case.arguments()
    settings = {"local_cpu": False, "remote_url": given.storage, "remote_serde": "naive"}
    case = vllm_case.VllmCase(probe, {**settings, **vllm_setup.stored_keys()})
    n, p = case.length, case.prompt(1)
    if given.phase == "store":
        case.ask("miss", [p], external=[0])
        _wait_for_remote(case, n // vllm_setup.chunk_size())
    else:
        case.ask("hit in a new process", [p], external=[case.hit(n, n, n)], local=[0])
        _other_content(case, p)
        probe.summary.append(f"{given.storage.partition(':')[0]}: a new process was served from storage")
    case.close()


def _wait_for_remote(case: vllm_case.VllmCase, count: int) -> None:
    backend = case.engine.adapter.lmcache_engine.storage_manager.storage_backends["RemoteBackend"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and backend.put_tasks:
        time.sleep(0.05)
    case.probe.check(
        not backend.put_tasks, f"{len(backend.put_tasks)} of {count} chunks are not in the store after 30 s"
    )


def multiprocess(probe: _probe.Probe) -> None:
    """Check LMCache's multiprocess mode: the server is already running in its own process, over a directory."""
    given = vllm_case.arguments()
    case = _multiprocess_case(probe)
    chunk = vllm_setup.chunk_size()
    p = case.prompt(1)
    hit = case.length // chunk * chunk
    if given.phase == "load":
        case.ask("hit of a new server", [p], external=[hit], local=[0])
        case.close()
        probe.summary.append(f"multiprocess mode: a new server was served from its directory, {hit} tokens")
        return
    case.ask("miss", [p], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[hit], local=[0])
    case.engine.forget_prefixes()
    longer = p[: 3 * chunk] + case.prompt(3, chunk)
    case.ask("partial hit", [longer], external=[3 * chunk], local=[0])
    _failed_retrieve(case, p, hit)
    _wait_for_files(probe, Path(given.storage), hit // chunk)
    case.close()
    probe.summary.append(f"multiprocess mode: answers identical with {hit} of {case.length} tokens cached")


def _multiprocess_case(probe: _probe.Probe) -> vllm_case.VllmCase:
    extra: dict[str, object] = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": vllm_case.arguments().port}
    return vllm_case.VllmCase(probe, {}, connector="LMCacheMPConnector", extra=extra)


def dead_server(probe: _probe.Probe) -> None:
    """Check that the answer is right, and comes soon, if the server dies between the lookup and the load.

    Another request computes at the same time. LMCache itself waits 300 s for the reply.
    """
    case = _multiprocess_case(probe)
    p, hit = case.prompt(1), case.length // vllm_setup.chunk_size() * vllm_setup.chunk_size()
    case.ask("miss", [p], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[hit], local=[0])
    case.settle()
    case.engine.forget_prefixes()
    case.engine.overwrite_caches()  # no block still has the prompt's earlier KV
    worker = _multiprocess_worker()
    sound, killed = worker.transfer_ctx.submit_retrieve, list[float]()

    def kill(*arguments: Foreign, **options: Foreign) -> Foreign:
        if not killed:
            os.kill(vllm_case.arguments().server, signal.SIGKILL)
            killed.append(time.monotonic())
        return sound(*arguments, **options)

    worker.transfer_ctx.submit_retrieve = kill
    name = "the server dies beside a request that computes"
    case.ask(name, [case.prompt(7), p])
    with probe.section(name):
        probe.check(bool(killed), "no load was asked for: nothing was tested")
        seconds = time.monotonic() - killed[0]
        probe.check(seconds < _DEAD_SERVER_SECONDS, f"the answers came after {seconds:.0f} s")
    worker.transfer_ctx.submit_retrieve = sound
    case.engine.forget_prefixes()
    name, began = "requests after the server's death", time.monotonic()
    case.ask(name, [case.prompt(9), p], external=[0, 0])
    with probe.section(name):
        later = time.monotonic() - began
        probe.check(later < _DEAD_SERVER_SECONDS, f"answered after {later:.0f} s: lookups wait for the server")
    case.close()
    probe.summary.append(f"a dead server: right answers after {seconds:.0f} s, later ones after {later:.0f} s")


def _multiprocess_worker() -> Foreign:
    state = _probe.load("vllm.distributed.kv_transfer.kv_transfer_state")
    return state.get_kv_transfer_group().worker_adapter


def _failed_retrieve(case: vllm_case.VllmCase, p: list[int], hit: int) -> None:
    """Check that a failed load beside a computing request is recomputed; as a control, the unprotected answer is
    wrong.
    """
    worker = _multiprocess_worker()
    answered = _probe.load("lmcache.v1.multiprocess.futures").MessagingFuture()
    answered.set_result(False)
    broken: list[Foreign] = []

    def fail(*arguments: Foreign, **options: Foreign) -> Foreign:
        broken.append(arguments)
        return answered

    sound, worker.transfer_ctx.submit_retrieve = worker.transfer_ctx.submit_retrieve, fail
    case.engine.forget_prefixes()
    case.ask("a load fails beside a request that computes", [case.prompt(7), p])
    with case.probe.section("a load fails beside a request that computes"):
        case.probe.check(bool(broken), "no load was asked for: nothing was tested")
    if "gaudi_loads" in worker.__dict__:
        case.engine.forget_prefixes()
        case.engine.overwrite_caches()  # no block still has the prompt's earlier KV
        with (
            case.probe.section("control: a failed load counts as loaded"),
            vllm_controls.failed_loads_unknown(worker),
        ):
            asked = len(broken)
            answers = case.engine.generate([case.prompt(8), p])
            right = case.reference.answer(p)
            case.probe.check(len(broken) > asked, "no load was asked for: the control does not work")
            case.probe.check(answers[1].tokens != right, "the answer was right without the load: the check is blind")
    worker.transfer_ctx.submit_retrieve = sound
    worker.error_block_ids.clear()
    case.engine.forget_prefixes()
    case.ask("after the failed loads", [p], external=[hit], local=[0])


def two_ranks(probe: _probe.Probe, *, mla: bool = False) -> None:
    """Check two workers, each with its own device, connected by hccl (gloo on the emulated HPU)."""
    case = vllm_case.VllmCase(probe, vllm_setup.SHARED_KEYS, ranks=2, mla=mla)
    n, p = case.length, case.prompt(1)
    case.ask("miss", [p], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[case.hit(n, n, n)], local=[0])
    _other_content(case, p)
    case.close()
    probe.summary.append(f"two ranks, {'MLA' if mla else 'MHA'}: answers identical")


def two_ranks_latent_attention(probe: _probe.Probe) -> None:
    """Check the same with MLA, where one rank stores for all."""
    two_ranks(probe, mla=True)


CASES = {
    "answers": answers,
    "latent-attention": latent_attention,
    "disk": disk,
    "outlives": outlives,
    "multiprocess": multiprocess,
    "dead-server": dead_server,
    "two-ranks": two_ranks,
    "two-ranks-latent-attention": two_ranks_latent_attention,
    **vllm_plugin_cases.CASES,
    **vllm_pool_cases.CASES,
}


def body(probe: _probe.Probe) -> None:
    """Run the case."""
    given = vllm_case.arguments()
    print(json.dumps({"case": given.case, "pid": os.getpid()}), flush=True)
    CASES[given.case](probe)


if __name__ == "__main__":
    vllm_engine.run("inference", body)

"""One case of level connector, in its own process: ``--case NAME`` in addition to a probe's arguments."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._probe import Foreign
    from gaudi_patch.smoke.probes._vllm import blocks as vllm_blocks
    from gaudi_patch.smoke.probes._vllm import controls as vllm_controls
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
    from gaudi_patch.smoke.probes._vllm import identities as vllm_identities
    from gaudi_patch.smoke.probes._vllm import preemption as vllm_preemption
    from gaudi_patch.smoke.probes._vllm import prompts as vllm_prompts
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _environment
    import _probe
    from _vllm import blocks as vllm_blocks
    from _vllm import controls as vllm_controls
    from _vllm import engine as vllm_engine
    from _vllm import identities as vllm_identities
    from _vllm import preemption as vllm_preemption
    from _vllm import prompts as vllm_prompts
    from _vllm import setup as vllm_setup

# Few blocks, so that four requests do not fit and one of them is preempted.
BLOCKS = 40
ANSWER = 4


class ConnectorCase:
    """An engine whose KV is a hash of the context, watched at every step."""

    def __init__(self, probe: _probe.Probe, *, mla: bool = False, **options: Foreign) -> None:
        self.probe = probe
        vllm_setup.prepare_environment(probe.scratch, {}, own_platform=True)
        self.errors = vllm_engine.Errors()
        _probe.load("habana_frameworks.torch")
        self.folder = vllm_setup.tiny_checkpoint(probe.scratch, mla=mla)
        try:
            self.engine = vllm_engine.Engine(
                self.folder,
                model="pattern",
                dtype="bfloat16",
                blocks=BLOCKS,
                **options,
            )
        except Exception as error:
            raise RuntimeError(f"the engine does not start: {_probe.describe(error)}{self.errors.first}") from error
        if problems := self.engine.problems():
            raise RuntimeError(problems[0] + self.errors.first)
        if _environment.is_patched():
            self._check_registration()
        self.watch = vllm_blocks.Watch(self.engine.runner)
        self.vocabulary = vllm_prompts.vocabulary(self.folder)

    def _check_registration(self) -> None:
        """Slot mappings stay on the host, and the connector has had its caches before the first request."""
        adapter = self.engine.adapter
        with self.probe.section("registration"):
            place = str(adapter.device)
            self.probe.check(place == "cpu", f"slot mappings go to {place}, and indices are computed on the host")
            if vllm_engine.hands_caches_over_at_start():
                transfer = adapter.lmcache_engine.gpu_connector.transfer
                self.probe.check(transfer is not None, "the connector was not given the caches: nothing is warmed up")
            self._check_late_registration(type(adapter))

    def _check_late_registration(self, kind: type) -> None:
        """Caches that come with the first forward context, as up to vLLM 0.13, are registered and judged as well."""
        late: Foreign = object.__new__(kind)
        late.kv_caches = {}
        layer = SimpleNamespace(kv_cache=["caches"])
        registered: list[object] = []
        with vllm_controls.replaced("lmcache.gaudi.adapter", "register_kv_caches", registered.append):
            late._init_kv_caches_from_forward_context(
                SimpleNamespace(no_compile_layers={"layer": layer}, virtual_engine=0)
            )
        self.probe.check(registered == [late], "caches of a forward context are used, and nothing is refused for them")

    def prompt(self, seed: int, length: int) -> list[int]:
        """Return a prompt of random tokens."""
        return vllm_prompts.prompt(seed, length, self.vocabulary)

    def ask(self, name: str, prompts: list[list[int]], *, external: int | None, local: int = 0, count: int = 0) -> None:
        """Generate; check every step's KV, and the hits of each prompt (None: not checked)."""
        with self.probe.section(name):
            answers = self.engine.generate(prompts, count or ANSWER)
            for answer in answers:
                if external is None:
                    continue
                self.probe.check(answer.local == local, f"vLLM had {answer.local} tokens, not {local}")
                self.probe.check(
                    answer.external == external,
                    f"LMCache had {answer.external} of {answer.prompt} tokens, not {external}{self.errors.first}",
                )
            problems = self.watch.take()
            for problem in problems:
                self.probe.fail(problem)
            if not problems:
                self.probe.check(True, "KV compared")
            return
        raise _probe.Skip("a request failed, and with it the engine")

    def hit(self, stored: int, length: int, shared: int, local: int = 0) -> int:
        """Return the number of tokens that LMCache must add."""
        return vllm_prompts.expected_hit(self.engine, stored, length, shared, local)

    def close(self) -> None:
        """Close the engine; fail if anything of it stays."""
        with self.probe.section("shutdown"):
            self.engine.close()
            left = vllm_engine.threads_left()
            self.probe.check(not left, f"threads are left: {', '.join(left)}")


def blocks(probe: _probe.Probe, *, mla: bool = False) -> None:
    """Check a miss, hits of all kinds, chunked prefill, preemption and resumption."""
    case = ConnectorCase(probe, mla=mla)
    block, chunk = vllm_setup.block_size(), vllm_setup.chunk_size()
    n = 4 * chunk + 44
    p = case.prompt(1, n)
    case.ask("miss", [p], external=0)
    case.engine.forget_prefixes()
    case.ask("full hit and a tail", [p], external=case.hit(n, n, n))
    case.engine.forget_prefixes()
    with (
        probe.section("control: other KV in the cache"),
        vllm_controls.changed(list(case.engine.hot_cache().values()), vllm_controls.negate),
    ):
        case.engine.generate([p], ANSWER)
        probe.check(bool(case.watch.take()), "KV of another sign was not noticed: the check is blind")
    case.engine.forget_prefixes()
    whole = case.prompt(2, 2 * chunk)
    case.ask("miss of whole chunks", [whole], external=0)
    case.engine.forget_prefixes()
    case.ask("hit of the whole prompt", [whole], external=2 * chunk - 1)
    case.engine.forget_prefixes()
    short = case.prompt(3, chunk - 14)
    case.ask("miss of less than a chunk", [short], external=0)
    case.engine.forget_prefixes()
    case.ask("less than a chunk again", [short], external=case.hit(len(short), len(short), len(short)))
    case.engine.forget_prefixes()
    _shared_prefix(case, p, block, chunk)
    case.engine.forget_prefixes()
    long = case.prompt(4, 900)
    case.ask("miss in two steps", [long], external=0)
    case.engine.forget_prefixes()
    case.ask("hit of a long prompt", [long], external=case.hit(900, 900, 900))
    case.engine.forget_prefixes()
    vllm_preemption.with_outputs(case, n)
    probe.counters["kv_positions_compared"] = case.watch.tokens
    case.close()
    probe.summary.append(f"{'MLA' if mla else 'MHA'}: KV of {case.watch.tokens} positions bit-exact")


def _shared_prefix(case: ConnectorCase, p: list[int], block: int, chunk: int) -> None:
    """Check that blocks that vLLM itself has, one in the middle of a chunk, are not rewritten."""
    had = 2 * chunk + block
    case.ask("prefix", [p[: had + 10]], external=2 * chunk)
    case.watch.invert(had)
    case.ask("partial hit on a prefix that vLLM has", [p], external=case.hit(len(p), len(p), len(p), had), local=had)
    case.watch.restore(had)


def latent_attention(probe: _probe.Probe) -> None:
    """Check the same with MLA's cache."""
    blocks(probe, mla=True)


def identities(probe: _probe.Probe) -> None:
    """Check that a request with another LoRA adapter or cache salt gets no other's KV, and finds its own again."""
    case = ConnectorCase(probe)
    tokens = case.prompt(1, 4 * vllm_setup.chunk_size() + 44)
    case.ask("miss", [tokens], external=0)
    case.engine.forget_prefixes()
    due = case.hit(len(tokens), len(tokens), len(tokens))
    with probe.section("salts of their own"):
        for salt, external in (("tenant-1", 0), ("tenant-2", 0), ("tenant-1", due), ("", due)):
            found = vllm_identities.generate(case.engine, tokens, salt)
            probe.check(found == external, f"salt {salt!r}: LMCache had {found} tokens, not {external}")
            case.engine.forget_prefixes()
    with probe.section("adapters of their own"):
        for adapter, external in ((None, due), ("a", 0), ("b", 0), (None, due)):
            found = vllm_identities.offered(case.engine, tokens, adapter)
            probe.check(found == external, f"adapter {adapter}: {found} tokens of KV offered, not {external}")
    with probe.section("the check sees a key without an identity"), vllm_identities.without_identities(case.engine):
        found = vllm_identities.offered(case.engine, tokens, "c")
        probe.check(found == due, f"the fault put in on purpose went unnoticed: {found} tokens offered, not {due}")
    if _environment.is_patched():
        with probe.section("log probabilities of the prompt"):
            found = vllm_identities.offered(case.engine, tokens, None, logprobs=True)
            probe.check(found == 0, f"{found} tokens of KV offered, whose positions have no log probabilities then")
        with probe.section("an id that is used again"):
            vllm_identities.check_reused_id(probe, case.engine)
        with probe.section("adapters of their own in multiprocess mode"):
            vllm_identities.check_multiprocess_keys(probe)
        with probe.section("requests that multiprocess mode does not look up"):
            vllm_identities.check_multiprocess_lookups(probe)
    problems = case.watch.take()
    for problem in problems:
        probe.fail(problem)
    case.close()


def failed_load(probe: _probe.Probe) -> None:
    """Check a promised chunk that is lost before the load: it comes from host memory, or the step fails."""

    def lose_a_chunk(runner: Foreign, scheduler_output: Foreign) -> None:
        cache = engine().storage_manager.storage_backends["LocalCPUBackend"].hot_cache
        if scheduler_output.scheduled_new_reqs and cache:
            cache.pop(next(reversed(cache)))  # of the prompt that was looked up last

    def break_the_promise(runner: Foreign, scheduler_output: Foreign) -> None:
        promises: Foreign = getattr(engine(), "gaudi_promises", None)
        if scheduler_output.scheduled_new_reqs and promises is not None:  # unpatched, LMCache holds nothing
            for name in list(promises._held):  # 0.3.7 has other names than the requests'
                promises.drop(name)

    def engine() -> Foreign:
        return case.engine.adapter.lmcache_engine

    case = ConnectorCase(probe)
    p = case.prompt(2, 2 * vllm_setup.chunk_size() + 44)
    case.ask("miss of what will be lost", [p], external=0)
    case.engine.forget_prefixes()
    case.engine.runner.before_load.append(lose_a_chunk)
    n = len(p)
    if _environment.is_patched():
        case.ask("a chunk is lost between lookup and load, and was held", [p], external=case.hit(n, n, n))
    case.engine.runner.before_load.remove(lose_a_chunk)
    case.engine.forget_prefixes()
    if _environment.is_patched():
        hooks = [lose_a_chunk, break_the_promise]
        whole = case.prompt(3, n)
        case.ask("miss of what will be lost in the control", [whole], external=0)
        case.engine.forget_prefixes()
        case.engine.overwrite_caches()  # no block is left that holds the prompt's KV from before
        with (
            probe.section("control: the engine goes on after a short load"),
            vllm_controls.replaced("lmcache.gaudi.adapter", "refuse_short_load", lambda *given: None),
        ):
            case.engine.runner.before_load.extend(hooks)
            case.engine.generate([whole], ANSWER)
            probe.check(bool(case.watch.take()), "KV that was not loaded was not noticed: the check is blind")
            for hook in hooks:
                case.engine.runner.before_load.remove(hook)
    _must_fail(
        case,
        "a chunk is lost between lookup and load, and nothing was held",
        lambda: case.engine.runner.before_load.extend([lose_a_chunk, break_the_promise]),
    )


def early_preemption(probe: _probe.Probe) -> None:
    """Check requests that are preempted within their prefill, and resumed without an output."""
    case = ConnectorCase(probe, **vllm_preemption.EARLY)
    vllm_preemption.without_outputs(case, BLOCKS)
    case.close()
    probe.summary.append("preempted before the first output: KV bit-exact")


def multi_connector(probe: _probe.Probe) -> None:
    """Check LMCache within a MultiConnector: vllm-gaudi passes no attention metadata, but the load is still due."""
    case = ConnectorCase(probe, **vllm_engine.MULTI_CONNECTOR)
    n = 4 * vllm_setup.chunk_size() + 44
    p = case.prompt(1, n)
    case.ask("miss", [p], external=0)
    case.engine.forget_prefixes()
    case.ask("hit without attention metadata", [p], external=case.hit(n, n, n))
    case.engine.forget_prefixes()
    with (
        case.probe.section("control: the load is skipped"),
        vllm_controls.replaced("lmcache.gaudi.adapter", "loads_without_attention_metadata", lambda: False),
    ):
        case.engine.generate([p], ANSWER)
        case.probe.check(bool(case.watch.take()), "KV that was not loaded was not noticed: the check is blind")
    case.close()
    probe.summary.append("MultiConnector: KV bit-exact")


def _must_fail(case: ConnectorCase, name: str, break_it: Foreign) -> None:
    p = case.prompt(1, 4 * vllm_setup.chunk_size() + 44)
    case.ask("miss", [p], external=0)
    case.engine.forget_prefixes()
    break_it()
    with case.probe.section(name):
        try:
            answers = case.engine.generate([p], ANSWER)
        except Exception as error:
            frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            case.probe.check(
                "start_load_kv" in frames, f"it failed, but elsewhere than in the load: {_probe.describe(error)}"
            )
            case.probe.summary.append(f"{name}: refused ({type(error).__name__})")
        else:
            problems = case.watch.take()
            case.probe.fail(
                f"the engine went on and answered from {answers[0].external} tokens that were not loaded"
                + (f": {problems[0]}" if problems else "")
            )
    case.close()


CASES = {
    "blocks": blocks,
    "latent-attention": latent_attention,
    "identities": identities,
    "failed-load": failed_load,
    "early-preemption": early_preemption,
    "multi-connector": multi_connector,
}


def body(probe: _probe.Probe) -> None:
    """Run the case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    CASES[parser.parse_known_args()[0].case](probe)


if __name__ == "__main__":
    vllm_engine.run("connector", body)

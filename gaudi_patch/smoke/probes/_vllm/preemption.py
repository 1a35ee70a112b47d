"""Requests that vLLM preempts, with and without outputs: what LMCache may promise them, and the KV they resume with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
    from gaudi_patch.smoke.probes.connector_case import ConnectorCase
else:  # run by path, beside this file
    import _environment

    from _vllm import setup as vllm_setup

#: The engine's options for requests that are preempted within their prefill. Without vLLM's own prefix cache, only
#: LMCache has their KV.
EARLY: dict[str, Any] = {"batched_tokens": 128, "prefix_caching": False}
# Tokens that the first request generates: it is still running when the other is preempted.
_LASTS = 60


def with_outputs(case: ConnectorCase, n: int) -> None:
    """Check four requests that do not fit together: some are resumed, and their stored KV must also be right."""
    prompts = [case.prompt(seed, n) for seed in range(10, 14)]
    case.ask("preemption and resumption", prompts, external=None, count=140)
    whole_chunks = n // vllm_setup.chunk_size() * vllm_setup.chunk_size()
    promised = list(case.engine.promised_to_resumed)
    with case.probe.section("resumed requests"):
        if _environment.is_patched():
            case.probe.check(not any(promised), f"LMCache promised {promised} tokens to requests that had outputs")
    with case.probe.section("preempted prompts again"):
        case.probe.check(case.watch.resumed > 0, "no request was preempted: nothing was tested")
        for tokens in prompts:
            case.engine.forget_prefixes()
            hits = case.engine.generate([tokens], 1)[0].external
            case.probe.check(hits >= whole_chunks, f"LMCache had {hits} of {n} tokens, not {whole_chunks} or more")
        for problem in case.watch.take():
            case.probe.fail(problem)


def without_outputs(case: ConnectorCase, blocks: int) -> None:
    """Check a request that fits beside another until that one needs its next block, and so loses its own blocks.

    It is preempted within its prefill, and resumes when the other has ended. By then LMCache has stored what it had
    computed, and its blocks have been another's.

    blocks: the engine's, one of which vLLM does not use.
    """
    block, chunk = vllm_setup.block_size(), vllm_setup.chunk_size()
    first = 17 * block - 2  # needs its next block in its third decoding step
    rest = (blocks - 1 - 17) * block - block // 2
    one, other = case.prompt(20, first), case.prompt(21, rest)
    case.ask("a prefix of what will be preempted", [other[: 2 * chunk]], external=None)
    before = case.watch.resumed
    case.ask("preempted before the first output", [one, other], external=None, count=_LASTS)
    with case.probe.section("preempted before the first output"):
        case.probe.check(case.watch.resumed > before, "no request was preempted: nothing was tested")
        case.probe.check(
            not case.engine.promised_to_resumed, "a request that had outputs was preempted, and not the one without"
        )
    with case.probe.section("the preempted prompt again"):
        hits = case.engine.generate([other], 1)[0].external
        whole = rest // chunk * chunk
        case.probe.check(hits >= whole, f"LMCache had {hits} of {rest} tokens, not {whole} or more")
        for problem in case.watch.take():
            case.probe.fail(problem)

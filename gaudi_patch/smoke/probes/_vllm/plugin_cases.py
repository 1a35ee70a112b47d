"""Cases of level inference about vllm-gaudi's own handling of requests and blocks."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._vllm import case as vllm_case
    from gaudi_patch.smoke.probes._vllm import controls as vllm_controls
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, beside this file
    import _probe

    from _vllm import case as vllm_case
    from _vllm import controls as vllm_controls
    from _vllm import engine as vllm_engine
    from _vllm import setup as vllm_setup

# Each has ten blocks minus four tokens: together they fit, but no longer after a few tokens of the answer.
_BLOCKS_EACH = 10
_REQUESTS = 4
_ANSWER = 12


def preemption(probe: _probe.Probe) -> None:
    """Check that preempted requests with outputs and stored prompts answer as if nothing were stored.

    vLLM's own prefix cache is off, because its hits make vllm-gaudi answer wrongly whatever LMCache does.
    """
    # All prompts in one step: in sequence, a request would be preempted before it has outputs.
    tokens = _REQUESTS * _BLOCKS_EACH * vllm_setup.block_size()
    case = vllm_case.VllmCase(
        probe, {}, prefix_caching=False, blocks=_REQUESTS * _BLOCKS_EACH + 2, batched_tokens=tokens
    )
    n, p = case.length, case.prompt(1)
    hit = case.hit(n, n, n)
    case.ask("miss, without vLLM's own cache", [p], external=[0], local=[0])
    case.ask("hit, without vLLM's own cache", [p], external=[hit], local=[0])  # as recipes start the engine
    case.settle()
    prompts = _prompts(case, seed=20)
    with probe.section("preempted requests"):
        answers, promised = _generate(case, prompts)
        probe.check(bool(promised), "no request was preempted after its first token: nothing was tested")
        probe.check(not any(promised), f"LMCache promised {promised} tokens to requests that had outputs")
        right, _ = _generate(case, prompts, lookups=False)
        probe.check(answers == right, f"answered {answers}, must be {right}{case.errors.first}")
    with probe.section("control: a hit for a resumed request"):
        others = _prompts(case, seed=30)
        with vllm_controls.replaced("lmcache.gaudi.adapter", "must_compute", lambda request: False):
            answers, promised = _generate(case, others)
        probe.check(any(promised), "LMCache had nothing for the resumed requests: the control does not work")
        right, _ = _generate(case, others, lookups=False)
        if answers == right and vllm_setup.uses_vllm_gaudi():
            probe.summary.append(
                "this vllm-gaudi resumes requests correctly after a hit: the patch need not prevent it"
            )
        else:
            probe.check(answers != right, "hits of resumed requests did not change the answers: the check is blind")
    case.close()
    probe.summary.append(f"preemption: {hit} of {n} tokens cached, answers identical, no hits for resumed requests")


def _prompts(case: vllm_case.VllmCase, seed: int) -> list[list[int]]:
    length = _BLOCKS_EACH * vllm_setup.block_size() - 4
    return [case.prompt(seed + number, length) for number in range(_REQUESTS)]


def _generate(
    case: vllm_case.VllmCase, prompts: list[list[int]], *, lookups: bool = True
) -> tuple[list[list[int]], list[int]]:
    """Return the answers, and the tokens that LMCache promised to requests with outputs."""
    if lookups:
        answers = case.engine.generate(prompts, _ANSWER)
    else:
        # LMCache must still be asked, because it expects a lookup for every resumed request.
        with vllm_controls.replaced("lmcache.gaudi.adapter", "must_compute", lambda request: True):
            answers = case.engine.generate(prompts, _ANSWER)
    return [answer.tokens for answer in answers], list(case.engine.promised_to_resumed)


def multi_connector(probe: _probe.Probe) -> None:
    """Check LMCache within vLLM's MultiConnector, where the forward context has no attention metadata."""
    case = vllm_case.VllmCase(probe, {}, **vllm_engine.MULTI_CONNECTOR)
    n, p = case.length, case.prompt(1)
    hit = case.hit(n, n, n)
    case.ask("miss", [p], external=[0])
    case.engine.forget_prefixes()
    case.ask("hit", [p], external=[hit], local=[0])
    case.settle()
    with vllm_controls.replaced("lmcache.gaudi.adapter", "loads_without_attention_metadata", lambda: False):
        case.ask("control: the load is skipped", [p], external=[hit], wrong=True)
    case.close()
    probe.summary.append(f"MultiConnector: answers identical with {hit} of {n} tokens cached")


def contiguous_attention(probe: _probe.Probe) -> None:
    """Check contiguous paged attention: refused at start if prefills read by position, otherwise right answers."""
    os.environ.update(VLLM_CONTIGUOUS_PA="true", VLLM_DEFRAG="false")
    if not vllm_setup.uses_vllm_gaudi():
        _stand_in()
    if vllm_case.arguments().phase == "control":
        _not_refused(probe)
        return
    try:
        case = vllm_case.VllmCase(probe, {})
    except RuntimeError as error:
        probe.check("contiguous paged attention" in str(error), str(error))
        probe.check("export VLLM_CONTIGUOUS_PA=false" in str(error), f"no safe advice: {error}")
        probe.summary.append("contiguous paged attention: refused at start")
        return
    n, p = case.length, case.prompt(1)
    probe.check(vllm_setup.uses_vllm_gaudi(), "an engine that reads other blocks was not refused")
    with probe.section("behind a hit"):
        case.ask("miss", [p], external=[0])
        case.ask("hit", [p], external=[case.hit(n, n, n)], local=[0])
    case.close()
    probe.summary.append("contiguous paged attention: answers identical")


def _not_refused(probe: _probe.Probe) -> None:
    """Control: without LMCache's own refusal the engine starts, so that nothing else has refused it."""
    # Before anything of LMCache is imported, and PyTorch with it: the device reads its options then.
    vllm_setup.prepare_environment(probe.scratch, {}, own_platform=False)
    with vllm_controls.replaced("lmcache.gaudi.plugin", "_prefill_reads_by_block", lambda **given: True):
        case = vllm_case.VllmCase(probe, {})
    probe.check(case.engine.seconds_to_start > 0, "the engine was not started")
    case.close()


def _stand_in() -> None:
    """Imitate the parts of vllm-gaudi up to v0.21.0 that the patched LMCache examines, for a platform without them."""

    class VLLMKVCache:
        def fetch_from_cache(self, cache: _probe.Foreign, blocks: _probe.Foreign) -> _probe.Foreign:
            return cache[: blocks.size(0)]

    settings = SimpleNamespace(use_contiguous_pa=True, defrag=False, unified_attn=False)
    contents: dict[str, dict[str, object]] = {
        "vllm_gaudi.extension.runtime": {"get_config": lambda: settings},
        "vllm_gaudi.extension.utils": {"VLLMKVCache": VLLMKVCache},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module


CASES = {
    "preemption": preemption,
    "multi-connector": multi_connector,
    "contiguous-attention": contiguous_attention,
}

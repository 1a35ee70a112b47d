"""Cases of level inference about LMCache's host memory and the longest request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _probe
    from gaudi_patch.smoke.probes._vllm import case as vllm_case
    from gaudi_patch.smoke.probes._vllm import controls as vllm_controls
    from gaudi_patch.smoke.probes._vllm import engine as vllm_engine
    from gaudi_patch.smoke.probes._vllm import prompts as vllm_prompts
    from gaudi_patch.smoke.probes._vllm import setup as vllm_setup
else:  # run by path, beside this file
    import _probe

    from _vllm import case as vllm_case
    from _vllm import controls as vllm_controls
    from _vllm import engine as vllm_engine
    from _vllm import prompts as vllm_prompts
    from _vllm import setup as vllm_setup

# 107,374 bytes: less than any model's longest request needs.
_SHORT = 0.0001


def short_pool(probe: _probe.Probe) -> None:
    """Check that a pool smaller than the longest request is refused, with a size that works.

    A refused engine leaves parts of itself behind, so each phase runs in its own process.
    """
    {"refused": _refused, "served": _served, "control": _control}[vllm_case.arguments().phase](probe)


def _refused(probe: _probe.Probe) -> None:
    try:
        case = vllm_case.VllmCase(probe, {"max_local_cpu_size": _SHORT})
    except RuntimeError as error:
        refusal, when = str(error), "at start"
    else:
        if vllm_engine.hands_caches_over_at_start():
            probe.fail(f"an engine with a pool of {_SHORT} GB was not refused")
            return
        refusal, when = (
            _refused_by_the_first_request(case),
            "at the first request, with which this vLLM hands caches over",
        )
    probe.check("smaller than one prompt" in refusal, refusal)
    advice = re.search(r"Set max_local_cpu_size to ([\d.]+) or more", refusal)
    probe.check(advice is not None, f"no size is advised: {refusal}")
    if advice is not None:
        _advice(probe).write_text(advice[1], encoding="utf-8")
        probe.summary.append(f"a pool of {_SHORT} GB: refused {when}, {advice[1]} GB advised")


def _refused_by_the_first_request(case: vllm_case.VllmCase) -> str:
    try:
        case.engine.generate([case.prompt(1)], 1)
    except Exception as error:  # from LMCache, however vLLM wraps it
        return str(error)
    finally:
        case.engine.close()
    return f"a request was served by an engine with a pool of {_SHORT} GB"


def _served(probe: _probe.Probe) -> None:
    advised = _advice(probe).read_text(encoding="utf-8")
    case = vllm_case.VllmCase(probe, {"max_local_cpu_size": advised})
    n = vllm_setup.max_model_len() - vllm_prompts.ANSWER
    longest = case.prompt(1, n)
    case.ask("the longest request, miss", [longest], external=[0])
    case.engine.forget_prefixes()
    case.ask("the longest request, hit", [longest], external=[case.hit(n, n, n)], local=[0])
    case.close()
    probe.summary.append(f"a pool of the {advised} GB that were advised: the longest request is served whole")


def _control(probe: _probe.Probe) -> None:
    settings: dict[str, object] = {"max_local_cpu_size": _SHORT}
    # Before LMCache, and with it PyTorch, is imported, because the device then reads its options.
    vllm_setup.prepare_environment(probe.scratch, settings, own_platform=False)
    n = vllm_setup.max_model_len() - vllm_prompts.ANSWER
    with vllm_controls.replaced("lmcache.gaudi.adapter", "refuse_small_pool", lambda *given, **options: None):
        case = vllm_case.VllmCase(probe, settings)
        longest = case.prompt(1, n)
        case.ask("control: the longest request in a short pool, miss", [longest], external=[0])
    case.engine.forget_prefixes()
    with probe.section("control: the longest request in a short pool"):
        (answer,) = case.engine.generate([longest], vllm_prompts.ANSWER)
        whole = case.hit(n, n, n)
        probe.check(answer.external < whole, f"a short pool holds all {whole} tokens: the refusal is not due")
    case.close()


def _advice(probe: _probe.Probe) -> Path:
    return vllm_setup.shared_folder(probe.scratch) / "short-pool-advice"


CASES = {"short-pool": short_pool}

"""Level connector: vLLM's scheduler and LMCache's vLLM adapter, both roles, with bit-exact KV in the device's blocks.

Each case runs in its own process (``connector_case.py``): a vLLM engine on the platform plugin in ``vllm_plugin``,
with a model whose KV is a hash of the context, so that every block can be compared at every step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._vllm import children as vllm_children
    from gaudi_patch.smoke.probes._vllm import processes as vllm_processes
else:  # run by path, with its neighbours beside it
    sys.path.append(str(Path(__file__).resolve().parent))
    import _environment
    import _probe
    from _vllm import children as vllm_children
    from _vllm import processes as vllm_processes

CASES = ("blocks", "latent-attention", "identities", "failed-load", "early-preemption", "multi-connector")
_CASE_SECONDS = 300.0


def body(probe: _probe.Probe) -> None:
    """Run the cases; after a failure on an unpatched LMCache, none of the others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--habana-packages", default="")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--case-seconds", type=float, default=_CASE_SECONDS)
    options, _ = parser.parse_known_args()
    wanted = [name.strip() for name in options.cases.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - set(CASES)):
        raise ValueError(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    vllm_children.adopt_orphans()
    script = str(Path(__file__).with_name("connector_case.py"))
    for name in wanted:
        with vllm_processes.socket_folder() as sockets:
            environ = vllm_processes.environment(sockets, options.habana_packages)
            folder = probe.scratch / name
            command = [script, "--case", name, "--shared", str(probe.scratch)]
            vllm_processes.run_case(probe, name, command, environ, folder, options.case_seconds)
        if probe.failures and not _environment.is_patched():
            probe.summary.append("the other cases were not run")
            break
    vllm_processes.require_one(probe, wanted)


if __name__ == "__main__":
    _probe.main("connector", body)

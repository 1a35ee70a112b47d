"""The sources of what the checks claim, so that a reader can follow them."""

from __future__ import annotations

HABANA = "https://docs.habana.ai/en/latest"
VERIFICATION = f"{HABANA}/Installation_Guide/SW_Verification.html"
DOCKER = f"{HABANA}/Installation_Guide/Installation_Methods/Docker_Installation.html"
HL_SMI = f"{HABANA}/Management_and_Monitoring/Embedded_System_Tools_Guide/System_Management_Interface_Tool.html"
TENANTS = f"{HABANA}/Orchestration/Multiple_Tenants_on_HPU/Multiple_Dockers_each_with_Single_Workload.html"
ASSIGNMENT = f"{HABANA}/PyTorch/PyTorch_Scaling_Guide/Gaudi_Assignment.html"

UPSTREAM = "https://github.com/LMCache/LMCache/pull/2822"


def bridge(path: str) -> str:
    """Return the URL of a file in gaudi-pytorch-bridge 1.19, the newest public version."""
    return f"https://github.com/HabanaAI/gaudi-pytorch-bridge/blob/5a56187e/{path}"


def vllm_gaudi(path: str, tag: str = "v0.26.0") -> str:
    """Return the URL of a file in vllm-gaudi."""
    return f"https://github.com/vllm-project/vllm-gaudi/blob/{tag}/{path}"


def vllm(path: str) -> str:
    """Return the URL of a file in vLLM."""
    return f"https://github.com/vllm-project/vllm/blob/v0.26.0/vllm/{path}"


def lmcache(path: str) -> str:
    """Return the name of a file in the wheel of an LMCache release."""
    return f"LMCache 0.5.6, lmcache/{path}"

"""A vLLM platform plugin for smoke checks, which hands over KV caches like vllm-gaudi, without vllm-gaudi.

It is not part of the installed tool's import path. A smoke check adds the parent directory, and entry points for the
two functions below, to ``sys.path`` of the engine's processes. On the device it uses only the public ``torch.hpu``
interface, so it runs on a real Gaudi and on the emulated HPU.
"""

from __future__ import annotations

import importlib


def register() -> str:
    """Return the platform's qualified name, for vLLM's ``vllm.platform_plugins`` entry point."""
    return f"{__name__}.platform.SmokePlatform"


def register_models() -> None:
    """Register the architectures that the runner implements, for vLLM's ``vllm.general_plugins`` entry point.

    Otherwise vLLM would import its own implementation only to inspect the class.
    """
    registry = importlib.import_module("vllm").ModelRegistry
    stub = importlib.import_module(f"{__name__}.architecture").RunnerModel
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "DeepseekV2ForCausalLM"):
        registry.register_model(name, stub)

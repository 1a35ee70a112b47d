"""A vLLM platform plugin for smoke checks: vllm-gaudi's way of handing KV caches over, without vllm-gaudi.

It is no part of the installed tool's import path: a smoke check puts the directory above this one, and entry points
that name the two functions below, on the ``sys.path`` of the engine's processes. What it does on the device uses the
public ``torch.hpu`` interface only, so that it runs on a real Gaudi as well as on the emulated one.
"""

from __future__ import annotations

import importlib


def register() -> str:
    """What vLLM's ``vllm.platform_plugins`` entry point calls: the qualified name of the platform."""
    return f"{__name__}.platform.SmokePlatform"


def register_models() -> None:
    """What the ``vllm.general_plugins`` entry point calls: name the architectures that the runner has itself.

    vLLM would otherwise import its own implementation of them, only to look at the class.
    """
    registry = importlib.import_module("vllm").ModelRegistry
    stub = importlib.import_module(f"{__name__}.architecture").RunnerModel
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "DeepseekV2ForCausalLM"):
        registry.register_model(name, stub)

# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""The platform that vLLM queries before it creates an engine.

Mirrors ``vllm_gaudi/platform.py`` (v0.26.0): an out-of-tree platform of device type ``hpu``, with one device per
process, never chosen by index.
"""

from __future__ import annotations

import habana_frameworks.torch  # noqa: F401  torch.hpu exists only after this
import torch
from vllm.platforms import Platform, PlatformEnum

from .foreign import Foreign

BLOCK_SIZE = 32


class SmokePlatform(Platform):
    """An HPU as seen by vLLM."""

    _enum = PlatformEnum.OOT
    device_name = "hpu"
    device_type = "hpu"
    dispatch_key = "HPU"
    ray_device_key = "HPU"
    device_control_env_var = "HABANA_VISIBLE_MODULES"
    supported_quantization: list[str] = []  # noqa: RUF012  as vLLM's base class has it

    @classmethod
    def check_and_update_config(cls, vllm_config: Foreign) -> None:
        """Set the worker; disable compilation and asynchronous scheduling."""
        parallel = vllm_config.parallel_config
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "gaudi_smoke_hpu.worker.SmokeWorker"
        if not vllm_config.cache_config.block_size:
            vllm_config.cache_config.block_size = BLOCK_SIZE
        compilation = vllm_config.compilation_config
        for name in ("mode", "level"):  # renamed in 0.11
            if hasattr(compilation, name):
                kind = type(getattr(compilation, name))
                setattr(compilation, name, kind(0) if kind is not type(None) else 0)
        compilation.cudagraph_capture_sizes = []

    @classmethod
    def update_block_size_for_backend(cls, vllm_config: Foreign) -> None:
        """Do nothing: no attention backend changes the block size."""

    @classmethod
    def get_attn_backend_cls(cls, *arguments: Foreign, **options: Foreign) -> str:
        """Raise: the runner reads and writes the blocks itself, without a backend."""
        raise NotImplementedError("the smoke platform has no attention backend")

    @classmethod
    def set_device(cls, device: Foreign) -> None:
        """Do nothing: a Gaudi process has one device (vllm_gaudi/platform.py, set_device)."""

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """Return the platform's name for its device."""
        return cls.device_name

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Return 0, like vllm-gaudi."""
        return 0

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> Foreign:
        """Return None: capabilities are a CUDA concept."""
        return None

    @classmethod
    def get_current_memory_usage(cls, device: Foreign = None) -> float:
        """Return the bytes in use on the device."""
        return float(torch.hpu.memory_allocated())

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        """Return False, like vllm-gaudi."""
        return False

    @classmethod
    def is_async_output_supported(cls, enforce_eager: bool | None) -> bool:
        """Return False: this is not supported here."""
        return False

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        """Seed the device's generator."""
        torch.hpu.random.manual_seed_all(seed)

    @classmethod
    def inference_mode(cls) -> Foreign:
        """Return PyTorch's inference mode."""
        return torch.inference_mode(True)

    @classmethod
    def supports_v1(cls, model_config: Foreign) -> bool:
        """Return True: only the V1 engine has KV connectors of this kind."""
        return True

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        """Return True, like vllm-gaudi."""
        return True

    @classmethod
    def use_all_gather(cls) -> bool:
        """Return True, like the base class in later releases."""
        return True

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """Return the generic communicator: collectives go through the process group."""
        return "vllm.distributed.device_communicators.base_device_communicator.DeviceCommunicatorBase"

    @classmethod
    def is_kv_cache_dtype_supported(cls, kv_cache_dtype: str, model_config: Foreign = None) -> bool:
        """Return whether it is "auto": the cache always has the model's dtype."""
        return kv_cache_dtype == "auto"

    @classmethod
    def check_if_supports_dtype(cls, dtype: Foreign) -> None:
        """Do nothing: all dtypes of the tiny models are supported."""

    @property
    def supported_dtypes(self) -> list[Foreign]:
        """Return the half types and float32, which gives exact answers (vllm-gaudi forces bfloat16)."""
        return [torch.bfloat16, torch.float16, torch.float32]

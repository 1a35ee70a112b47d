# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""The class of a text generation model, for vLLM's model registry. The runner implements the model."""

from __future__ import annotations

import torch

from .foreign import Foreign


class RunnerModel(torch.nn.Module):
    """The interface that vLLM's registry checks, without an implementation."""

    def __init__(self, *, vllm_config: Foreign, prefix: str = "") -> None:
        raise NotImplementedError("the smoke platform's runner has the model itself")

    def embed_input_ids(self, input_ids: Foreign) -> Foreign:
        """Not called."""
        raise NotImplementedError

    get_input_embeddings = embed_input_ids  # its name before 0.12

    def forward(
        self,
        input_ids: Foreign,
        positions: Foreign,
        intermediate_tensors: Foreign = None,
        inputs_embeds: Foreign = None,
    ) -> Foreign:
        """Not called."""
        raise NotImplementedError

    def compute_logits(self, hidden_states: Foreign, sampling_metadata: Foreign = None) -> Foreign:
        """Not called."""
        raise NotImplementedError

    def load_weights(self, weights: Foreign) -> Foreign:
        """Not called."""
        raise NotImplementedError

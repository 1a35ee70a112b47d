# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""Tiny checkpoints with seeded random weights, built on the spot: no download, no tokenizer.

Weights of this size make the next token depend on the whole context, so that wrong KV changes the answer; vLLM's own
dummy weights (about 0.001) do not.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from .foreign import Foreign

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_SIZE, MLP, VOCABULARY = 128, 3, 4, 2, 32, 256, 512
LORA, ROPE = 48, 16
# DeepSeek's own architecture: sizes per head of the keys without position, and of the values.
NOPE = VALUE = 32

_COMMON: dict[str, Foreign] = {
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_SIZE,
}
_MLA = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_key_value_heads": HEADS,
    "kv_lora_rank": LORA,
    "q_lora_rank": None,
    "qk_rope_head_dim": ROPE,
    "qk_nope_head_dim": LORA,
    "v_head_dim": LORA,
    "n_routed_experts": 4,
    "first_k_dense_replace": LAYERS,
    "smoke_latent_attention": True,
}
#: DeepSeek-V2 without experts, as vLLM's own model reads it.
_DEEPSEEK = {
    **{name: value for name, value in _MLA.items() if name != "smoke_latent_attention"},
    "qk_nope_head_dim": NOPE,
    "v_head_dim": VALUE,
    "moe_intermediate_size": MLP,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}


def write(folder: Path, *, mla: bool = False, deepseek: bool = False, seed: int = 20240) -> Path:
    """Write a checkpoint into ``folder`` and return it.

    The default is a Llama. mla: latent attention, for this package's model; deepseek: latent attention, for vLLM's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> Foreign:
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "model.embed_tokens.weight": random(VOCABULARY, HIDDEN, scale=1.0),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": random(VOCABULARY, HIDDEN, scale=1.0),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = torch.ones(HIDDEN)
        if deepseek:
            weights[f"{prefix}self_attn.kv_a_layernorm.weight"] = torch.ones(LORA)
        for name, (rows, columns) in _projections(mla=mla, deepseek=deepseek).items():
            weights[f"{prefix}{name}.weight"] = random(rows, columns, scale=2.0 * columns**-0.5)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {**_COMMON, **(_DEEPSEEK if deepseek else _MLA if mla else _LLAMA)}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def _projections(*, mla: bool, deepseek: bool) -> dict[str, tuple[int, int]]:
    mlp = {"mlp.gate_proj": (MLP, HIDDEN), "mlp.up_proj": (MLP, HIDDEN), "mlp.down_proj": (HIDDEN, MLP)}
    if deepseek:
        return {
            "self_attn.q_proj": (HEADS * (NOPE + ROPE), HIDDEN),
            "self_attn.kv_a_proj_with_mqa": (LORA + ROPE, HIDDEN),
            "self_attn.kv_b_proj": (HEADS * (NOPE + VALUE), LORA),
            "self_attn.o_proj": (HIDDEN, HEADS * VALUE),
            **mlp,
        }
    if mla:
        latent = LORA + ROPE
        return {
            "self_attn.q_proj": (HEADS * latent, HIDDEN),
            "self_attn.kv_a_proj_with_mqa": (latent, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * LORA),
            **mlp,
        }
    return {
        "self_attn.q_proj": (HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_SIZE),
        **mlp,
    }

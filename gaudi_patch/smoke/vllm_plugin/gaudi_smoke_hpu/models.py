# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator,unused-ignore"
"""Models in plain PyTorch: a Llama, a model with latent attention (MLA), and one whose KV is a hash of its context.

A model computes one request's next token over paged caches. Attention goes through an ``attend`` callback, so that the
same weights can also be run over plain tensors on the CPU, without pages, cache or device: that is the reference for
the engine's answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from . import pattern
from .foreign import Foreign

Attend = Callable[[int, Foreign, Foreign, Foreign], Foreign]


def build(kind: str, model_config: Foreign, rank: int, world: int) -> Foreign:
    """Return the model ``kind`` on the device: "llama" (with MLA if so configured) or "pattern"."""
    if kind == "pattern":
        return pattern.PatternModel(model_config)
    folder = Path(model_config.model)
    return PagedModel(load(folder, model_config.dtype, "hpu", rank, world))


def load(folder: Path, dtype: Foreign, device: str, rank: int = 0, world: int = 1) -> Foreign:
    """Load this rank's share of a checkpoint in Hugging Face's layout (config.json, *.safetensors).

    Raises ValueError for any other architecture.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no *.safetensors in {folder}")
    weights: dict[str, Foreign] = {}
    for file in files:
        weights.update(load_file(str(file)))
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    architecture = config["architectures"][0]
    if architecture in ("LlamaForCausalLM", "MistralForCausalLM"):
        return Llama(config, weights, device, rank, world)
    if architecture == "DeepseekV2ForCausalLM" and config.get("smoke_latent_attention"):
        return LatentAttention(config, weights, device, rank, world)
    raise ValueError(f"the smoke platform runs LlamaForCausalLM and MistralForCausalLM, not {architecture}")


def all_reduce(tensor: Foreign, world: int) -> Foreign:
    """Return the sum over the ranks."""
    if world == 1:
        return tensor
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    tensor = tensor.contiguous()
    torch.distributed.all_reduce(tensor, group=group.device_group)
    return tensor


def rms_norm(x: Foreign, weight: Foreign, eps: float) -> Foreign:
    """Apply root mean square normalisation, in float32."""
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate(x: Foreign, positions: Foreign, theta: float) -> Foreign:
    """Apply rotary embedding to ``x`` [tokens, heads, size], halves rotated as in Hugging Face's Llama."""
    half = x.shape[-1] // 2
    steps = torch.arange(half, dtype=torch.float32, device=x.device) / half
    angles = positions.float()[:, None] * torch.pow(torch.tensor(theta, device=x.device), -steps)[None, :]
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    low, high = x[..., :half].float(), x[..., half:].float()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def attention(q: Foreign, k: Foreign, v: Foreign, start: int, scale: float) -> Foreign:
    """Compute causal attention of queries at positions start, start+1, … [n, heads, size] over keys from position 0."""
    heads, n, total = q.shape[1], q.shape[0], k.shape[0]
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
        v = v.repeat_interleave(heads // v.shape[1], dim=1)
    scores = torch.matmul(q.float().transpose(0, 1), k.float().permute(1, 2, 0)) * scale
    seen = torch.arange(total, device=q.device)[None, :] <= torch.arange(start, start + n, device=q.device)[:, None]
    scores = scores.masked_fill(~seen[None], float("-inf"))
    return torch.matmul(scores.softmax(-1), v.float().transpose(0, 1)).transpose(0, 1).to(q.dtype)


class Llama:
    """Llama (and Mistral without a sliding window): grouped-query attention, rotary embedding, SwiGLU."""

    use_mla = False

    def __init__(
        self, config: dict[str, Foreign], weights: dict[str, Foreign], device: str, rank: int, world: int
    ) -> None:
        scaling = config.get("rope_scaling") or {}
        if scaling.get("rope_type", scaling.get("type", "default")) != "default":
            raise ValueError(f"the smoke platform does not scale rotary embeddings ({scaling})")
        self.layers = int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        self.heads = heads // world
        self.kv_heads = int(config.get("num_key_value_heads") or heads) // world
        self.head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
        self.theta = float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta", 10000.0))
        self.eps = float(config["rms_norm_eps"])
        self.world = world
        self.device = device
        self.weights = {name: self._share(name, tensor, rank, world).to(device) for name, tensor in weights.items()}
        self.dtype = next(iter(self.weights.values())).dtype

    @staticmethod
    def _share(name: str, tensor: Foreign, rank: int, world: int) -> Foreign:
        if world == 1:
            return tensor
        if any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            return tensor.chunk(world, dim=0)[rank].contiguous()
        if any(part in name for part in ("o_proj", "down_proj")):
            return tensor.chunk(world, dim=1)[rank].contiguous()
        return tensor

    def _linear(self, x: Foreign, name: str) -> Foreign:
        y = torch.matmul(x, self.weights[name + ".weight"].t())
        bias = self.weights.get(name + ".bias")
        return y if bias is None else y + bias

    def _norm(self, x: Foreign, name: str) -> Foreign:
        return rms_norm(x, self.weights[name + ".weight"], self.eps)

    def logits(self, tokens: list[int], start: int, attend: Attend) -> Foreign:
        """Return the logits after the last of ``tokens``, which have positions start, start+1, …

        attend: called with layer, q, k, v of these tokens; returns the attention's result.
        """
        ids = torch.tensor(tokens, dtype=torch.int64).to(self.device)
        positions = torch.arange(start, start + len(tokens), dtype=torch.int64).to(self.device)
        x = self.weights["model.embed_tokens.weight"].index_select(0, ids)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            x = x + all_reduce(
                self._attention(self._norm(x, prefix + "input_layernorm"), prefix, layer, positions, attend), self.world
            )
            h = self._norm(x, prefix + "post_attention_layernorm")
            gate = torch.nn.functional.silu(self._linear(h, prefix + "mlp.gate_proj"))
            h = self._linear(gate * self._linear(h, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")
            x = x + all_reduce(h, self.world)
        x = self._norm(x[-1:], "model.norm")
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return torch.matmul(x, head.t())[0].float()

    def _attention(self, x: Foreign, prefix: str, layer: int, positions: Foreign, attend: Attend) -> Foreign:
        n = x.shape[0]
        q = self._linear(x, prefix + "self_attn.q_proj").view(n, self.heads, self.head_size)
        k = self._linear(x, prefix + "self_attn.k_proj").view(n, self.kv_heads, self.head_size)
        v = self._linear(x, prefix + "self_attn.v_proj").view(n, self.kv_heads, self.head_size)
        q, k = rotate(q, positions, self.theta), rotate(k, positions, self.theta)
        out = attend(layer, q, k, v).reshape(n, self.heads * self.head_size)
        return self._linear(out, prefix + "self_attn.o_proj")

    @property
    def scale(self) -> float:
        """Return the factor for the attention scores."""
        return float(self.head_size) ** -0.5

    def split(self, k: Foreign, v: Foreign) -> tuple[Foreign, Foreign]:
        """Split the cache's content into K and V."""
        return k, v


class LatentAttention(Llama):
    """Llama with multi-head latent attention in its absorbed form: one latent vector per token is key and value.

    The cache holds ``[kv_lora_rank + qk_rope_head_dim]`` per token; the value is the first ``kv_lora_rank`` elements.
    Every rank has the whole latent cache, as DeepSeek's models do under tensor parallelism.
    """

    use_mla = True

    def __init__(
        self, config: dict[str, Foreign], weights: dict[str, Foreign], device: str, rank: int, world: int
    ) -> None:
        super().__init__(config, weights, device, rank, world)
        self.lora = int(config["kv_lora_rank"])
        self.rope = int(config["qk_rope_head_dim"])
        self.kv_heads, self.head_size = 1, self.lora + self.rope

    def _attention(self, x: Foreign, prefix: str, layer: int, positions: Foreign, attend: Attend) -> Foreign:
        n = x.shape[0]
        q = self._linear(x, prefix + "self_attn.q_proj").view(n, self.heads, self.head_size)
        latent = self._linear(x, prefix + "self_attn.kv_a_proj_with_mqa").view(n, 1, self.head_size)
        q = torch.cat((q[..., : self.lora], rotate(q[..., self.lora :], positions, self.theta)), dim=-1)
        latent = torch.cat((latent[..., : self.lora], rotate(latent[..., self.lora :], positions, self.theta)), dim=-1)
        out = attend(layer, q, latent, None).reshape(n, self.heads * self.lora)
        return self._linear(out, prefix + "self_attn.o_proj")

    def split(self, k: Foreign, v: Foreign) -> tuple[Foreign, Foreign]:
        """Return the latent vector and its value part."""
        k = k.view(k.shape[0], 1, self.head_size)
        return k, k[..., : self.lora]


class PagedModel(torch.nn.Module):
    """A model over paged caches on the device; a module, because vLLM walks a model's modules at the end."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self._model = model
        self.layers, self.kv_heads, self.head_size = model.layers, model.kv_heads, model.head_size
        self.dtype, self.use_mla = model.dtype, model.use_mla

    def step(self, tokens: list[int], start: int, stop: int, context: Foreign, pages: list[Foreign]) -> int:
        """Compute positions [start, stop) and return the next token.

        context: the slots of positions [0, stop). pages: each layer's flat caches. The new rows are written with
        index_copy_ on the flat tensor (vllm_gaudi/extension/utils.py, VLLMKVCache.forward).
        """
        context = context.to("hpu")
        fresh = context[start:]

        def attend(layer: int, q: Foreign, k: Foreign, v: Foreign) -> Foreign:
            key, value = pages[layer][0], pages[layer][1]
            key.index_copy_(0, fresh, k.reshape(k.shape[0], *key.shape[1:]))
            if v is not None:
                value.index_copy_(0, fresh, v)
            k_seen = key.index_select(0, context)
            v_seen = None if v is None else value.index_select(0, context)
            keys, values = self._model.split(k_seen, v_seen)
            return attention(q, keys, values, start, self._model.scale)

        return int(self._model.logits(tokens[start:stop], start, attend).argmax().item())


def reference(folder: Path, dtype: Foreign, prompt: list[int], count: int) -> list[int]:
    """Return the greedy continuation of a prompt by the same weights on the CPU, without pages, cache or device."""
    model = load(folder, dtype, "cpu")

    def attend(layer: int, q: Foreign, k: Foreign, v: Foreign) -> Foreign:
        keys, values = model.split(k, v)
        return attention(q, keys, values, 0, model.scale)

    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model.logits(tokens, 0, attend).argmax().item()))
    return tokens[len(prompt) :]

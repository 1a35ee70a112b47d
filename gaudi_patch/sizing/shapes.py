"""The shape of a model's KV cache, from its config.json, its directory, or the table of common models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.reading import parse_json, read_bytes
from gaudi_patch.sizing import models

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
#: Limit in bytes; weight maps of large models are some megabytes.
_INDEX_LIMIT = 64 * 1024 * 1024
#: Larger than any number of a real model: a config.json with more is a mistake or an attack.
_LIMIT = 2**31
#: Layers that keep a state instead of keys and values for each token.
_RECURRENT = ("linear_attention", "mamba", "recurrent", "gated_deltanet", "rwkv", "conv")
_RECURRENT_KEYS = ("ssm_cfg", "mamba_d_state", "ssm_state_size", "state_size", "linear_num_key_heads")


@dataclass(frozen=True)
class Shape:
    """The KV of one token: ``layers`` of ``kv_heads`` pairs of ``head_size`` values.

    With MLA, ``mla`` is true, there is one head, and ``head_size`` is the width of the latent with its rotary part,
    kept once for keys and values. ``longest`` is the model's own context in tokens (None: not stated), ``weights`` the
    bytes of its weights (None: unknown), and ``source`` names where the shape was read.
    """

    name: str
    layers: int
    kv_heads: int
    head_size: int
    mla: bool
    longest: int | None
    weights: int | None
    source: str


def known(name: str) -> Shape | None:
    """Return the shape of a model in the table; None if it is not listed."""
    row = models.find(name)
    if row is None:
        return None
    mla = row.kv_heads == 0
    heads = 1 if mla else row.kv_heads
    source = "gaudi-patch's table of models"
    return Shape(name, row.layers, heads, row.head_size, mla, row.longest, row.weights, source)


def find(name: str, config: Path | None = None, cache: Path | None = None) -> Shape | None:
    """Return the shape of model ``name``: from ``config``, a directory of that name, a download, or the table.

    ``config`` is a config.json or a model's directory, ``cache`` the hub directory of Hugging Face's downloads. Returns
    None for an unknown model; raises a usage error for a config.json that cannot be sized.
    """
    if config is not None:
        return read(config, name)
    if (Path(name) / CONFIG).is_file():
        return read(Path(name), name)
    if cache is not None and (file := _downloaded(cache, name)) is not None:
        return read(file, name)
    return known(name)


def hub(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of Hugging Face's downloads in this environment; None without a home."""
    if "HF_HUB_CACHE" in environ:
        return Path(environ["HF_HUB_CACHE"])
    if "HF_HOME" in environ:
        return Path(environ["HF_HOME"], "hub")
    home = environ.get("HOME")
    return Path(home, ".cache", "huggingface", "hub") if home else None


def _downloaded(cache: Path, name: str) -> Path | None:
    """Return the config.json of a downloaded model, from the branch main, else from the only snapshot."""
    folder = cache / f"models--{name.replace('/', '--')}"
    try:
        revision = read_bytes(folder / "refs" / "main", 256).decode("ascii").strip()
        snapshots = [folder / "snapshots" / revision]
    except (OSError, ValueError):
        snapshots = list((folder / "snapshots").glob("*"))
    files = [snapshot / CONFIG for snapshot in snapshots if (snapshot / CONFIG).is_file()]
    return files[0] if len(files) == 1 else None


def read(path: Path, name: str = "") -> Shape:
    """Return the shape that a config.json, or the directory of a model, describes.

    Raises a usage error if the file is missing or not a config.json, or if the model keeps no KV for each token.
    """
    file = path / CONFIG if path.is_dir() else path
    try:
        values = parse_json(read_bytes(file))
    except OSError as error:
        raise _unusable(file, error.strerror or str(error)) from error
    except ValueError as error:
        raise _unusable(file, f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise _unusable(file, "not a JSON object")
    return _shape(values, file, name or str(path))


def _shape(values: dict[str, Any], file: Path, name: str) -> Shape:
    text = values.get("text_config")
    text = {**values, **text} if isinstance(text, dict) else values
    _refuse_recurrent(text, file)
    fields = _Fields(text, file)
    layers = fields.number("num_hidden_layers", "n_layer", "num_layers")
    heads = fields.number("num_attention_heads", "n_head", "num_heads")
    latent = fields.optional("kv_lora_rank")
    if latent is not None:
        kv_heads, head_size = 1, latent + fields.number("qk_rope_head_dim")
    else:
        single = text.get("multi_query") is True and not text.get("new_decoder_architecture")
        kv_heads = 1 if single else fields.optional("num_key_value_heads", "num_kv_heads", "n_head_kv") or heads
        head_size = fields.optional("head_dim") or fields.number("hidden_size", "n_embd", "d_model") // heads
        if not head_size:
            raise _unusable(file, "hidden_size is less than num_attention_heads")
    longest = fields.optional("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    weights = _weights(file.with_name(INDEX))
    return Shape(name, layers, kv_heads, head_size, latent is not None, longest, weights, str(file))


class _Fields:
    """Integers of a config.json, each checked against the range of a real model."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        self._values, self._file = values, file

    def optional(self, *names: str) -> int | None:
        name = next((name for name in names if self._values.get(name) is not None), None)
        if name is None:
            return None
        value = self._values[name]
        if type(value) is not int or not 0 < value < _LIMIT:
            raise _unusable(self._file, f"{name} is {value!r}, not a number of them")
        return value

    def number(self, *names: str) -> int:
        value = self.optional(*names)
        if value is None:
            raise _unusable(self._file, f"it has no {names[0]}")
        return value


def _refuse_recurrent(values: Mapping[str, Any], file: Path) -> None:
    kinds = values.get("layer_types") or values.get("layers_block_type") or ()
    found = sorted({str(kind) for kind in kinds if any(word in str(kind) for word in _RECURRENT)})
    found += [name for name in _RECURRENT_KEYS if values.get(name)]
    if found:
        reason = f"a hybrid model ({', '.join(found)}): some layers keep a state instead of KV for each token"
        raise _unusable(file, reason)


def _weights(index: Path) -> int | None:
    """Return the bytes of the weights that a safetensors index declares, or None without an index."""
    try:
        values = parse_json(read_bytes(index, _INDEX_LIMIT))
    except (OSError, ValueError):
        return None
    metadata = values.get("metadata") if isinstance(values, dict) else None
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(size) if isinstance(size, int | float) and 0 < size < 2**50 else None


def _unusable(file: Path, why: str) -> GaudiPatchError:
    return GaudiPatchError(
        Exit.USAGE,
        "model-not-sized",
        f"the model cannot be sized: {why}",
        "pass the model's config.json, or its directory, with --model-config",
        str(file),
    )

"""The shape of a model, read from its directory, or refused with the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.sizing import models, shapes

LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


def write(folder: Path, values: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    return file


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (LLAMA, (32, 8, 128, False)),
        (LLAMA | {"head_dim": 256}, (32, 8, 256, False)),
        ({**LLAMA, "num_key_value_heads": None}, (32, 32, 128, False)),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, (12, 12, 64, False)),
        ({"n_layer": 52, "n_head": 48, "n_embd": 6144, "multi_query": True}, (52, 1, 128, False)),
        (LLAMA | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}, (32, 1, 576, True)),
        ({"model_type": "llava", "text_config": LLAMA, "num_hidden_layers": 7}, (32, 8, 128, False)),
    ],
)
def test_a_config_is_read_as_its_model_means_it(
    values: dict[str, Any], expected: tuple[int, int, int, bool], tmp_path: Path
) -> None:
    found = shapes.read(write(tmp_path, values))
    assert (found.layers, found.kv_heads, found.head_size, found.mla) == expected
    assert found.source == str(tmp_path / "config.json")
    assert shapes.read(tmp_path) == shapes.read(tmp_path / "config.json", str(tmp_path))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({"num_attention_heads": 8, "hidden_size": 64}, "num_hidden_layers"),
        (LLAMA | {"num_hidden_layers": "32"}, "num_hidden_layers is '32'"),
        (LLAMA | {"num_hidden_layers": True}, "not a number of them"),
        (LLAMA | {"num_attention_heads": 0}, "not a number of them"),
        (LLAMA | {"head_dim": 2**40}, "not a number of them"),
        (LLAMA | {"hidden_size": 8}, "less than"),
        (LLAMA | {"kv_lora_rank": 512}, "qk_rope_head_dim"),
        (LLAMA | {"layer_types": ["full_attention", "linear_attention"]}, "hybrid"),
        (LLAMA | {"mamba_d_state": 16}, "hybrid"),
    ],
)
def test_what_cannot_be_sized_is_refused_with_the_reason(values: object, word: str, tmp_path: Path) -> None:
    with pytest.raises(GaudiPatchError, match=word) as caught:
        shapes.read(write(tmp_path, values))
    assert caught.value.code == "model-not-sized"
    assert caught.value.file == str(tmp_path / "config.json")


def test_a_config_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GaudiPatchError, match="No such file"):
        shapes.read(tmp_path / "config.json")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(GaudiPatchError, match="FIFO"):
        shapes.read(tmp_path / "config.json")


def test_the_index_tells_the_size_of_the_weights(tmp_path: Path) -> None:
    write(tmp_path, LLAMA)
    assert shapes.read(tmp_path).weights is None
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 123}, "weight_map": {}}')
    assert shapes.read(tmp_path).weights == 123
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": -1}}')
    assert shapes.read(tmp_path).weights is None


def test_what_is_nearer_goes_before_what_is_farther(tmp_path: Path) -> None:
    """A named file, then a directory, a download and the table, in this order; otherwise the shape is unknown."""
    name = "meta-llama/Llama-3.1-8B-Instruct"
    cache = tmp_path / "hub"
    snapshot = cache / "models--meta-llama--Llama-3.1-8B-Instruct" / "snapshots" / "abc"
    given = write(tmp_path / "given", LLAMA | {"num_hidden_layers": 1})
    write(snapshot, LLAMA | {"num_hidden_layers": 2})
    downloaded = shapes.find(name, None, cache)
    assert (shapes.find(name, given, cache) or downloaded) == shapes.read(given, name)
    assert downloaded is not None
    assert (downloaded.layers, downloaded.name) == (2, name)
    write(snapshot.with_name("def"), LLAMA | {"num_hidden_layers": 3})
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("def")
    newer = shapes.find(name, None, cache)
    assert newer is not None
    assert newer.layers == 3
    assert shapes.find(name, None, tmp_path / "empty") == shapes.known(name)
    assert shapes.find("who/knows", None, cache) is None
    directory = shapes.find(str(given.parent), None, cache)
    assert directory is not None
    assert directory.layers == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"HF_HOME": "/b", "HOME": "/c"}, "/b/hub"),
        ({"HOME": "/c"}, "/c/.cache/huggingface/hub"),
        ({}, "None"),
    ],
)
def test_downloads_are_where_hugging_face_puts_them(environ: dict[str, str], expected: str) -> None:
    assert str(shapes.hub(environ)) == expected


def test_a_model_is_in_the_table_once() -> None:
    names = list(models.names())
    assert len(names) == len(set(names)) > 15
    assert all(shapes.known(name) is not None for name in names)

"""The files of a recipe, mode by mode: their contents, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.recipes.compose import MODES, Recipe, Settings, compose
from gaudi_patch.recipes.release import LM_KEY_LENGTH, Release, known
from gaudi_patch.series.manifest import load

IN_PROCESS = [mode for mode in MODES if mode != "multiprocess"]


def release(version: str = "0.5.6", agree: bool | None = False) -> Release:
    manifest = load()
    return known(manifest, manifest.verdict(version).series, version, lambda: agree)


def recipe(mode: str, version: str = "0.5.6", agree: bool | None = False, **settings: object) -> Recipe:
    return compose(MODES[mode], release(version, agree), Settings(**settings))  # type: ignore[arg-type]


def refusal(mode: str, version: str = "0.5.6", agree: bool | None = False, **settings: object) -> str:
    with pytest.raises(GaudiPatchError) as caught:
        recipe(mode, version, agree, **settings)
    return caught.value.code


def words(script: str) -> list[str]:
    """Return the command that a script executes."""
    lines = script[script.index('\nexec "$python"') :]
    return shlex.split(lines.replace("\\\n", " "))[2:-1]


def fake_python(folder: Path, prints: str) -> Path:
    """Return an interpreter that finds LMCache in order and, asked to serve, prints its arguments and environment."""
    fake = folder / "bin" / "python3"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f'#!/bin/sh\n[ "$1" = -B ] && exit 0\n{prints}\n')
    fake.chmod(0o755)
    return fake


@pytest.mark.parametrize("mode", MODES)
def test_every_script_is_one_that_a_shell_takes(mode: str, tmp_path: Path) -> None:
    for name, content in recipe(mode, model="models/with a space").files.items():
        if name.endswith(".sh"):
            file = tmp_path / name
            file.write_text(content)
            assert subprocess.run(["sh", "-n", str(file)], check=False).returncode == 0
    assert any(name.endswith(".sh") for name in recipe(mode).files)


@pytest.mark.parametrize("mode", MODES)
def test_a_script_that_serves_finds_its_configuration_and_passes_arguments_on(mode: str, tmp_path: Path) -> None:
    """The interpreter prints its arguments and what it finds in the environment."""
    fake = fake_python(tmp_path, 'printf "%s\\n" "$LMCACHE_CONFIG_FILE" "$PYTHONHASHSEED" "$VLLM_DEFRAG" "$@"')
    folder = tmp_path / "a b"
    folder.mkdir()
    storage = {"storage": str(tmp_path / "kv")} if mode == "disk" else {}
    found = recipe(mode, model="a model", ranks=2, port=8100, **storage)
    for name, content in found.files.items():
        (folder / name).write_text(content)
    served = [f"{process.name}.sh" for process in found.processes if process.serves]
    assert served
    for name in served:
        done = subprocess.run(
            ["sh", str(folder / name), "--max-model-len", "4096"],
            capture_output=True,
            text=True,
            env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
            cwd="/",
            check=True,
        )
        config, seed, defrag, *arguments = done.stdout.splitlines()
        assert config == ("" if mode == "multiprocess" else str(folder / "lmcache.yaml"))
        assert seed == "0"
        assert defrag == ("" if name == "mi300x.sh" else "false")
        assert arguments[:4] == ["-m", "vllm.entrypoints.cli.main", "serve", "a model"]
        assert arguments[-2:] == ["--max-model-len", "4096"]
        transfer = json.loads(arguments[arguments.index("--kv-transfer-config") + 1])
        assert transfer["kv_connector"] == ("LMCacheMPConnector" if mode == "multiprocess" else "LMCacheConnectorV1")
        assert transfer["kv_role"] == ("kv_consumer" if name == "decode.sh" else "kv_both")


def test_prefill_and_decode_listen_where_the_proxy_looks_and_share_one_configuration() -> None:
    files = recipe("disaggregated").files
    ports = [words(files[name])[words(files[name]).index("--port") + 1] for name in ("prefill.sh", "decode.sh")]
    assert ports == ["8100", "8200"], "the defaults of vllm-gaudi's proxy, which listens on 8000"
    assert refusal("disaggregated", port=65400) == "usage"
    assert [name for name in files if name.endswith(".yaml")] == ["lmcache.yaml"]


@pytest.mark.parametrize(("mode", "version"), [("memory", "0.4.2"), ("memory", "0.4.3"), ("mixed", "0.4.2")])
def test_unified_attention_is_turned_off_where_vllm_gaudi_has_it(mode: str, version: str) -> None:
    files = recipe(mode, version).files
    for name, content in files.items():
        expected = version == "0.4.2" and name in ("serve.sh", "gaudi.sh")
        assert ("unset VLLM_UNIFIED_ATTN" in content) == expected


def test_the_server_listens_where_the_engines_look() -> None:
    found = recipe("remote", storage="lm://10.0.0.7:7000")
    assert words(found.files["server.sh"]) == ["-m", "lmcache.v1.server", "10.0.0.7", "7000", "cpu"]
    assert found.config["remote_url"] == "lm://10.0.0.7:7000"


def test_a_server_may_listen_elsewhere_than_engines_look() -> None:
    found = recipe("remote", storage="lm://cache.example:7000", bind="10.0.0.7")
    assert words(found.files["server.sh"])[2:4] == ["10.0.0.7", "7000"]
    assert found.config["remote_url"] == "lm://cache.example:7000"
    assert words(found.files["serve.sh"])[words(found.files["serve.sh"]).index("--host") + 1] == "10.0.0.7"
    assert refusal("remote", storage="lm://0.0.0.0:7000") == "usage"


def test_a_disaggregated_recipe_takes_a_folder_in_place_of_a_server() -> None:
    found = recipe("disaggregated", storage="/mnt/kv")
    assert found.config["remote_url"] == "fs://localhost:0/mnt/kv/"
    assert "server.sh" not in found.files
    assert "server.sh" not in " ".join(found.notes)


@pytest.mark.parametrize(
    ("mode", "storage"),
    [
        ("disk", "relative"),
        ("disk", "/with a space"),
        ("disk", "lm://host:1"),
        ("shared", "/a,b"),
        ("mixed", "fs://host:1/x"),
        ("remote", "lm://host"),
        ("remote", "lm://host:99999"),
        ("remote", "lm://host:1/path"),
        ("remote", "lm://[::1]:1"),
        ("remote", "redis://host:1/two"),
        ("remote", "redis://user:password@host:1"),
        ("remote", "http://host:1"),
        ("remote", "s3://bucket.example"),
        ("remote", "s3://bucket.s3.eu-west-1.amazonaws.com/path"),
        ("multiprocess", "rediss://host:1"),
        ("multiprocess", "redis://host:1/2"),
        ("multiprocess", "lm://host:1"),
    ],
)
def test_a_store_that_lmcache_would_misread_is_refused(mode: str, storage: str) -> None:
    assert refusal(mode, storage=storage) == "usage"


@pytest.mark.parametrize("chunk", [0, -128, 100, 200])
def test_a_chunk_is_a_number_of_whole_blocks(chunk: int) -> None:
    assert refusal("memory", chunk=chunk) == "usage"
    assert recipe("memory", chunk=384).config["chunk_size"] == 384


def test_two_modes_between_them_have_every_key() -> None:
    """So the tests on real releases need only these two, plus the tests of the stores."""
    both = {**recipe("disk").config, **recipe("disaggregated").config}
    assert set(both) == {key for mode in IN_PROCESS for key in recipe(mode).config}


def extra_config(script: str, tmp_path: Path) -> dict[str, object] | None:
    """Return the settings that the script passes to LMCache besides its file."""
    fake = fake_python(tmp_path, 'printf "%s" "$LMCACHE_EXTRA_CONFIG"')
    path = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=path, check=True)
    found: dict[str, object] | None = json.loads(done.stdout) if done.stdout else None
    return found


@pytest.mark.parametrize("mode", MODES)
def test_engines_that_share_a_folder_never_share_a_temporary_file(mode: str, tmp_path: Path) -> None:
    """LMCache's default is the chunk's name with .tmp, the same in all engines."""
    found = recipe(mode, storage=str(tmp_path)) if mode not in ("memory", "remote", "multiprocess") else recipe(mode)
    shares = str(found.config.get("remote_url")).startswith("fs:")
    assert shares == (mode in ("shared", "mixed", "disaggregated"))
    served = [found.files[f"{process.name}.sh"] for process in found.processes if process.serves]
    folders = [extra_config(one, tmp_path) for one in served]
    if not shares:
        assert not any(folders)
        return
    names = [str((one or {})["fs_connector_relative_tmp_dir"]) for one in folders]
    assert all(name.startswith(f"tmp-{os.uname().nodename}-8") for name in names)
    if mode == "disaggregated":
        assert len(set(names)) == 2, "prefill and decode may be on one host"


# What a release cannot do


@pytest.mark.parametrize("version", ["0.3.9", "0.4.2", "0.4.6", "0.5.4"])
def test_multiprocess_mode_is_refused_with_the_reason_of_the_release(version: str) -> None:
    assert refusal("multiprocess", version) == "mode-refused"


def test_multiprocess_mode_goes_by_the_capability_of_the_series() -> None:
    manifest = load()
    able = {one.id for one in manifest.series if "mp-engine-driven" in one.capabilities}
    assert {"0.5.5", "0.5.6"} <= able
    for version in able:
        assert recipe("multiprocess", version).server


@pytest.mark.parametrize("mode", ["remote", "shared", "mixed", "disaggregated"])
def test_a_shared_cache_is_refused_where_each_process_has_its_own_keys(mode: str) -> None:
    assert refusal(mode, "0.3.12", False) == "keys-differ"
    assert recipe(mode, "0.3.12", True).config["pre_caching_hash_algorithm"] == "builtin"
    assert recipe(mode, "0.3.13", (3, 10)).config["pre_caching_hash_algorithm"] == "sha256_cbor"


def test_ranks_are_processes_that_share_keys_too() -> None:
    assert refusal("memory", "0.3.9", False, ranks=2) == "keys-differ"
    assert recipe("memory", "0.3.9", False, ranks=1)


def test_without_an_interpreter_the_file_says_which_python_the_keys_need() -> None:
    assert "Python 3.12" in recipe("shared", "0.3.9", None).files["lmcache.yaml"]
    assert "Python 3.12" not in recipe("shared", "0.4.2", None).files["lmcache.yaml"]


def test_a_model_name_that_makes_keys_too_long_for_the_server_is_refused() -> None:
    long = "/models/" + "x" * 80
    assert refusal("remote", "0.4.2", model=long) == "key-too-long"
    assert recipe("shared", "0.4.2", model=long)
    assert recipe("remote", "0.5.6", model=long), "keys are shorter from 0.4.6 on"
    assert refusal("remote", "0.5.6", model="/models/" + "x" * LM_KEY_LENGTH) == "key-too-long"


def test_a_release_that_pairs_with_no_vllm_gaudi_gets_no_recipe() -> None:
    with pytest.raises(GaudiPatchError) as caught:
        release("0.3.7")
    assert caught.value.exit is Exit.REFUSED
    assert caught.value.code == "no-pair"
    assert "vLLM 0.10" in str(caught.value)


@pytest.mark.parametrize("version", [one.id for one in load().series if one.id != "0.3.7"])
@pytest.mark.parametrize("mode", IN_PROCESS)
def test_every_release_has_every_other_mode(mode: str, version: str) -> None:
    found = recipe(mode, version, True)
    assert found.config["chunk_size"] == 256
    assert f"# For LMCache {version};" in found.files["lmcache.yaml"]

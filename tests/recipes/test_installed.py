"""Recipes for real releases: the installed LMCache must load them, and make the same keys in every process."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recipes.test_compose import words
from tests.support.cli import Done, gaudi_patch
from tests.support.environments import Environment

pytestmark = [pytest.mark.wheels, pytest.mark.torch]
KEYS = Path(__file__).with_name("keys_process.py")
VERSIONS = ("0.3.9", "0.4.2", "0.4.4", "0.5.6")

Overlay = Callable[[str], Environment]


def recipe(environment: Environment, mode: str, *more: str | Path) -> Done:
    return gaudi_patch("recipe", mode, "--python", environment.python, "--json", *more)


# These two cover every configuration key. The third mode has none; it is tested with vLLM's environment.
@pytest.mark.parametrize("mode", ["disk", "disaggregated"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_release_itself_takes_every_mode_that_it_can_do(lmcache_overlay: Overlay, version: str, mode: str) -> None:
    environment = lmcache_overlay(version)
    done = recipe(environment, mode)
    if mode == "disaggregated" and version == "0.3.9" and not _agree_on_none(environment):
        assert done.code_of_error == "keys-differ"
    else:
        assert done.code == 0, done.out
        assert (done.json["data"]["lmcache"], done.json["data"]["checked"]) == (version, True)


def test_a_server_that_misses_what_it_imports_is_not_called_fine(lmcache_copy: Overlay) -> None:
    environment = lmcache_copy("0.5.6")
    (environment.site_packages / "httpx.py").write_text("raise ModuleNotFoundError(\"No module named 'httpx'\")\n")
    done = recipe(environment, "multiprocess")
    assert (done.code, done.code_of_error) == (4, "cannot-validate")
    assert done.json["errors"][0]["details"] == ["ModuleNotFoundError: No module named 'httpx'"]


@pytest.mark.parametrize("mode", ["memory", "multiprocess"])
def test_what_lmcache_goes_on_without_is_told_as_that(lmcache_copy: Overlay, mode: str) -> None:
    """Before: a recipe for an LMCache that cannot run, or "cannot import name 'device_ops'"."""
    environment = lmcache_copy("0.5.6")
    (extension,) = (environment.site_packages / "lmcache").glob("lmcache_native*.so")
    extension.write_bytes(b"no library" * 1000)
    done = recipe(environment, mode)
    assert (done.code, done.code_of_error) == (4, "cannot-validate"), done.out
    (told,) = done.json["errors"][0]["details"]
    assert told.startswith("LMCache's extension lmcache.lmcache_native does not load: "), told
    assert "reinstall LMCache 0.5.6" in told


def test_a_patched_release_also_asks_its_own_refusals(lmcache_copy: Overlay) -> None:
    environment = lmcache_copy("0.5.6")
    before = recipe(environment, "memory").json
    assert before["data"]["guarded"] is False
    assert "not patched" in before["warnings"][0]
    assert gaudi_patch("apply", "--no-smoke", "--python", environment.python).code == 0
    after = recipe(environment, "memory").json
    assert after["data"]["guarded"] is True
    assert after["warnings"] == []


def test_what_lmcache_would_not_load_as_written_is_not_written(lmcache_copy: Overlay, tmp_path: Path) -> None:
    """A build that has renamed one key, dropped one, and loads one differently."""
    environment = lmcache_copy("0.5.6")
    file = environment.site_packages / "lmcache" / "v1" / "config.py"
    text = file.read_text()
    for old, new in (
        ('    "save_unfull_chunk": {', '    "keep_unfull_chunk": {'),
        ('"enable_xpyd": "enable_pd",', '"enable_xpyd": "enable_pd", "local_cpu": "enable_cpu",'),
        ('"chunk_size": {"type": int, "default": 256, "env_converter": int}',
         '"chunk_size": {"type": int, "default": 256, "env_converter": lambda x: 16}'),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    done = recipe(environment, "memory", "--out", tmp_path / "out")
    assert done.code_of_error == "recipe-rejected"
    (error,) = done.json["errors"]
    details = "\n".join(error["details"])
    assert "does not know save_unfull_chunk" in details
    assert "another name for local_cpu" in details
    assert "loads chunk_size as 16, not as 256" in details
    assert not (tmp_path / "out").exists()


def test_a_server_argument_that_lmcache_does_not_know_is_told(lmcache_copy: Overlay) -> None:
    environment = lmcache_copy("0.5.6")
    file = environment.site_packages / "lmcache" / "v1" / "distributed" / "config.py"
    text = file.read_text()
    assert '"--l1-size-gb"' in text
    file.write_text(text.replace('"--l1-size-gb"', '"--l1-size-gib"'))
    done = recipe(environment, "multiprocess")
    assert done.code_of_error == "recipe-rejected"
    assert done.json["errors"][0]["details"] == ["ValueError: unrecognized arguments: --l1-size-gb 33.6"]


def test_an_lmcache_that_cannot_be_imported_checks_nothing(lmcache_copy: Overlay, tmp_path: Path) -> None:
    environment = lmcache_copy("0.5.6")
    (environment.site_packages / "_torch_environment.pth").unlink()
    done = recipe(environment, "memory", "--out", tmp_path / "out")
    assert (done.code, done.code_of_error) == (4, "cannot-validate")
    assert not (tmp_path / "out").exists()


def test_files_are_written_once_and_never_over_others(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    environment, out = lmcache_overlay("0.5.6"), tmp_path / "out"
    assert recipe(environment, "memory", "--out", out).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["lmcache.yaml", "preflight.py", "serve.sh"]
    assert (out / "serve.sh").stat().st_mode & stat.S_IXUSR
    assert recipe(environment, "memory", "--out", out).code == 0, "the same again"
    mine = (out / "lmcache.yaml").read_text() + "# mine\n"
    (out / "lmcache.yaml").write_text(mine)
    again = recipe(environment, "disk", "--out", out)
    assert (again.code, again.code_of_error) == (1, "would-overwrite")
    assert (out / "lmcache.yaml").read_text() == mine


def test_the_doctor_finds_no_fault_with_a_recipe(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    environment, out = lmcache_overlay("0.5.6"), tmp_path / "out"
    assert (
        recipe(
            environment,
            "disk",
            "--storage",
            tmp_path / "kv",
            "--cpu-gb",
            "0.5",
            "--max-model-len",
            "2048",
            "--disk-gb",
            "0.1",
            "--out",
            out,
        ).code
        == 0
    )
    script = (out / "serve.sh").read_text()
    variables = dict(re.findall(r"export ((?:VLLM|PYTHON)\w+)=(\w+)", script))
    assert len(variables) == 4
    done = gaudi_patch(
        *("doctor", "--json", "--python", environment.python, "--config", out / "lmcache.yaml"),
        *("--vllm-args", shlex.join(["vllm", *words(script)[2:]])),
        env=variables,
    )
    found = {one["id"]: one for one in done.json["data"]["findings"]}
    mine = [
        one
        for name, one in found.items()
        if name.startswith(("config.", "vllm."))
        or name in ("env.hash-seed", "env.defragmentation", "env.unified-attention", "storage.local-disk")
    ]
    assert len(mine) > 20
    assert [one for one in mine if one["level"] != "ok" and one["id"] != "vllm.ranks"] == []  # no card is seen here


@pytest.mark.parametrize("version", VERSIONS)
def test_a_release_reads_the_folder_for_temporary_files_from_the_environment(
    version: str, lmcache_overlay: Overlay, tmp_path: Path
) -> None:
    environment = lmcache_overlay(version)
    config = _config(environment, tmp_path)
    (value,) = re.findall(r"LMCACHE_EXTRA_CONFIG=(.*)", config.with_name("serve.sh").read_text())
    code = (
        "import sys\nfrom lmcache.v1.config import LMCacheEngineConfig\n"
        "config = LMCacheEngineConfig.from_file(sys.argv[1])\nconfig.update_config_from_env()\n"
        "print('found:', config.get_extra_config_value('fs_connector_relative_tmp_dir', None))"
    )
    done = environment.run("-c", code, config, env={"LMCACHE_EXTRA_CONFIG": shlex.split(value)[0]})
    assert "found: tmp-$(uname -n)-8000" in done.stdout, done.stderr[-2000:]


# Keys


def keys(environment: Environment, config: Path, *more: str) -> tuple[int, list[str], str]:
    done = environment.run(KEYS, config, *more, env={"PYTHONHASHSEED": "0"}, cwd=config.parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("keys:")]
    return done.returncode, lines, done.stderr


def _config(environment: Environment, folder: Path) -> Path:
    """Return the configuration of a shared cache, unchecked, since it may be refused for 0.3.9."""
    done = gaudi_patch("recipe", "shared", "--lmcache", environment.version, "--out", folder)
    assert done.code == 0, done.err
    return folder / "lmcache.yaml"


def _agree_on_none(environment: Environment) -> bool:
    """Return whether processes of this interpreter compute the same hash(None), which keys of old releases contain."""
    return len({environment.run("-c", "print(hash(None))").stdout for _ in range(4)}) == 1


@pytest.mark.parametrize("version", [one for one in VERSIONS if one != "0.3.9"])
def test_two_processes_make_the_same_keys(lmcache_overlay: Overlay, tmp_path: Path, version: str) -> None:
    environment = lmcache_overlay(version)
    config = _config(environment, tmp_path)
    first, second = keys(environment, config), keys(environment, config)
    assert first[0] == 0, first[2][-2000:]
    assert len(first[1][0].split()) == 3
    assert first[1] == second[1]


@pytest.mark.skipif(not Path("/proc/sys/kernel/randomize_va_space").is_file(), reason="addresses are not random")
def test_keys_of_older_releases_agree_where_processes_agree_on_none(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    """The reason why `recipe` and `doctor` measure this instead of checking Python's version."""
    environment = lmcache_overlay("0.3.9")
    config = _config(environment, tmp_path)
    found = {keys(environment, config)[1][0] for _ in range(3)}
    assert (len(found) == 1) is _agree_on_none(environment)


def test_digests_cannot_be_keys_of_older_releases(lmcache_overlay: Overlay, tmp_path: Path) -> None:
    """The reason why these releases get Python's hash: vLLM's digest raises a TypeError when the key is written."""
    environment = lmcache_overlay("0.3.9")
    code, lines, errors = keys(environment, _config(environment, tmp_path), "sha256_cbor")
    assert (code, lines) == (1, [])
    assert "TypeError: unsupported format string passed to bytes" in errors, errors[-2000:]

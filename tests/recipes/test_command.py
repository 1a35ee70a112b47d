"""`recipe` without an installation: what it lists, writes and refuses, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaudi_patch.recipes.compose import MODES
from tests.support.cli import gaudi_patch


def test_without_a_mode_the_modes_are_listed() -> None:
    done = gaudi_patch("recipe", "--json")
    assert [one["mode"] for one in done.json["data"]["modes"]] == list(MODES)


def test_a_recipe_that_nothing_has_loaded_says_so(tmp_path: Path) -> None:
    done = gaudi_patch("recipe", "memory", "--lmcache", "0.5.6", "--out", tmp_path / "out")
    assert done.code == 0
    assert "not validated by any LMCache" in done.err
    assert "accepts every value" not in done.out
    assert (tmp_path / "out" / "serve.sh").is_file()
    assert gaudi_patch("recipe", "memory", "--lmcache", "0.5.6", "--json").json["data"]["checked"] is False


def test_without_a_folder_the_files_are_printed_and_nothing_is_written(tmp_path: Path) -> None:
    done = gaudi_patch("recipe", "remote", "--lmcache", "0.4.2", cwd=tmp_path)
    for name in ("server.sh", "lmcache.yaml", "serve.sh"):
        assert f"==> {name} <==" in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_mode_takes_what_it_has_a_use_for() -> None:
    done = gaudi_patch("recipe", "disk", "--lmcache", "0.5.6", "--storage", "/srv/kv", "--disk-gb", "7", "--json")
    assert "max_local_disk_size: 7.0" in done.json["data"]["files"]["lmcache.yaml"]
    assert "file:///srv/kv/engine-8000/" in done.json["data"]["files"]["lmcache.yaml"]
    default = gaudi_patch("recipe", "disk", "--lmcache", "0.5.6", "--json").json["data"]["files"]["lmcache.yaml"]
    assert "max_local_disk_size: 50.0" in default


@pytest.mark.parametrize("option", [("--out", "x"), ("--storage", "/x"), ("--port", "8000"), ("--lmcache", "0.5.6")])
def test_the_list_of_modes_refuses_what_it_would_ignore(option: tuple[str, str], tmp_path: Path) -> None:
    done = gaudi_patch("recipe", *option, "--json", cwd=tmp_path)
    assert (done.code, done.code_of_error) == (2, "usage")
    assert option[0] in done.json["errors"][0]["message"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["nonsense", "--lmcache", "0.5.6"], 2, "unknown-mode"),
        (["memory", "--lmcache", "0.5.6", "--chunk-size", "100"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--python", "python3"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--storage", "/mnt"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--disk-gb", "50"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--quotas"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--prompts", "3", "--cpu-gb", "50"], 2, "usage"),
        (["multiprocess", "--lmcache", "0.5.6", "--disk-gb", "1"], 2, "usage"),
        (["multiprocess", "--lmcache", "0.5.6", "--port", "5555"], 2, "usage"),
        (["multiprocess", "--lmcache", "0.5.6", "--port", "5556"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--cpu-gb", "nan"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--cpu-gb", "inf"], 2, "usage"),
        (["disk", "--lmcache", "0.5.6", "--disk-gb", "nan"], 2, "usage"),
        (["remote", "--lmcache", "0.5.6", "--bind", "127.0.0.1\ntouch /tmp/x"], 2, "usage"),
        (["shared", "--lmcache", "0.5.6", "--storage", "/mnt/x\nAssertPathExists=/nope"], 2, "usage"),
        (["memory", "--lmcache", "0.5.6", "--model", "a/b\rc"], 2, "usage"),
        (["disk", "--lmcache", "0.5.6", "--storage", ""], 2, "usage"),
        (["memory", "--lmcache", "0.3.5"], 3, "refused-version"),
        (["memory", "--lmcache", "99"], 3, "unknown-version"),
        (["memory", "--lmcache", "0.3.7"], 1, "no-pair"),
        (["multiprocess", "--lmcache", "0.5.4"], 1, "mode-refused"),
    ],
)
def test_a_refusal_has_its_code_and_writes_nothing(
    arguments: list[str], exit_code: int, code: str, tmp_path: Path
) -> None:
    done = gaudi_patch("recipe", *arguments, "--json", "--out", tmp_path / "out")
    assert (done.code, done.code_of_error) == (exit_code, code)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_text_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "serve.sh").write_bytes(b"\xff")
    done = gaudi_patch("recipe", "memory", "--lmcache", "0.5.6", "--out", tmp_path, "--json")
    assert (done.code, done.code_of_error) == (1, "would-overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["serve.sh"]


@pytest.mark.parametrize("version", ["v0.5.6", " 0.5.6", "0.5.6.0"])
def test_a_release_is_written_as_its_metadata_has_it(version: str) -> None:
    done = gaudi_patch("recipe", "memory", "--lmcache", version, "--json")
    assert done.code == 0, done
    assert 'RELEASE = "0.5.6"' in done.json["data"]["files"]["preflight.py"].replace("'", '"')

"""vLLM's --config file: read as vLLM reads it; the command line takes precedence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from gaudi_patch.doctor import vllm_config
from gaudi_patch.doctor.arguments import Arguments, parse
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Level
from gaudi_patch.doctor.host import Host
from gaudi_patch.target.search import Target
from tests.doctor.hosts import Gaudi, findings

KV = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
NEW, OLD = Version("0.26.0"), Version("0.13.0")


def case_of(gaudi: Gaudi, line: str) -> Case:
    host = Host(gaudi.root, {**gaudi.environ, "PATH": str(gaudi.folder / "bin")})
    return Case(host, Target(python=gaudi.python), gaudi.manifest, parse(line))


def read(gaudi: Gaudi, text: str | bytes, line: str = "", name: str = "vllm.yaml") -> Arguments:
    """Return the arguments with those of the file."""
    file = gaudi.folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = vllm_config.with_file(case_of(gaudi, f"vllm serve a-model --config {file} {line}")).arguments
    assert found is not None
    return found


def test_options_of_the_file_count_and_those_of_the_command_line_win(gaudi: Gaudi) -> None:
    text = "tensor_parallel_size: 4\nblock-size: 16\nenforce-eager: true\nkv-transfer-config:\n"
    text += "  kv_connector: LMCacheConnectorV1\n  kv_role: kv_both\n"
    found = read(gaudi, text, "--block-size 128 --port 8000")
    assert (found.ranks, found.number("block-size", 0), found.options["enforce-eager"]) == (4, 128, True)
    assert found.kv == KV
    assert read(gaudi, text, "-tp 2").ranks == 2
    assert not found.unread_file


def test_the_command_line_wins_wherever_it_names_the_file(gaudi: Gaudi) -> None:
    file = gaudi.folder / "vllm.yaml"
    file.write_text("block-size: 16\n")
    found = vllm_config.with_file(case_of(gaudi, f"m --block-size 128 --config {file}")).arguments
    assert found is not None
    assert found.number("block-size", 0) == 128


@pytest.mark.parametrize(
    ("file", "line", "kv"),
    [
        ({"kv-transfer-config": KV}, "", KV),
        ({"kv-transfer-config": json.dumps(KV)}, "", KV),
        ({"kv_transfer_config": KV}, """--kv-transfer-config '{"kv_connector": "x"}'""", {"kv_connector": "x"}),
        ({"kv-transfer-config": KV}, "--kv-transfer-config.kv_role kv_both", {"kv_role": "kv_both"}),
        ({"kv-transfer-config.kv_connector": "LMCacheConnectorV1"}, "--kv-transfer-config.kv_role kv_both", KV),
    ],
)
def test_the_connector_is_the_one_that_vllm_would_have(
    file: dict[str, object], line: str, kv: dict[str, str], gaudi: Gaudi
) -> None:
    """The last complete value counts; dotted parts are joined, and replace a complete value."""
    assert read(gaudi, json.dumps(file), line).kv == kv


def test_settings_of_lmcache_in_the_file_are_lmcaches(gaudi: Gaudi) -> None:
    kv = {**KV, "kv_connector_extra_config": {"lmcache.chunk_size": 512}}
    assert read(gaudi, json.dumps({"kv-transfer-config": kv})).lmcache_settings == {"chunk_size": 512}


@pytest.mark.parametrize(
    ("value", "engine", "words"),
    [
        (True, NEW, ["--a"]),
        (False, NEW, []),
        (False, None, []),
        (False, Version("0.32.0"), []),
        ([1, "b"], NEW, ["--a", "1", "b"]),
        ([], NEW, []),
        (3, NEW, ["--a", "3"]),
        (None, NEW, ["--a", "None"]),
        ({"b": True}, NEW, ["--a", '{"b": true}']),
        ({"b": True}, None, ["--a", '{"b": true}']),
        ({"b": True}, OLD, ["--a", "{'b': True}"]),
    ],
)
def test_values_become_the_words_that_this_vllm_makes_of_them(
    value: object, engine: Version | None, words: list[str]
) -> None:
    assert list(vllm_config.words({"a": value}, engine)) == words


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("enable_prefix_caching: false\n", ("enable-prefix-caching",)),
        ("enforce-eager: false\n", ()),
        ("enable-prefix-caching: true\n", ()),
    ],
)
def test_only_what_was_meant_to_be_turned_off_is_told(text: str, off: tuple[str, ...], gaudi: Gaudi) -> None:
    found = read(gaudi, text)
    assert found.file is not None
    assert found.file.off == off
    assert "no-enable-prefix-caching" not in found.options


def test_an_option_and_its_no_exclude_each_other_and_the_last_one_counts(gaudi: Gaudi) -> None:
    on, off = "enable-prefix-caching", "no-enable-prefix-caching"
    assert off in read(gaudi, f"{off}: true\n").options
    for given, line, last in ((off, on, on), (on, off, off)):
        options = read(gaudi, f"{given}: true\n", f"--{line}").options
        assert {on, off} & set(options) == {last}


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (b"a: [1\n", "vllm.yaml", "cannot be read: ParserError"),
        (b"a: \xff\xfe\n", "vllm.yaml", "cannot be read: "),
        (b"- a\n", "vllm.yaml", "must contain a table of options, not list"),
        (b"", "vllm.yml", "must contain a table of options, not NoneType"),
        (b"a: 1\n", "vllm.json", "*.yaml or *.yml only"),
    ],
)
def test_what_vllm_does_not_read_is_a_failure(text: bytes, name: str, words: str, gaudi: Gaudi) -> None:
    found = read(gaudi, text, name=name)
    assert found.file is not None
    assert words in found.file.fault
    assert found.unread_file
    answer = vllm_config.config_file(vllm_config.with_file(case_of(gaudi, found.line)))
    assert answer.level is Level.FAILURE


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("m --config a.yaml --config b.yaml", "given 2 times"),
        ("m --config", "names no file"),
        ("m --config /not/there.yaml", "FileNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_had_is_a_failure(line: str, words: str, gaudi: Gaudi) -> None:
    finding = vllm_config.config_file(vllm_config.with_file(case_of(gaudi, line)))
    assert finding.level is Level.FAILURE
    assert words in finding.what


def test_a_target_that_has_no_yaml_leaves_it_unknown(gaudi: Gaudi, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError('no yaml here')\n")
    gaudi.environ["PYTHONPATH"] = str(tmp_path)
    file = gaudi.folder / "vllm.yaml"
    file.write_text("block-size: 16\n")
    case = vllm_config.with_file(case_of(gaudi, f"m --config {file}"))
    finding = vllm_config.config_file(case)
    assert (finding.level, "no yaml here" in finding.what) == (Level.UNKNOWN, True)
    assert case.arguments is not None
    assert case.arguments.unread_file


def test_an_unpacked_image_leaves_it_unknown(gaudi: Gaudi) -> None:
    host = Host(gaudi.root, gaudi.environ, running=False)
    case = Case(host, Target(root=gaudi.root), gaudi.manifest, parse("m --config vllm.yaml"))
    assert vllm_config.config_file(vllm_config.with_file(case)).level is Level.UNKNOWN


def test_without_a_file_nothing_is_asked() -> None:
    case = Case(Host(Path(sys.prefix)), Target(), None, parse("m -tp 2"))  # type: ignore[arg-type]
    assert vllm_config.with_file(case) is case


def test_what_the_file_says_is_what_the_checks_see(gaudi: Gaudi) -> None:
    file = gaudi.folder / "vllm.yaml"
    file.write_text("block-size: 16\n")
    gaudi.options = f"--config {file}"
    found = findings(gaudi.run())
    assert found["vllm.block-size"]["level"] == "warning"
    assert found["vllm.config-file"]["what"] == f"{file}: 1 option(s); the command line wins"

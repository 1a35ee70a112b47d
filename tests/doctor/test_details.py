"""Cases beyond the table of broken hosts: other releases, other Pythons, ranges of versions, the measurement."""

from __future__ import annotations

import dataclasses
import errno
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gaudi_patch.doctor import arguments, keys
from gaudi_patch.doctor.answers import Loaded
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.environment import device_type, gpu_migration
from gaudi_patch.doctor.finding import Level
from gaudi_patch.doctor.host import Host
from gaudi_patch.doctor.kv_blocks import contiguous_attention, defragmentation, preemption
from gaudi_patch.doctor.storage import leftovers, remote
from gaudi_patch.doctor.vllm_args import connector, lora
from gaudi_patch.engine.situation import Situation
from gaudi_patch.target.search import Target
from tests.doctor.broken import left_chunks
from tests.doctor.hosts import Gaudi, findings


def case_of(gaudi: Gaudi, line: str = "", **environ: str) -> Case:
    host = Host(gaudi.root, {**environ, "PATH": str(gaudi.folder / "bin")})
    return Case(host, Target(python=gaudi.python), gaudi.manifest, arguments.parse(line))


def with_settings(case: Case, **values: object) -> Case:
    case.__dict__["settings"] = Loaded(values)  # as if LMCache had loaded them
    return case


def test_adapters_are_well_where_the_series_keys_them(gaudi: Gaudi) -> None:
    line = '--kv-transfer-config \'{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}\''
    case = case_of(gaudi, f"--enable-lora {line}")
    assert lora(case).level is Level.FAILURE
    found = case.situation
    assert isinstance(found, Situation)
    assert found.applied is not None
    applied = found.applied._replace(capabilities=("request-identity",))
    case.__dict__["situation"] = found._replace(applied=applied)
    assert lora(case).level is Level.OK
    assert lora(case_of(gaudi, line)).level is Level.OK


@pytest.mark.parametrize(
    ("plugin", "line", "environ", "level"),
    [
        ("0.26.0", "", {}, "ok"),
        ("0.26.0", "--no-enable-prefix-caching", {}, "ok"),
        ("0.26.0", "--no-enable-prefix-caching", {"VLLM_CONTIGUOUS_PA": "on"}, "failure"),
        ("0.26.0", "", {"VLLM_PREFIX_CACHING": "false"}, "failure"),
        ("0.26.0", "", {"VLLM_PREFIX_CACHING": "false", "VLLM_CONTIGUOUS_PA": "0"}, "ok"),
        ("0.19.0", "--no-enable-prefix-caching", {}, "ok"),
        ("0.26.0", "--no-enable-prefix-caching", {"VLLM_CONTIGUOUS_PA": "false"}, "ok"),
        ("0.26.0", "--no-enable-prefix-caching", {"VLLM_DEFRAG": "0"}, "ok"),
        ("0.26.0", "", {"VLLM_CONTIGUOUS_PA": "yes"}, "failure"),
        ("0.26.0", "--config vllm.yaml", {}, "ok"),
        ("0.18.1rc1", "--no-enable-prefix-caching", {}, "ok"),
        ("0.18.1rc1", "", {"VLLM_DEFRAG": "1"}, "failure"),
        ("0.17.1", "--no-enable-prefix-caching", {}, "ok"),
        ("0.17.1", "", {"VLLM_UNIFIED_ATTN": "1"}, "failure"),
        (None, "--no-enable-prefix-caching", {}, "ok"),
        (None, "", {"VLLM_CONTIGUOUS_PA": "1"}, "warning"),
    ],
)
def test_blocks_move_as_each_vllm_gaudi_moves_them(
    plugin: str | None, line: str, environ: dict[str, str], level: str, gaudi: Gaudi
) -> None:
    """The features of vllm-gaudi 0.17.1, 0.18.1rc1, 0.19 and later (vllm_gaudi/extension/features.py).

    From 0.19 on they depend only on the environment; vLLM's own prefix caching does not matter.
    """
    gaudi.package("vllm_gaudi", plugin)
    assert defragmentation(case_of(gaudi, line, **environ)).level.value == level


@pytest.mark.parametrize(
    ("plugin", "environ", "level", "fix"),
    [
        ("0.26.0", {}, "ok", ""),
        ("0.17.1", {}, "ok", ""),
        # As earlier versions of this check advised: blocks do not move, and every hit is wrong.
        ("0.21.0", {"VLLM_CONTIGUOUS_PA": "1", "VLLM_DEFRAG": "false"}, "failure", "export VLLM_CONTIGUOUS_PA=false"),
        ("0.17.1", {"VLLM_CONTIGUOUS_PA": "true"}, "failure", "export VLLM_CONTIGUOUS_PA=false"),
        ("0.13.0", {"VLLM_PREFIX_CACHING": "0"}, "failure", "export VLLM_CONTIGUOUS_PA=false"),
        ("0.17.1", {"VLLM_UNIFIED_ATTN": "1"}, "failure", "unset VLLM_UNIFIED_ATTN"),
        ("0.17.1", {"VLLM_UNIFIED_ATTN": "1", "VLLM_CONTIGUOUS_PA": "0"}, "ok", ""),
        ("0.19.0", {"VLLM_UNIFIED_ATTN": "1"}, "ok", ""),
        ("0.24.0", {"VLLM_CONTIGUOUS_PA": "true", "VLLM_DEFRAG": "false"}, "ok", ""),
        ("0.24.0rc0", {"VLLM_CONTIGUOUS_PA": "true"}, "ok", ""),
        (None, {"VLLM_CONTIGUOUS_PA": "true"}, "warning", "export VLLM_CONTIGUOUS_PA=false"),
    ],
)
def test_contiguous_attention_reads_other_blocks_before_0_24(
    plugin: str | None, environ: dict[str, str], level: str, fix: str, gaudi: Gaudi
) -> None:
    gaudi.package("vllm_gaudi", plugin)
    found = contiguous_attention(case_of(gaudi, **environ))
    assert found.level.value == level
    assert (found.fix or "") == fix


@pytest.mark.parametrize(
    ("plugin", "environ", "fix"),
    [
        ("0.26.0", {"VLLM_CONTIGUOUS_PA": "1"}, "export VLLM_DEFRAG=false"),
        ("0.26.0", {"VLLM_DEFRAG": "1"}, "export VLLM_DEFRAG=false"),
        ("0.17.1", {"VLLM_UNIFIED_ATTN": "1"}, "unset VLLM_UNIFIED_ATTN"),
        ("0.17.1", {"VLLM_UNIFIED_ATTN": "1", "VLLM_DEFRAG": "1"}, "export VLLM_DEFRAG=false"),
    ],
)
def test_blocks_that_move_are_held_by_the_setting_that_moves_them(
    plugin: str, environ: dict[str, str], fix: str, gaudi: Gaudi
) -> None:
    """Another check covers contiguous attention: a model with ALiBi cannot do without it."""
    gaudi.package("vllm_gaudi", plugin)
    assert defragmentation(case_of(gaudi, **environ)).fix == fix


@pytest.mark.parametrize(
    ("plugin", "line", "environ", "level"),
    [
        ("0.26.0", "", {}, "warning"),
        ("0.26.0", "--enable-prefix-caching", {}, "warning"),
        ("0.26.0", "--no-enable-prefix-caching", {}, "ok"),
        ("0.26.0", "", {"VLLM_CONTIGUOUS_PA": "1"}, "ok"),
        (None, "", {}, "ok"),
    ],
)
def test_the_prefix_cache_of_vllm_answers_wrongly_after_preemption(
    plugin: str | None, line: str, environ: dict[str, str], level: str, gaudi: Gaudi
) -> None:
    gaudi.package("vllm_gaudi", plugin)
    assert preemption(case_of(gaudi, line, **environ)).level.value == level


WITHIN = '{"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [%s]}}'
OURS, OTHER = '{"kv_connector": "LMCacheConnectorV1"}', '{"kv_connector": "OffloadingConnector"}'


@pytest.mark.parametrize(
    ("parts", "patched", "level"),
    [
        (f"{OTHER}, {OURS}", True, "ok"),
        (OURS, False, "failure"),
        (OTHER, True, "warning"),
        ("", True, "warning"),
    ],
)
def test_lmcache_within_a_multi_connector_needs_the_patch(parts: str, patched: bool, level: str, gaudi: Gaudi) -> None:
    if not patched:
        gaudi.target.rollback()
    case = case_of(gaudi, f"--kv-transfer-config '{WITHIN % parts}'")
    assert connector(case).level.value == level
    assert case.uses_lmcache is (OURS in parts)


@pytest.mark.parametrize(("version", "level"), [("0.4.2", "failure"), ("0.4.5", "warning"), ("0.5.3", "failure")])
def test_gpu_migration_breaks_some_releases_and_only_unpatched(version: str, level: str, gaudi: Gaudi) -> None:
    gaudi.target.rollback()
    info = gaudi.target.dist_info
    (info / "METADATA").write_text((info / "METADATA").read_text().replace("0.5.6", version))
    info.rename(gaudi.site / f"lmcache-{version}.dist-info")
    assert gpu_migration(case_of(gaudi, PT_HPU_GPU_MIGRATION="1")).level.value == level


def test_a_release_that_does_not_read_device_type_is_not_warned_of(gaudi: Gaudi) -> None:
    case = case_of(gaudi, LMCACHE_DEVICE_BACKEND="cuda")
    assert device_type(case).level is Level.FAILURE
    assert not hasattr(case.lmcache, "code")
    case.__dict__["lmcache"] = dataclasses.replace(case.lmcache, version="0.5.1")  # type: ignore[type-var]
    assert device_type(case).level is Level.OK


@pytest.mark.parametrize(
    ("agree", "level"), [(False, Level.FAILURE), (None, Level.UNKNOWN), (True, Level.OK)], ids=["no", "unknown", "yes"]
)
def test_builtin_keys_are_judged_by_what_processes_of_the_target_compute(
    agree: bool | None, level: Level, gaudi: Gaudi
) -> None:
    case = with_settings(case_of(gaudi, "-tp 8"), pre_caching_hash_algorithm="builtin")
    case.__dict__["processes_agree_on_none"] = agree
    assert keys.hash_algorithm(case).level is level


def test_the_claim_about_the_hash_of_none_holds_here() -> None:
    """https://github.com/python/cpython/pull/99541"""
    if sys.version_info >= (3, 12):
        assert hash(None) == 0xFCA86420
    else:
        assert hash(None) == id(None) >> 4


@pytest.mark.parametrize(
    ("line", "values", "why"),
    [
        ("", {}, ""),
        ("-tp 2", {}, "2 ranks"),
        ("", {"remote_url": "lm://a:1"}, "remote store"),
        ("", {"enable_pd": True}, "two processes"),
        ("--kv-transfer-config.kv_connector LMCacheMPConnector", {}, "server"),
    ],
)
def test_a_seed_is_asked_for_where_processes_share_keys(
    line: str, values: dict[str, object], why: str, gaudi: Gaudi
) -> None:
    finding = keys.hash_seed(with_settings(case_of(gaudi, line), **values))
    assert finding.level is (Level.FAILURE if why else Level.OK)
    assert why in finding.what


def test_a_container_may_show_fewer_cards_than_the_host_has(gaudi: Gaudi) -> None:
    gaudi.hl_smi(4)
    gaudi.file("/.dockerenv", "")
    assert findings(gaudi.run())["device.hl-smi"]["level"] == "ok"


@pytest.mark.parametrize(
    ("url", "level", "what"),
    [
        ("redis://user:secret@127.0.0.1:{port}", "ok", "1 server"),
        ("redis-sentinel://127.0.0.1:{port},127.0.0.1:1", "warning", "127.0.0.1:1"),
        ("redis://127.0.0.1:port", "failure", "is not a host and port"),
        ("s3://bucket.example.com", "unknown", "no host and port"),
    ],
)
def test_a_remote_store_is_tried_as_its_scheme_says(
    url: str, level: str, what: str, gaudi: Gaudi, server: socket.socket
) -> None:
    port = server.getsockname()[1]
    finding = remote(with_settings(case_of(gaudi), remote_url=url.format(port=port)))
    assert (finding.level.value, what in finding.what) == (level, True), finding


def test_a_password_in_a_url_is_never_shown(gaudi: Gaudi) -> None:
    for url in ("redis://user:secret@127.0.0.1:1", "redis://user:secret@host", "redis://user:secret@host:port"):
        assert "secret" not in str(remote(with_settings(case_of(gaudi), remote_url=url)))


def test_a_disk_is_measured_and_the_file_is_gone(tmp_path: Path) -> None:
    measured = Host(tmp_path, sample=8 * 1024 * 1024).bandwidth("/")
    assert measured.write > 0
    assert measured.read > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_no_figure(gaudi: Gaudi, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    found = findings(gaudi.run())
    assert found["storage.bandwidth"]["level"] == "unknown"
    assert "No space left" in found["storage.bandwidth"]["what"]


def test_a_tool_that_hangs_is_ended(gaudi: Gaudi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaudi_patch.doctor.host.TOOL_SECONDS", 0.3)
    gaudi.tool("hl-smi", "while :; do :; done")
    found = findings(gaudi.run())["device.hl-smi"]
    assert (found["level"], "did not answer" in found["what"]) == ("failure", True)


def test_all_that_an_earlier_engine_left_is_counted_and_the_advice_removes_exactly_that(gaudi: Gaudi) -> None:
    place = gaudi.root / "cache"
    (place / "m@1@0@3f@bfloat16.pt").mkdir()
    (place / "elsewhere").mkdir()
    neighbour = place / "elsewhere" / "vllm@m@1@0@1f@bfloat16.pt"
    neighbour.write_bytes(b"another engine's")
    case = with_settings(case_of(gaudi), local_disk="file:///cache/")
    assert leftovers(case).level is Level.OK
    left_chunks(gaudi)
    found = leftovers(case)
    assert (found.level, found.what.split(",")[0]) == (Level.WARNING, "2 chunks")
    command = found.fix.partition("before a start: ")[2].replace("find /cache/", f"find {shlex.quote(str(place))}")
    subprocess.run(["sh", "-ec", command], check=True, timeout=30)
    assert {path.relative_to(place).as_posix() for path in place.rglob("*")} == {
        "weights.pt",
        "m@1@0@3f@bfloat16.pt",
        "elsewhere",
        "elsewhere/vllm@m@1@0@1f@bfloat16.pt",
    }
    assert leftovers(case).level is Level.OK

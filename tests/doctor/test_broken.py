"""Broken hosts, builds and configurations: each is found only by the right check, with the right advice."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gaudi_patch.doctor.checks import CHECKS
from gaudi_patch.errors import Exit
from gaudi_patch.output import report
from tests.doctor.broken import (
    ENVIRONMENT,
    HOSTS,
    OLD_PYTHON,
    PATCH,
    SOFTWARE,
    Broken,
    F,
    U,
    W,
    config,
    dead_server,
    full_disk,
    kv,
    left_chunks,
    options,
    prefix_caching_off,
    process,
    together,
    unpatched,
    unwritable_disk,
)
from tests.doctor.hosts import Gaudi, findings, not_ok
from tests.support.cli import too_wide

VLLM = [
    Broken(
        "a KV configuration that is no JSON",
        options("--kv-transfer-config {kv_connector:LMCacheConnectorV1}"),
        {"vllm.arguments": F},
        "--kv-transfer-config",
    ),
    Broken(
        "a file of options that is not there",
        options("--config /not/there.yaml"),
        {"vllm.config-file": F},
        "correct the file",
    ),
    Broken("a file that vLLM ignores", options("--config=vllm.yaml"), {"vllm.config-file": W}, "--config FILE"),
    Broken("an option of a file that is ignored", prefix_caching_off, {"vllm.config-file": W}, "no-enable-prefix"),
    Broken("no connector", lambda gaudi: gaudi.kv.clear(), {"vllm.connector": W}, "LMCacheConnectorV1"),
    Broken("MultiConnector of others", kv(kv_connector="MultiConnector"), {"vllm.connector": W}, "LMCacheConnectorV1"),
    Broken("sleep mode", options("--enable-sleep-mode"), {"vllm.sleep-mode": F}, "leave --enable-sleep-mode out"),
    Broken("vLLM's own prefix cache", options("--enable-prefix-caching"), {"vllm.preemption": W}, "--no-enable-prefix"),
    Broken("another connector", kv(kv_connector="NixlConnector"), {"vllm.connector": W}, "LMCacheConnectorV1"),
    Broken(
        "use_native", kv(kv_connector_extra_config={"use_native": True}), {"vllm.use-native": F}, "leave use_native out"
    ),
    Broken("no role", kv(kv_role=None), {"vllm.role": F}, "kv_both"),
    Broken(
        "a producer alone",
        together(kv(kv_role="kv_producer"), config(remote_url=None)),
        {"vllm.role": W},
        "kv_both",
    ),
    Broken(
        "blocks of 16 tokens",
        options("--block-size 16"),
        {"vllm.block-size": W},
        "leave --block-size out",
    ),
    Broken("fp8_e5m2", options("--kv-cache-dtype=fp8_e5m2"), {"vllm.kv-cache-dtype": F}, "fp8_inc"),
    Broken("too many ranks", lambda gaudi: setattr(gaudi, "ranks", 16), {"vllm.ranks": F}, "--tensor-parallel-size"),
    Broken("a model over two hosts", options("--nnodes 2"), {"vllm.ranks": F}, "an engine on each host"),
    Broken(
        "no multiprocess server",
        kv(kv_connector="LMCacheMPConnector"),
        {"vllm.multiprocess": U},
        "--supported-transfer-mode auto",
    ),
    Broken(
        "a multiprocess server that does not serve engines that drive",
        together(kv(kv_connector="LMCacheMPConnector"), process("python3", "-m", "lmcache.cli.main", "server")),
        {"vllm.multiprocess": F},
        "--supported-transfer-mode auto",
    ),
    Broken(
        "a multiprocess server as it should be",
        together(
            kv(kv_connector="LMCacheMPConnector"),
            process("/opt/venv/bin/lmcache", "server", "--supported-transfer-mode", "auto"),
        ),
        {"vllm.multiprocess": "ok"},
        "",
    ),
]

CONFIG = [
    Broken(
        "LMCache refuses the file",
        config(enable_pd=True),
        {"config.load": F, "env.hash-seed": U, "vllm.role": "ok"},
        "correct the file",
    ),
    Broken(
        "a value that is no number",
        config(max_local_cpu_size="big"),
        {"config.values": F, "config.memory": U},
        "correct",
    ),
    Broken("a misspelt key", config(chunksize=512), {"config.unknown-keys": W}, "correct or remove"),
    Broken("a key by its old name", config(nixl_role="sender"), {"config.unknown-keys": W}, "is called pd_role now"),
    Broken("a deprecated key", config(external_backends="a"), {"config.deprecated-keys": W}, "new names"),
    Broken("layerwise", config(use_layerwise=True), {"config.layerwise": F}, "use_layerwise: false"),
    Broken(
        "blending", config(enable_blending=True), {"config.blending": F, "config.warnings": W}, "enable_blending: false"
    ),
    Broken("CacheGen", config(remote_serde="cachegen"), {"config.serde": F}, "naive"),
    Broken("GDS", config(gds_path="/gds"), {"config.gds": F}, "remove gds_path"),
    Broken("GDS on WEKA", config(weka_path="/weka"), {"config.gds": F}, "remove gds_path and weka_path"),
    Broken("P2P", config(enable_p2p=True), {"config.p2p": F}, "enable_p2p: false"),
    Broken(
        "lookups that no worker sees",
        config(enable_scheduler_bypass_lookup=True),
        {"config.bypass-lookup": F},
        "enable_scheduler_bypass_lookup: false",
    ),
    Broken(
        "disaggregated prefill through HPU memory",
        config(enable_pd=True, pd_buffer_device="hpu", pd_role="sender"),
        {"config.pd-device": F},
        "pd_buffer_device: cpu",
    ),
    Broken(
        "disaggregated prefill in a release that has it on CUDA only",
        together(
            config(enable_pd=True, pd_buffer_device="cpu", pd_role="sender"),
            lambda gaudi: gaudi.module("lmcache/v1/storage_backend/pd_backend.py", "torch.cuda.set_device(0)\n"),
        ),
        {"config.pd-device": F},
        "LMCache 0.3.14 or later",
    ),
    Broken(
        "a sender that consumes",
        together(config(enable_pd=True, pd_buffer_device="cpu", pd_role="sender"), kv(kv_role="kv_consumer")),
        {"config.pd-role": F},
        "kv_role: kv_producer",
    ),
    Broken(
        "an internal API for everyone",
        config(internal_api_server_enabled=True, internal_api_server_host="0.0.0.0"),
        {"config.internal-api": W},
        "internal_api_server_host: 127.0.0.1",
    ),
    Broken(
        "an internal API on vLLM's port",
        together(config(internal_api_server_enabled=True), options("--port 7000")),
        {"config.internal-api": F},
        "internal_api_server_port_start: 7099, or another --port",
    ),
    Broken(
        "an internal API beyond the last port",
        config(internal_api_server_enabled=True, internal_api_server_port_start=65535),
        {"config.internal-api": F},
        "internal_api_server_port_start: 6999",
    ),
    Broken(
        "NIXL storage through HPU memory",
        config(extra_config={"enable_nixl_storage": True}, nixl_buffer_device="cuda"),
        {"config.nixl-device": F},
        "nixl_buffer_device: cpu",
    ),
    Broken(
        "the lazy allocator of a release that pins with CUDA",
        together(
            config(enable_lazy_memory_allocator=True),
            lambda gaudi: gaudi.module("lmcache/v1/lazy_memory_allocator.py", "torch.cuda.cudart()\n"),
        ),
        {"config.lazy-allocator": F},
        "enable_lazy_memory_allocator: false",
    ),
    Broken("chunks that end inside a block", config(chunk_size=200), {"config.chunk-size": W}, "chunk_size: 256"),
    Broken("no chunk size", config(chunk_size=0), {"config.chunk-size": F}, "chunk_size: 256"),
    Broken(
        "partial chunks without the patch",
        together(config(save_unfull_chunk=True), unpatched),
        {"config.unfull-chunk": W, "patch.state": F},
        "gaudi-patch apply --python",
    ),
    Broken(
        "keys that differ between processes",
        config(pre_caching_hash_algorithm="builtin"),
        {"config.hash-algorithm": F if OLD_PYTHON else "ok"},
        "sha256_cbor" if OLD_PYTHON else "",
    ),
    Broken(
        "no place to keep anything",
        config(local_cpu=False, local_disk=None, remote_url=None),
        {"config.backends": F},
        "local_cpu: true",
    ),
    Broken("a disk of no size", config(max_local_disk_size=0.0), {"config.backends": F}, "max_local_disk_size"),
    Broken("more memory than there is", config(max_local_cpu_size=2000), {"config.memory": F}, "max_local_cpu_size"),
    Broken("more for all ranks", config(max_local_cpu_size=200), {"config.memory": W}, "max_local_cpu_size"),
    Broken("all of the memory", config(max_local_cpu_size=120), {"config.memory": W}, "max_local_cpu_size"),
    Broken(
        "a container with little memory",
        lambda gaudi: gaudi.file("/sys/fs/cgroup/memory.max", str(100 * 1024**3)),
        {"config.memory": W},
        "max_local_cpu_size: 6.2",
    ),
    Broken("a read-only disk", unwritable_disk, {"storage.local-disk": F, "storage.bandwidth": U}, "mount"),
    Broken("chunks of an earlier engine", left_chunks, {"storage.leftovers": W}, "find /cache -maxdepth 1"),
    Broken("a full disk", full_disk, {"storage.local-disk": W}, "max_local_disk_size"),
    Broken("a disk directory to be made", config(local_disk="/new/a"), {"storage.bandwidth": U}, "mkdir -p /new/a"),
    Broken("no remote server", dead_server, {"storage.remote": F}, "start the server"),
    Broken("a remote store without a port", config(remote_url="lm://cache"), {"storage.remote": F}, "lm://HOST:PORT"),
    Broken(
        "a share that is not mounted", config(remote_url="fs://host:0/share"), {"storage.remote": F}, "mount the share"
    ),
]

ALL = [*HOSTS, *SOFTWARE, *PATCH, *ENVIRONMENT, *VLLM, *CONFIG]

#: If the command line or LMCache's configuration cannot be read, the checks that need it report unknown.
NEEDY = {need: {one.id for one in CHECKS if need in one.needs} for need in ("arguments", "connector", "settings")}


def collateral(expected: Mapping[str, str]) -> set[str]:
    """Return the checks that must be unknown because something else cannot be read."""
    found: set[str] = set()
    if "config.load" in expected:
        found |= NEEDY["settings"]
    if "vllm.arguments" in expected:
        found |= NEEDY["arguments"] | NEEDY["connector"]
    if "vllm.connector" in expected:
        found |= NEEDY["connector"]
    if "patch.installation" in expected:
        found |= {
            "patch.series",
            "patch.state",
            "software.pairing",
            "software.requirements",
            "software.lmcache-imports",
        }
    return found - set(expected)


@pytest.mark.parametrize("broken", ALL, ids=lambda broken: broken.name)
def test_is_found_with_its_advice_and_nothing_else_is(broken: Broken, gaudi: Gaudi) -> None:
    broken.harm(gaudi)
    result = gaudi.run()
    also = collateral(broken.expected)
    expected = {name: level for name, level in broken.expected.items() if level != "ok"} | dict.fromkeys(also, U)
    assert not_ok(result) == expected
    first = findings(result)[next(iter(broken.expected))]
    assert broken.fix in first["fix"], first
    failed = F in broken.expected.values()
    assert result.exit is (Exit.ENVIRONMENT if failed else Exit.OK)
    assert {error.code for error in result.errors} == {name for name, level in expected.items() if level == F}
    assert too_wide("".join(report.plain(block, 80) for block in result.blocks)) == []


def test_the_table_has_forty_hosts_and_configurations_and_every_check_fails_once() -> None:
    """A check that fails or warns in no row may never do so."""
    assert len(ALL) >= 40
    found = {name for broken in ALL for name, level in broken.expected.items() if level in (F, W)}
    cannot = {
        "device.cards",  # without a card there is nothing to complain about
        "software.interpreter",  # in test_healthy
        "storage.bandwidth",  # a measurement without a limit
    }
    assert {check.id for check in CHECKS} - found == cannot

"""Check of LMCache's internal API: who can reach it, and whether its ports are free."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.arguments import Arguments
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, warning

#: vLLM's default (vllm/entrypoints/openai/cli_args.py)
_VLLM_PORT = 8000
#: Defaults on the first of several hosts (vllm/config/parallel.py): torch.distributed, and the data parallel ranks.
_MASTER_PORT, _DATA_PARALLEL_PORT = 29501, 29550
_LAST_PORT = 65535
#: Ports that a receiver of disaggregated prefill binds; the last exists since 0.5 (lmcache/v1/config.py).
_PEERS = ("pd_peer_init_port", "pd_peer_alloc_port", "pd_peer_query_port")
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - compared with, never bound


@check(
    "config.internal-api",
    "LMCache's internal API",
    why="each LMCache process serves one, which needs no key and runs the scripts that it receives (0.5.6: if "
    "run_script_api_enabled is set)",
    source=sources.lmcache("v1/internal_api_server/api_server.py"),
    needs=("settings",),
)
def internal_api(case: Case) -> Answer:
    values = case.settings.values
    if not values.get("internal_api_server_enabled"):
        return ok("off")
    if case.arguments is not None and "LMCacheMPConnector" in (case.arguments.connector, *case.arguments.parts):
        return ok("not used: LMCache runs in a separate server")
    if prefix := values.get("internal_api_server_socket_path_prefix"):
        return ok(f"on Unix sockets only, {prefix}_PORT")
    ports, host = _ports(case), str(values.get("internal_api_server_host") or _EVERYWHERE)
    if not ports:
        return ok("on, but internal_api_server_include_index_list names no process of this server")
    if max(ports) > _LAST_PORT:
        return failure(f"port {max(ports)} is beyond {_LAST_PORT}", "internal_api_server_port_start: 6999")
    for what, other, address in _others(case):
        if other in ports and _meet(host, address):
            role = "the scheduler" if ports[other] == 0 else f"worker {ports[other] - 1}"
            fix = f"internal_api_server_port_start: {_free(case)}, or another {what}"
            return failure(f"port {other}: the internal API of {role}, and {what}", fix)
    shown = ", ".join(str(port) for port in ports)
    if not _is_loopback(host):
        fix = "internal_api_server_host: 127.0.0.1, or internal_api_server_enabled: false"
        return warning(f"listens on {host}, port {shown}, without a key", fix)
    return ok(f"on {host}, port {shown}: anyone on this host can use it")


def _ports(case: Case) -> dict[int, int]:
    """Return the index of each process by its port: 0 for the scheduler, 1 + its rank for a worker.

    If the command line is unknown, one worker is counted; with data parallelism, those of one replica.
    """
    values = case.settings.values
    start, listed = values.get("internal_api_server_port_start"), values.get("internal_api_server_include_index_list")
    if not isinstance(start, int):
        return {}
    indexes = range(1 + _workers(case))
    chosen = listed if isinstance(listed, list) and listed else indexes
    return {start + index: index for index in indexes if index in chosen}


def _workers(case: Case) -> int:
    given = case.arguments if case.ranks else None
    return given.number("tensor-parallel-size", 1) * given.number("pipeline-parallel-size", 1) if given else 1


def _others(case: Case) -> Iterator[tuple[str, int, str]]:
    """Yield the other ports that this server binds on the host: setting, port and address."""
    if case.ranks is not None and case.arguments is not None:
        yield "--port", case.arguments.number("port", _VLLM_PORT), str(case.arguments.options.get("host", ""))
        yield from _of_several_hosts(case.arguments)
    values = case.settings.values
    named: dict[str, object] = {"lmcache_worker_ports": ""} if values.get("enable_controller") else {}
    if values.get("enable_pd") and values.get("pd_role") == "receiver":
        named |= dict.fromkeys(_PEERS, values.get("pd_peer_host"))
    for name, address in named.items():
        given = values.get(name)
        for port in given if isinstance(given, list) else []:
            if isinstance(port, int):
                yield name, port, str(address or "")


def _of_several_hosts(given: Arguments) -> Iterator[tuple[str, int, str]]:
    """Yield what the first of several hosts binds besides --port; on a single host vLLM picks free ports."""
    if given.number("nnodes", 1) > 1 and given.number("node-rank", 0) == 0:
        yield "--master-port", given.number("master-port", _MASTER_PORT), str(given.options.get("master-addr", ""))
    replicas = given.number("data-parallel-size", 1)
    first = given.number("data-parallel-start-rank", 0) == 0
    if replicas > given.number("data-parallel-size-local", replicas) and first:
        address = str(given.options.get("data-parallel-address", ""))
        yield "--data-parallel-rpc-port", given.number("data-parallel-rpc-port", _DATA_PARALLEL_PORT), address


def _free(case: Case) -> int:
    """Return a start port whose range contains no port of ``_others``."""
    taken = {port for _, port, _ in _others(case)}
    span = 1 + _workers(case)
    return next(start for start in range(6999, _LAST_PORT, 100) if taken.isdisjoint(range(start, start + span)))


def _meet(one: str, other: str) -> bool:
    """Return whether two sockets with the same port on these addresses collide."""
    one, other = ("127.0.0.1" if name == "localhost" else name for name in (one, other))
    return one == other or any(name in ("", _EVERYWHERE, "::") for name in (one, other))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


CHECKS = (internal_api,)

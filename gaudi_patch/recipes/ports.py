"""Addresses and ports of a recipe: how clients reach each process, and a refusal of port collisions. Pure."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gaudi_patch.recipes import stores
from gaudi_patch.recipes.process import Process
from gaudi_patch.recipes.settings import EVERYWHERE, Settings, usage

LOOPBACK = "127.0.0.1"
#: Port of Intel's metric exporter for the cards (docs.habana.ai, Prometheus Metric Exporter).
EXPORTER = 41611
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class Claim(NamedTuple):
    """A port on the engines' host, and what listens there."""

    port: int
    what: str


def is_everywhere(address: str) -> bool:
    """Return whether a process that listens on ``address`` listens on every interface."""
    return address in (EVERYWHERE, "::")


def reached_at(bind: str) -> str:
    """Return the address at which the host itself reaches a process that listens on ``bind``."""
    return {EVERYWHERE: LOOPBACK, "::": "::1"}.get(bind, bind)


def in_url(address: str) -> str:
    """Return an address in the form for a URL: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def check_bind(bind: str | None) -> None:
    """Raise a usage error if --bind is neither an address nor a name."""
    if bind is None:
        return
    try:
        ipaddress.ip_address(bind)
    except ValueError:
        if not _NAME.fullmatch(bind):
            raise usage(f"--bind {bind!r}: must be an address or a name of this host, without a port") from None


def refuse_collisions(mode: str, settings: Settings, processes: Sequence[Process], *, one_host: bool = False) -> None:
    """Raise a usage error if two processes of a host want the same port.

    A store whose address may belong to another host is left out, unless all processes run on ``one_host``.
    """
    seen: dict[int, str] = {}
    for claim in _claims(mode, settings, processes, one_host):
        if claim.port in seen:
            raise usage(
                f"port {claim.port}: {seen[claim.port]} listens there, and so does {claim.what}",
                "give another --port, or another port in --storage",
            )
        seen[claim.port] = claim.what


def _claims(mode: str, settings: Settings, processes: Sequence[Process], one_host: bool) -> Iterator[Claim]:
    yield Claim(EXPORTER, "Intel's metric exporter")
    if mode == "disaggregated":
        yield Claim(settings.port, "the proxy of prefill and decode")
    host, port = _store(mode, settings)
    here = one_host or _is_here(host, settings)
    ours = False
    for process in processes:
        if process.serves and not process.patched:
            continue  # on its own host, without Gaudi cards
        if "lm" in process.ports:
            ours = True
            if not (here or _is_here(process.bind, settings)):
                continue
        name = f"vLLM ({process.name}.sh)" if process.serves else f"LMCache's server ({process.name}.sh)"
        yield from (Claim(port_, name) for port_ in process.ports.values())
    if port and not ours and _is_here(host, settings):
        yield Claim(port, f"the store at {host}")


def _store(mode: str, settings: Settings) -> tuple[str, int]:
    """Return host and port of the store that --storage names; "" and 0 for a directory or no store."""
    default = stores.LM_SERVER if mode in ("remote", "disaggregated") else ""
    storage = default if settings.storage is None else settings.storage
    if "://" not in storage:
        return "", 0
    parts = stores.split(storage)
    usual = (80 if "tls=off" in parts.query else 443) if parts.scheme == "s3" else stores.REDIS_PORT
    return str(parts.hostname), parts.port or usual


def _is_here(host: str, settings: Settings) -> bool:
    """Return whether ``host`` is certainly the engines' host: its loopback, or the address of --bind."""
    if not host or is_everywhere(host):
        return False
    if host == settings.bind or host == "localhost" or host.endswith(".localhost") or host == "::1":
        return True
    try:
        return socket.inet_aton(host)[0] == 127  # also 0x7f.1, as resolvers read it
    except OSError:
        return False

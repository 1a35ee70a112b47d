"""Estimate the time of a transfer on a host with a Gaudi, from the counters and the host's bandwidths. Pure.

This is a model, not a measurement. It shows which limits the time: PCIe, the device's memory or the host's copies.
Owners of such a host can enter their measured bandwidths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean

#: Accesses to the host's memory per byte that the host copies: DMA, read, read for ownership, write.
COPY_PASSES = 4


@dataclass(frozen=True)
class Host:
    """Bandwidths in GB/s (10^9 bytes per second).

    pcie: of a card, one direction. hbm: of a card's memory. copy: of the host's copies for one card, by all of its
        threads. dram: of the host's memory, shared by all cards.
    cards: number of cards that transfer at the same time. source: of the figures.
    """

    name: str
    pcie: float
    hbm: float
    copy: float
    dram: float
    cards: int
    source: str

    @property
    def copy_share(self) -> float:
        """Return the bandwidth of the host's copies for one card while all cards transfer."""
        return min(self.copy, self.dram / (COPY_PASSES * self.cards))

    @property
    def dma_share(self) -> float:
        """Return a card's DMA bandwidth while all cards transfer: each byte passes the host's memory once."""
        return min(self.pcie, self.dram / self.cards)


_GAUDI_3 = Host(
    "gaudi3",
    pcie=50.0,
    hbm=0.6 * 3700,
    copy=30.0,
    dram=500.0,
    cards=1,
    source="PCIe 5.0 x16: 63 GB/s in theory, 80 % of it; HBM2e 3.7 TB/s (Intel Gaudi 3 white paper), 60 % of it; "
    "four threads of a server processor copy about 30 GB/s, two sockets have about 500 GB/s: estimates",
)
_GAUDI_2 = Host(
    "gaudi2",
    pcie=25.0,
    hbm=0.6 * 2450,
    copy=30.0,
    dram=400.0,
    cards=1,
    source="PCIe 4.0 x16: 31.5 GB/s in theory, 80 % of it; HBM2e 2.45 TB/s (Intel Gaudi 2 white paper), 60 % of it; "
    "four threads of a server processor copy about 30 GB/s, two sockets have about 400 GB/s: estimates",
)
HOSTS: Mapping[str, Host] = {
    host.name: host for base in (_GAUDI_3, _GAUDI_2) for host in (base, replace(base, name=f"{base.name}-x8", cards=8))
}


def host_of(preset: str, bandwidths: Mapping[str, float | None], cards: int | None) -> Host:
    """Return the preset host, with the given figures replacing its own.

    Args:
        preset: A name of ``HOSTS``.
        bandwidths: pcie, hbm, copy, dram in GB/s; None: the preset's.
        cards: Number of cards that transfer at the same time; None: the preset's.

    Raises:
        GaudiPatchError: ``usage`` if there is no such preset, or a bandwidth is not above zero.
    """
    if preset not in HOSTS:
        what = f"--host must be one of {', '.join(HOSTS)}, not {preset!r}{did_you_mean(preset, HOSTS)}"
        raise GaudiPatchError(Exit.USAGE, "usage", what)
    given = {name: value for name, value in bandwidths.items() if value is not None}
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise GaudiPatchError(Exit.USAGE, "usage", f"--{name}-gbs must be a bandwidth above zero, not {value}")
    own = HOSTS[preset]
    source = f"{own.source}; given: {', '.join(given)}" if given else own.source
    return replace(
        own,
        pcie=given.get("pcie", own.pcie),
        hbm=given.get("hbm", own.hbm),
        copy=given.get("copy", own.copy),
        dram=given.get("dram", own.dram),
        cards=own.cards if cards is None else cards,
        source=source,
    )


@dataclass(frozen=True)
class Moved:
    """The counters of a request that its time depends on.

    size: bytes of KV. copies: number of copies of KV. host_copied: bytes that the host copied, in the ring or in the
    bridge's bounce buffers. traffic: bytes that the device's operators read and wrote. launches: number of graph
    launches. overlaps: whether copies and graphs are waited for together and not one by one.
    """

    size: int
    copies: int
    host_copied: int
    traffic: int
    launches: int
    overlaps: bool


def limit_seconds(moved: Moved, host: Host) -> float:
    """Return the time in seconds to move the bytes over PCIe, without any other cost."""
    return moved.size / (host.pcie * 1e9)


def exposed_seconds(moved: Moved, host: Host) -> float:
    """Return the modelled time in seconds that a request's caller waits.

    If the stages overlap, the slowest of PCIe, host copies and device sets the time, plus one piece of each other
    stage before or after it. If each copy is waited for, the times add up.
    """
    dma = moved.size / (host.dma_share * 1e9)
    copying = moved.host_copied / (host.copy_share * 1e9)
    device = moved.traffic / (host.hbm * 1e9)
    if not moved.overlaps:
        return dma + copying + device
    pieces = (dma / max(1, moved.copies), copying / max(1, moved.copies), device / max(1, moved.launches))
    slowest = max(range(3), key=lambda n: (dma, copying, device)[n])
    return (dma, copying, device)[slowest] + sum(piece for n, piece in enumerate(pieces) if n != slowest)


def by_ring(moved: Moved) -> Moved:
    """Return the same request with every byte copied once by the host, as with a pinned ring."""
    return replace(moved, host_copied=moved.size)

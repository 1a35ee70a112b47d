"""What a transfer would take on a host with a Gaudi, from what was counted and the host's bandwidths. Pure.

A model, not a measurement. It says which of PCIe, the device's memory and the host's copies sets the time; an owner of
such a host can put in the bandwidths that he has measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gaudi_patch.errors import Exit, GaudiPatchError, did_you_mean

#: Passes over the host's memory for a byte that the host copies: DMA, read, read for ownership, write.
COPY_PASSES = 4


@dataclass(frozen=True)
class Host:
    """Bandwidths in GB/s (10^9 bytes a second).

    pcie: of a card, one direction. hbm: of a card's memory. copy: of the host's copies for one card, by all of its
        threads. dram: of the host's memory, shared by all cards.
    cards: that transfer at the same time. source: of the figures.
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
        """Return what the host's copies reach for one card while all of them transfer."""
        return min(self.copy, self.dram / (COPY_PASSES * self.cards))

    @property
    def dma_share(self) -> float:
        """Return what a card's copies reach while all of them transfer: each byte passes the host's memory once."""
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
    host.name: host for one in (_GAUDI_3, _GAUDI_2) for host in (one, replace(one, name=f"{one.name}-x8", cards=8))
}


def host_of(preset: str, bandwidths: Mapping[str, float | None], cards: int | None) -> Host:
    """Return the host of this name, with what is given in place of its own figures.

    Args:
        preset: A name of ``HOSTS``.
        bandwidths: pcie, hbm, copy, dram in GB/s; None: the preset's.
        cards: Cards that transfer at the same time; None: the preset's.

    Raises:
        GaudiPatchError: ``usage``: no such preset, or a bandwidth that is not above zero.
    """
    if preset not in HOSTS:
        what = f"--host takes {', '.join(HOSTS)}, not {preset!r}{did_you_mean(preset, HOSTS)}"
        raise GaudiPatchError(Exit.USAGE, "usage", what)
    given = {name: value for name, value in bandwidths.items() if value is not None}
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise GaudiPatchError(Exit.USAGE, "usage", f"--{name}-gbs takes a bandwidth above zero, not {value}")
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
    """What was counted of a request, as far as its time depends on it.

    size: bytes of KV. copies: number of copies of KV. host_copied: bytes that the host copied, in the ring or in the
    bridge's bounce buffers. traffic: bytes that the device's operators read and wrote. launches: of graphs. overlaps:
    whether copies and graphs are waited for at the end only.
    """

    size: int
    copies: int
    host_copied: int
    traffic: int
    launches: int
    overlaps: bool


def limit_seconds(moved: Moved, host: Host) -> float:
    """Return the time of the bytes over PCIe, with nothing else."""
    return moved.size / (host.pcie * 1e9)


def exposed_seconds(moved: Moved, host: Host) -> float:
    """Return the time that a request's caller waits, by the model.

    The slowest of PCIe, host copies and device sets it where they overlap, and one piece of each of the others is
    waited for before it begins or after it ends. Where each copy is waited for, the times add up.
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
    """Return the same request where the host copies every byte once, as from a pinned ring."""
    return replace(moved, host_copied=moved.size)

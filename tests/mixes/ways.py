"""The ways to serve the mixes: LMCache's settings, the kind of attention, the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Way:
    """A way to serve a mix.

    settings: LMCache's; ``{folder}`` and ``{server}`` stand for a directory and for an lm:// server's URL. mla: latent
    attention. ranks: how many. tails: a partial last chunk is stored. asynchronous: LMCache brings the hits of a lookup
    into host memory in the background, and answers then. multiprocess: LMCache's server serves it, in another process.
    server: that server's options. pickled: it has no shared memory. below: it has a directory, too.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    mla: bool = False
    ranks: int = 1
    tails: bool = False
    asynchronous: bool = False
    multiprocess: bool = False
    server: tuple[str, ...] = ()
    pickled: bool = False
    below: bool = False

    @property
    def overwrites(self) -> bool:
        """Return whether the server's memory may be overwritten after a load: not if it is written to a directory."""
        return not self.below


_ROOMY, _SMALL = 0.05, 0.0025  # GB: room for about ten mixes, and for less than one mix
_MEMORY = {"local_cpu": True, "max_local_cpu_size": _ROOMY}
_BELOW = {"local_cpu": False, "max_local_cpu_size": _ROOMY}
_DISK = {"local_disk": "file://{folder}/", "max_local_disk_size": 1.0}
_REMOTE = {"remote_serde": "naive"}
_ASYNCHRONOUS = {"enable_async_loading": True}

_SERVER = ("--l1-size-gb", "0.1")
_SMALL_SERVER = ("--l1-size-gb", "0.004")

WAYS: dict[str, Way] = {
    "memory": Way(_MEMORY),
    "tails": Way(_MEMORY, tails=True),
    "latent-attention": Way(_MEMORY, mla=True),
    "disk": Way({**_BELOW, **_DISK}, tails=True),
    "small-pool-over-disk": Way({"local_cpu": True, "max_local_cpu_size": _SMALL, **_DISK}),
    "file-store": Way({**_BELOW, **_REMOTE, "remote_url": "fs://localhost:0{folder}/"}),
    "lm-server": Way({**_BELOW, **_REMOTE, "remote_url": "{server}"}, tails=True),
    "asynchronous-loading": Way({**_MEMORY, **_ASYNCHRONOUS}, tails=True, asynchronous=True),
    "asynchronous-loading-from-disk": Way({**_BELOW, **_DISK, **_ASYNCHRONOUS}, asynchronous=True),
    "asynchronous-loading-over-files": Way(
        {**_BELOW, **_REMOTE, **_ASYNCHRONOUS, "remote_url": "fs://localhost:0{folder}/"}, asynchronous=True
    ),
    "two-ranks": Way(_MEMORY, ranks=2),
    "two-ranks-latent-attention": Way(_MEMORY, mla=True, ranks=2, tails=True),
    "multiprocess": Way(multiprocess=True, server=_SERVER),
    "multiprocess-latent-attention": Way(multiprocess=True, server=_SERVER, mla=True),
    "multiprocess-by-pickle": Way(multiprocess=True, server=_SERVER, pickled=True),
    "multiprocess-over-disk": Way(multiprocess=True, server=_SMALL_SERVER, below=True),
    "multiprocess-two-ranks": Way(multiprocess=True, server=_SERVER, ranks=2),
    "multiprocess-two-ranks-latent-attention": Way(multiprocess=True, server=_SERVER, mla=True, ranks=2),
}

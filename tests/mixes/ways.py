"""The ways to serve the mixes: LMCache's settings, the kind of attention, the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Way:
    """A way to serve a mix.

    settings: LMCache's; ``{folder}`` and ``{server}`` stand for a directory and for an lm:// server's URL. mla: latent
    attention. ranks: how many. tails: a partial last chunk is stored. asynchronous: LMCache brings the hits of a lookup
    into host memory in the background, and answers then.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    mla: bool = False
    ranks: int = 1
    tails: bool = False
    asynchronous: bool = False


_ROOMY, _SMALL = 0.05, 0.0025  # GB: room for about ten mixes, and for less than one mix
_MEMORY = {"local_cpu": True, "max_local_cpu_size": _ROOMY}
_BELOW = {"local_cpu": False, "max_local_cpu_size": _ROOMY}
_DISK = {"local_disk": "file://{folder}/", "max_local_disk_size": 1.0}
_REMOTE = {"remote_serde": "naive"}
_ASYNCHRONOUS = {"enable_async_loading": True}

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
}

"""The faults to inject: for each call of a clean run, every error that it can meet, and every way to end."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from tests.rig.trace import Call, Fault

# No ENOENT: if the kernel says that a path does not exist, no program can know better.
_LOOK = ("EIO", "EACCES", "ESTALE", "EINTR")
_CHANGE = ("EIO", "ENOSPC", "EACCES", "EDQUOT", "EROFS", "ESTALE", "EINTR")
_META = ("EIO", "EPERM", "EROFS", "ENOSPC", "EINTR")

#: The errors that each kind of call can meet; signals come on top.
ERRORS = {
    "open": ("EIO", "ENOSPC", "EACCES", "EDQUOT", "EROFS", "ESTALE", "ENOENT", "EMFILE", "EINTR"),
    "read": ("EIO", "ESTALE", "EINTR", "SHORT"),
    "write": ("EIO", "ENOSPC", "EDQUOT", "EINTR", "SHORT", "TORN"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR"),
    "rename": (*_CHANGE, "ENOENT"),
    "link": (*_CHANGE, "ENOENT"),
    "symlink": _CHANGE,
    "unlink": ("EIO", "EACCES", "EROFS", "ESTALE", "ENOENT", "EBUSY", "EINTR"),
    "rmdir": ("EIO", "EACCES", "EROFS", "EBUSY", "EINTR"),
    "mkdir": _CHANGE,
    "mknod": _CHANGE,
    "truncate": _CHANGE,
    "chmod": _META,
    "chown": _META,
    "utime": _META,
    "setxattr": (*_META, "ENOTSUP"),
    "getxattr": ("EIO", "ENOTSUP", "EACCES"),
    "stat": _LOOK,
    "fstat": ("EIO", "ESTALE"),
    "statvfs": ("EIO", "ESTALE", "EINTR"),
    "access": ("EIO", "EACCES", "EROFS"),
    "readlink": _LOOK,
    "readdir": ("EIO", "ESTALE"),
    "flock": ("EIO", "ENOLCK", "EWOULDBLOCK", "EINTR"),
    "close": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
}

#: Only a call that changes something has different states before and after; of the others, one in four gets signals.
CHANGING = frozenset(
    "open write fsync rename link symlink unlink rmdir mkdir mknod truncate chmod chown utime setxattr".split()  # noqa: SIM905
)
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")

#: Errors that stay: a disk that is dead, full, or read-only from some point on.
LASTING = ("EIO", "ENOSPC", "EROFS", "EACCES")


def every(calls: Iterable[Call]) -> list[Fault]:
    """Return all faults for the counted calls of a clean run."""
    counts = Counter(call.kind for call in calls if call.number)
    faults = []
    for kind, count in sorted(counts.items()):
        errors = ERRORS.get(kind, ("EIO",))
        for number in range(1, count + 1):
            faults += [Fault(kind, number, what) for what in errors]
            if kind in CHANGING:
                faults += [Fault(kind, number, signal) for signal in SIGNALS]
                faults += [Fault(kind, number, what, persist=True) for what in LASTING if what in errors]
            elif number % 4 == 1:
                faults += [Fault(kind, number, signal) for signal in SIGNALS]
    return faults


def sample(faults: Sequence[Fault], count: int, seed: int) -> list[Fault]:
    """Return ``count`` faults: kinds and errors alternate, so that rare ones are not lost among thousands of stats.

    Calls that change something come twice as often as calls that only read.
    """
    chance = random.Random(seed)
    groups: dict[tuple[str, str, bool], list[Fault]] = defaultdict(list)
    for fault in faults:
        groups[fault.kind, fault.what, fault.persist].append(fault)
    for group in groups.values():
        chance.shuffle(group)
    order = sorted(groups) + sorted(key for key in groups if key[0] in CHANGING)
    chance.shuffle(order)
    chosen: list[Fault] = []
    while len(chosen) < min(count, len(faults)):
        for key in order:
            if groups[key] and len(chosen) < count:
                chosen.append(groups[key].pop())
    return chosen

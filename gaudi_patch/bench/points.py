"""The reports of the measuring processes, as points and as pairs to show. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gaudi_patch.bench.hosts import Host, Moved, by_ring, exposed_seconds, limit_seconds
from gaudi_patch.bench.workload import SHAPES, length_text
from gaudi_patch.inside.measurement import Figures
from gaudi_patch.sizing.plan import GIB

DIRECTIONS = ("store", "load")


#: The codes: the name in JSON, and the name in text.
WORDS = {"stock": "unpatched", "ring": "pinned ring", "patched": "patched"}


@dataclass(frozen=True, kw_only=True)
class Point(Figures):
    """One direction of one request by one code on one shape."""

    code: str
    shape: str

    @property
    def times_memcpy(self) -> float:
        """Return the time as a multiple of a memcpy of the same bytes in the same process."""
        return self.seconds / self.memcpy_seconds

    @property
    def cpu_times_memcpy(self) -> float:
        """Return the CPU time as a multiple of that memcpy's."""
        return self.cpu_seconds / self.memcpy_cpu_seconds

    @property
    def moved(self) -> Moved | None:
        """Return the input for the model of a host; None if the device does not count it."""
        counts = self.counts
        if not {"host_copied_bytes", "device_traffic_bytes", "blocking_copies", "graph_launches"} <= set(counts):
            return None
        copies = counts["h2d_copies"] if self.direction == "load" else counts["d2h_copies"]
        # Multiprocess mode waits for the device twice more, before it asks the server and after everything; a code
        # that waits for each memory object waits for half of its copies at least.
        waits = counts["device_syncs"]
        overlaps = (waits <= 1 or 2 * waits < copies) and counts["blocking_copies"] == 0
        traffic, launches = counts["device_traffic_bytes"], counts["graph_launches"]
        return Moved(self.bytes, copies, counts["host_copied_bytes"], traffic, launches, overlaps)

    def as_data(self) -> dict[str, Any]:
        """Return the JSON form, with derived figures."""
        return {
            "code": self.code,
            "shape": self.shape,
            **self.to_json(),
            "times_memcpy": round(self.times_memcpy, 3),
            "cpu_times_memcpy": round(self.cpu_times_memcpy, 3),
            "gb_per_second": round(self.bytes / self.seconds / 1e9, 3),
        }


class Pair(NamedTuple):
    """The same request by the unpatched (``stock``) and the patched code; None for a side without a figure.

    ring: by the patched code through its pinned ring; None if that was not measured.
    """

    shape: str
    tokens: int
    direction: str
    stock: Point | None
    patched: Point | None
    ring: Point | None = None


def read(code: str, shape: str, document: object) -> list[Point]:
    """Parse the points in the JSON report of one measuring process. Raises ValueError."""
    if not isinstance(document, list):
        raise ValueError("no list of figures")
    return [Point(code=code, shape=shape, **vars(Figures.from_json(figures))) for figures in document]


def pairs_of(points: Sequence[Point]) -> list[Pair]:
    """Return the pairs, sorted by shape, direction and length."""
    measured = {(point.shape, point.direction, point.tokens, point.code): point for point in points}
    keys = sorted(
        {key[:3] for key in measured},
        key=lambda key: ([shape.name for shape in SHAPES].index(key[0]), DIRECTIONS.index(key[1]), key[2]),
    )
    return [
        Pair(
            shape,
            tokens,
            direction,
            *(measured.get((shape, direction, tokens, code)) for code in ("stock", "patched", "ring")),
        )
        for shape, direction, tokens in keys
    ]


COUNT_COLUMNS = ("request", "launches", "compiled", "next length", "copies", "syncs", "event waits")
BYTE_COLUMNS = ("request", "KV", "host copied", "bounced", "device traffic", "time", "CPU time")
HOST_COLUMNS = ("request", "PCIe limit", "unpatched", "pinned ring", "patched")


def count_row(pair: Pair) -> tuple[str, ...]:
    """Return a row of the work given to the device: unpatched -> patched, with the ring between if it was measured."""
    return (
        _request(pair),
        _both(pair, lambda point: _count(point, "graph_launches")),
        _both(pair, lambda point: _count(point, "graph_compilation")),
        _both(pair, lambda point: "-" if point.compiled_for_other is None else str(point.compiled_for_other)),
        _both(pair, lambda point: _count(point, "h2d_copies", "d2h_copies")),
        _both(pair, lambda point: _count(point, "device_syncs")),
        _both(pair, lambda point: _count(point, "event_syncs")),
    )


def byte_row(pair: Pair) -> tuple[str, ...]:
    """Return a row of the bytes moved and the time, as in ``count_row``."""
    some = pair.patched or pair.stock or pair.ring
    assert some is not None
    return (
        _request(pair),
        f"{some.bytes / GIB:.1f} GiB" if some.bytes >= GIB else f"{some.bytes >> 20} MiB",
        _both(pair, lambda point: _share(point, "host_copied_bytes", "{:.0%}")),
        _both(pair, lambda point: _share(point, "bounce_bytes", "{:.0%}")),
        _both(pair, lambda point: _share(point, "device_traffic_bytes", "{:.1f}x")),
        _both(pair, lambda point: f"{point.times_memcpy:.1f}x"),
        _both(pair, lambda point: f"{point.cpu_times_memcpy:.1f}x"),
    )


def host_row(pair: Pair, host: Host) -> tuple[str, ...]:
    """Return a row of the modelled times on a host: milliseconds, and multiples of PCIe's limit.

    The ring's are those of its own counts if it was measured, otherwise of the patched code's with all bytes copied.
    """
    stock, patched, ring = (None if one is None else one.moved for one in (pair.stock, pair.patched, pair.ring))
    some = patched or stock or ring
    limit = 0.0 if some is None else limit_seconds(some, host)

    def text(moved: Moved | None) -> str:
        if moved is None:
            return "-"
        seconds = exposed_seconds(moved, host)
        return f"{seconds * 1e3:.1f} ms, {seconds / limit:.1f}x"

    if ring is None and patched is not None:
        ring = by_ring(patched)
    return (_request(pair), "-" if some is None else f"{limit * 1e3:.1f} ms", text(stock), text(ring), text(patched))


def repeated(pairs: Sequence[Pair]) -> str:
    """Return the footnote for the star after a length; empty if no length has one."""
    held = sorted({point.held for pair in pairs for point in _sides(pair) if point and point.held < point.tokens})
    if not held:
        return ""
    lengths = " or ".join(length_text(tokens) for tokens in held)
    return (
        f"*: memory holds KV of {lengths} tokens only (--memory); slots and memory objects repeat after them. "
        "Counts and bytes are those of the whole request, except values that grow with the size of the cache."
    )


def length(pair: Pair) -> str:
    """Return the length of the request, with a star if it exceeds the tokens held in memory."""
    star = "*" if any(point and point.held < point.tokens for point in _sides(pair)) else ""
    return f"{length_text(pair.tokens)}{star}"


def _request(pair: Pair) -> str:
    return f"{pair.direction} {length(pair)}"


def _sides(pair: Pair) -> tuple[Point | None, ...]:
    return (pair.stock, pair.patched) if pair.ring is None else (pair.stock, pair.ring, pair.patched)


def _both(pair: Pair, text: Callable[[Point], str]) -> str:
    return " -> ".join("-" if point is None else text(point) for point in _sides(pair))


def _count(point: Point, *names: str) -> str:
    if not all(name in point.counts for name in names):
        return "-"
    return str(sum(point.counts[name] for name in names))


def _share(point: Point, name: str, form: str) -> str:
    return form.format(point.counts[name] / point.bytes) if name in point.counts else "-"

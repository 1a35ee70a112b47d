"""Ranges of releases with a series, in words and as a row of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

from gaudi_patch.series.model import Series

_K = TypeVar("_K")


def runs(series: Sequence[Series], key: Callable[[Series], _K]) -> list[tuple[_K, list[Series]]]:
    """Group neighbouring series with the same ``key``, in the order given, which is newest first."""
    return [(value, list(group)) for value, group in groupby(series, key)]


def span(series: Sequence[Series]) -> str:
    """Name neighbouring series by their first and last release: "0.4.7 to 0.5.5"."""
    newest, oldest = series[0].id, series[-1].id
    return newest if len(series) == 1 else f"{oldest} to {newest}"


def words(series: Sequence[Series], chosen: Callable[[Series], bool]) -> str:
    """Name the chosen among all ``series``: as ranges, newest first, or "all", or "none"."""
    ranges = [span(group) for inside, group in runs(series, chosen) if inside]
    return "all" if ranges == [span(series)] else ", ".join(ranges) or "none"


def row(series: Sequence[Series], chosen: Callable[[Series], bool]) -> str:
    """Return one mark per series, newest first: # for a chosen one, else a dot."""
    return "".join("#" if chosen(entry) else "." for entry in series)


def scale(series: Sequence[Series]) -> str:
    """Return the header of such rows: the newest release at the left end, the oldest at the right end."""
    if not series:
        return ""
    newest, oldest = series[0].id, series[-1].id
    return newest + " ".ljust(len(series) - len(newest) - len(oldest) - 1, ".") + f" {oldest}"

"""The fields of an attestation, for the type checker; ``schema.json`` validates files."""

from __future__ import annotations

from typing import TypedDict


class Tool(TypedDict):
    """The gaudi-patch that wrote the attestation."""

    name: str
    version: str


class Package(TypedDict):
    """The installation; ``version`` is "" if no metadata has one."""

    name: str
    version: str
    layout: str
    root: str


class SeriesField(TypedDict):
    """The series: how it was matched, and when and by which version it was applied."""

    id: str
    matched_by: str
    applied_at: str | None
    applied_by: str | None


class PatchField(TypedDict):
    """A patch by name and hash, with its reason."""

    name: str
    sha256: str
    why: str
    upstream: str


class FileField(TypedDict):
    """A file with its sha256 before and after; None if absent."""

    path: str
    action: str
    before: str | None
    after: str | None


class CapabilityField(TypedDict):
    """A capability that the series claims, and the evidence for it."""

    id: str
    summary: str
    evidence: str


class LevelField(TypedDict):
    """A smoke level. ``counters``: numbers by name, or by name and workload."""

    level: str
    rules: str
    status: str
    device: str
    checks: int
    reason: str
    seconds: float
    counters: dict[str, int | dict[str, int]]


class SmokeField(TypedDict):
    """The results of the smoke levels, overall and one by one."""

    status: str
    reason: str
    levels: list[LevelField]


class Interpreter(TypedDict):
    """The target's interpreter."""

    executable: str
    version: str


class Release(TypedDict):
    """The upstream wheel that a patched wheel was built from."""

    version: str
    wheel: str
    sha256: str


class _Always(TypedDict):
    schema: str
    schema_version: int
    sha256: str
    tool: Tool
    created: str
    outcome: str
    package: Package
    series: SeriesField | None
    patches: list[PatchField]
    files: list[FileField]
    capabilities: list[CapabilityField]
    smoke: SmokeField
    interpreter: Interpreter | None
    packages: dict[str, str | None]


class Attestation(_Always, total=False):
    """An attestation; only a wheel's attestation has ``release``."""

    release: Release

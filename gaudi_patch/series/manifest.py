"""patches/manifest.toml and its lock: which series of patches belongs to which version.

The manifest is written by hand, the lock is generated from it and from the wheels. Both are read from
the wheel of gaudi-patch or from a checkout. Nothing here knows an installation.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gaudi_patch.disk import sha256
from gaudi_patch.errors import bad_manifest

if TYPE_CHECKING:
    from packaging.version import Version

SCHEMA = 1


class Kind(str, Enum):
    """Verdict for a version."""

    SERIES = "series"
    UPSTREAM = "upstream"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Patch(NamedTuple):
    """One unified diff, and why it is there. ``name`` is its path below ``patches/``."""

    name: str
    why: str
    upstream: str
    remove_when: str


class Series(NamedTuple):
    """The ordered patches for one set of versions."""

    id: str
    versions: str
    patches: tuple[str, ...]
    capabilities: tuple[str, ...]
    notes: str = ""


class Capability(NamedTuple):
    """What a series brings; ``smoke``: the levels that check it."""

    id: str
    summary: str
    evidence: str = ""
    smoke: tuple[str, ...] = ()


class Rule(NamedTuple):
    """Versions that get no series: refused with a reason, or not needed since upstream has it."""

    versions: str
    reason: str
    advice: str = ""


class LockedFile(NamedTuple):
    """sha256 of one file before and after a series; None where it does not exist."""

    before: str | None
    after: str | None


class Verdict(NamedTuple):
    """What the manifest says about a version."""

    kind: Kind
    version: str
    series: Series | None = None
    reason: str = ""
    advice: str = ""
    nearest: Series | None = None


class Manifest(NamedTuple):
    """The manifest and its lock, read and checked."""

    directory: Path
    package: str
    series: tuple[Series, ...]
    patches: Mapping[str, Patch]
    capabilities: Mapping[str, Capability]
    refused: tuple[Rule, ...]
    upstream: tuple[Rule, ...]
    pairs: tuple[Mapping[str, str], ...]
    lock: Mapping[str, Any]

    def verdict(self, version: str) -> Verdict:
        """Match ``version`` against the manifest; at most one series can match.

        Raises ``bad-manifest`` when two series claim the version.
        """
        matching = [series for series in self.series if _matches(series.versions, version)]
        if len(matching) > 1:
            names = " and ".join(series.id for series in matching)
            raise bad_manifest(f"version {version} is claimed by two series: {names}", str(self.file))
        if matching:
            return Verdict(Kind.SERIES, version, matching[0])
        for rule in self.refused:
            if _contains(rule.versions, version):
                return Verdict(Kind.REFUSED, version, None, rule.reason, rule.advice, self.nearest(version))
        for rule in self.upstream:
            if _contains(rule.versions, version):
                return Verdict(Kind.UPSTREAM, version, None, rule.reason, rule.advice)
        return Verdict(Kind.UNKNOWN, version, nearest=self.nearest(version))

    def nearest(self, version: str) -> Series | None:
        """The series of the closest release: the newest not above ``version``, else the oldest above."""
        parsed = _version(version)
        if parsed is None:
            return self.series[-1] if self.series else None
        known = sorted(
            ((number, series) for series in self.series if (number := newest_release(series))), key=lambda pair: pair[0]
        )
        below = [series for number, series in known if number <= parsed]
        return below[-1] if below else known[0][1] if known else None

    def by_id(self, name: str) -> Series | None:
        return next((series for series in self.series if series.id == name), None)

    @property
    def file(self) -> Path:
        return self.directory / "manifest.toml"

    def locked_files(self, series: Series) -> dict[str, LockedFile]:
        """Paths (relative to site-packages) that ``series`` touches, with their hashes."""
        entry = self.lock["series"].get(series.id)
        if entry is None or entry["patches"] != list(series.patches):
            raise bad_manifest(
                f"has no up-to-date entry for series {series.id}",
                str(self.directory / "manifest.lock"),
                hint="maintainers: gaudi-patch dev lint --write",
            )
        return {path: LockedFile(*hashes) for path, hashes in entry["files"].items()}

    def patch_bytes(self, name: str) -> bytes:
        """Read a patch and hold it against the lock; a converted or edited patch is refused."""
        path = self.directory / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise bad_manifest(
                f"lists the patch {name}, which cannot be read: {error.strerror}", str(self.file)
            ) from error
        if sha256(data) != self.lock["patches"].get(name):
            hint = "maintainers: gaudi-patch dev lint --write"
            if data and all(line.endswith(b"\r") for line in data.split(b"\n")[:-1]):
                hint = (
                    "the file has CRLF line ends: it was converted on checkout; mark `*.patch -text` in .gitattributes"
                )
            raise bad_manifest("differs from the sha256 in manifest.lock", str(path), hint=hint)
        return data


def default_directory() -> Path:
    """Where the patches are: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for candidate in (here / "_patches", here.parent / "patches"):
        if (candidate / "manifest.toml").is_file():
            return candidate
    raise bad_manifest("no patches/manifest.toml was found beside gaudi-patch; reinstall it", str(here))


def load(directory: Path | None = None, *, require_lock: bool = True) -> Manifest:
    """Read and check manifest.toml and manifest.lock below ``directory``.

    Every fault is a ``bad-manifest`` that names the file, the key, and the line.
    """
    directory = directory or default_directory()
    file = directory / "manifest.toml"
    text = _read_text(file)
    lock = _read_lock(directory / "manifest.lock") if require_lock else {"patches": {}, "series": {}}
    copy = _parsed(lock, text)
    document = copy or _parse_toml(file, text)
    reader = _Reader(file, text, known_good=copy is not None)
    schema = document.get("schema")
    if schema != SCHEMA:
        hint = "upgrade gaudi-patch" if isinstance(schema, int) and schema > SCHEMA else ""
        raise reader.fault("schema", f"must be {SCHEMA}, not {schema!r}", hint=hint)
    reader.only(document, "", {"schema", "package", "series", "patch", "capability", "refused", "upstream", "pairs"})
    patches = {}
    for name, table in reader.table(document, "patch").items():
        where = f'patch."{name}"'
        reader.only(table, where, {"why", "upstream", "remove_when"})
        patches[name] = Patch(name, *(reader.string(table, key, where) for key in ("why", "upstream", "remove_when")))
    capabilities = {}
    for entry in reader.tables(document, "capability"):
        reader.only(entry, "capability", set(Capability._fields))
        found = Capability(
            reader.string(entry, "id", "capability"),
            reader.string(entry, "summary", "capability"),
            str(entry.get("evidence", "")),
            reader.strings(entry, "smoke", "capability"),
        )
        capabilities[found.id] = found
    series = tuple(_series(reader, entry, patches, capabilities) for entry in reader.tables(document, "series"))
    seen: set[str] = set()
    for one in series:
        if one.id in seen:
            raise reader.fault(one.id, "two series have this name")
        seen.add(one.id)
    unused = sorted(set(patches) - {name for one in series for name in one.patches})
    if unused:
        raise reader.fault(unused[0], "no series uses this patch")
    return Manifest(
        directory,
        reader.string(document, "package", ""),
        series,
        patches,
        capabilities,
        _rules(reader, document, "refused"),
        _rules(reader, document, "upstream"),
        tuple(_pair(reader, entry) for entry in reader.tables(document, "pairs")),
        lock,
    )


def _series(reader: _Reader, entry: Mapping[str, Any], patches: Mapping[str, Patch], known: Iterable[str]) -> Series:
    reader.only(entry, "series", {"id", "versions", "patches", "capabilities", "notes"})
    versions = reader.specifier(entry, "series")
    names = reader.strings(entry, "patches", f"series {versions}")
    if not names:
        raise reader.fault("patches", f"series {versions} lists no patch")
    for name in names:
        if name not in patches:
            raise reader.fault(
                name, f'series {versions} uses it, but there is no [patch."{name}"] with why, upstream, remove_when'
            )
        if name.startswith("/") or ".." in name.split("/"):
            raise reader.fault(name, "a patch must lie below patches/")
    capabilities = reader.strings(entry, "capabilities", f"series {versions}")
    for name in capabilities:
        if name not in known:
            raise reader.fault(name, f"series {versions} claims it, but there is no [[capability]] with that id")
    identifier = str(entry.get("id") or versions.removeprefix("=="))
    return Series(identifier, versions, names, capabilities, str(entry.get("notes", "")))


def _pair(reader: _Reader, entry: Mapping[str, Any]) -> Mapping[str, str]:
    """Releases of LMCache, and the vllm-gaudi that goes with them; `pairs` reads what they say."""
    keys = ("lmcache", "vllm_gaudi")
    reader.only(entry, "pairs", set(keys))
    return {key: reader.string(entry, key, "pairs") for key in keys}


def _rules(reader: _Reader, document: Mapping[str, Any], key: str) -> tuple[Rule, ...]:
    rules = []
    for entry in reader.tables(document, key):
        reader.only(entry, key, {"versions", "reason", "advice"})
        rules.append(
            Rule(reader.specifier(entry, key), reader.string(entry, "reason", key), str(entry.get("advice", "")))
        )
    return tuple(rules)


class _Reader:
    """Typed access to the document; each fault names the key and the line where it stands.

    ``known_good``: the lock was written from this very text, so its specifiers have been parsed once.
    """

    def __init__(self, file: Path, text: str, *, known_good: bool = False) -> None:
        self.file, self.text, self.known_good = file, text, known_good

    def fault(self, key: str, message: str, hint: str = "") -> Exception:
        return bad_manifest(f"{key}: {message}", str(self.file), self._line(key), hint)

    def _line(self, key: str) -> int:
        name = key.rsplit(".", 1)[-1] if not key.endswith('"') else key.split('"')[1]
        for number, line in enumerate(self.text.splitlines(), 1):
            if re.search(rf'(^|[\s\[".]){re.escape(name)}($|[\s\]"=,.])', line):
                return number
        return 1

    def only(self, table: Mapping[str, Any], where: str, allowed: set[str]) -> None:
        for key in table:
            if key not in allowed:
                raise self.fault(
                    key, f"unknown key{f' in [{where}]' if where else ''}; known: {', '.join(sorted(allowed))}"
                )

    def string(self, table: Mapping[str, Any], key: str, where: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(where or key, f"{key} must be a text that is not empty, not {value!r}")
        return value

    def strings(self, table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fault(key, f"in {where}: must be a list of texts, not {value!r}")
        return tuple(value)

    def table(self, document: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
        value = document.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
            raise self.fault(key, "must be a table of tables")
        return value

    def tables(self, document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        value = document.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.fault(key, f"must be a list of tables: [[{key}]]")
        return value

    def specifier(self, table: Mapping[str, Any], where: str) -> str:
        text = self.string(table, "versions", where)
        if self.known_good or (_PLAIN.fullmatch(text.removeprefix("==")) and text.startswith("==")):
            return text  # without packaging, whose import takes 12 ms
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            raise self.fault(text, f"versions of [[{where}]] is no PEP 440 specifier") from None
        return text


def parsed_copy(file: Path) -> dict[str, Any]:
    """What the lock keeps of the manifest: its hash and its parsed form, which spares every run a TOML parser."""
    text = _read_text(file)
    return {"sha256": sha256(text.encode()), "document": _parse_toml(file, text)}


def _parsed(lock: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    copy = lock.get("manifest")
    if isinstance(copy, dict) and copy.get("sha256") == sha256(text.encode()) and isinstance(copy["document"], dict):
        return copy["document"]
    return None


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_manifest(f"cannot be read: {error}", str(file)) from error


def _parse_toml(file: Path, text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        raise bad_manifest(
            f"is not valid TOML: {error}", str(file), int(line[1]) if line else text.count("\n") + 1
        ) from error
    return document


def _read_lock(file: Path) -> dict[str, Any]:
    hint = "maintainers: gaudi-patch dev lint --write"
    try:
        lock = json.loads(file.read_bytes())
    except OSError as error:
        raise bad_manifest(f"cannot be read: {error.strerror}", str(file), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise bad_manifest(f"is not valid JSON: {error}", str(file), getattr(error, "lineno", 1), hint) from error
    if not isinstance(lock, dict) or lock.get("schema") != SCHEMA:
        found = lock.get("schema") if isinstance(lock, dict) else None
        raise bad_manifest(f"schema: must be {SCHEMA}, not {found!r}", str(file), 1, hint)
    try:
        sound = all(isinstance(value, str) for value in lock["patches"].values()) and all(
            isinstance(entry["patches"], list) and all(len(hashes) == 2 for hashes in entry["files"].values())
            for entry in lock["series"].values()
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise bad_manifest("does not hold what a lock holds (patches, series, files)", str(file), 1, hint)
    return lock


def _version(text: str) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


#: `==0.5.6` against `0.5.6`, both in normal form, is decided without packaging, whose import takes 12 ms.
_PLAIN = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(\.post[1-9][0-9]*)?", re.ASCII)


def _matches(specifier: str, version: str) -> bool:
    pinned = specifier.removeprefix("==")
    if specifier.startswith("==") and _PLAIN.fullmatch(pinned) and _PLAIN.fullmatch(version):
        return pinned == version
    return _contains(specifier, version)


def _contains(specifier: str, version: str) -> bool:
    # prereleases=True: packaging 24.2 and 26.3 disagree about dev versions otherwise.
    from packaging.specifiers import SpecifierSet

    parsed = _version(version)
    return parsed is not None and SpecifierSet(specifier).contains(parsed, prereleases=True)


def newest_release(series: Series) -> Version | None:
    """The newest release that a specifier names."""
    numbers = [
        number for text in re.findall(r"[0-9][^,\s]*", series.versions) if (number := _version(text.rstrip(".*")))
    ]
    return max(numbers) if numbers else None

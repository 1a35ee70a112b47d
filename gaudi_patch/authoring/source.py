"""Read and check manifest.toml, which is written by hand; report every fault with its key and line.

Only the authoring commands read it; a run reads the lock generated from it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gaudi_patch.authoring import toml_lines
from gaudi_patch.errors import bad_manifest
from gaudi_patch.series import lock, pairs, versions
from gaudi_patch.series import manifest as manifests
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.series.model import Capability, Pair, Patch, Rule, Series
from gaudi_patch.smoke import levels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")

#: The only value of `extends`: the patches that come with gaudi-patch.
BUILT_IN = "built-in"

_OLDER = (
    "give each patch a title, declare capabilities on patches instead of series, write pairs as PEP 440 specifiers, "
    "then schema = 2; see the built-in manifest.toml and `gaudi-patch guide porting`"
)


def load(directory: Path) -> Manifest:
    """Read and check manifest.toml below ``directory``; hashes are left empty.

    Raises ``bad-manifest`` with the key and the line.
    """
    file = directory / lock.SOURCE
    top = Table(_parse(file), (), Lines(file))
    schema = top.value.get("schema")
    if schema != lock.SCHEMA:
        hint = "upgrade gaudi-patch" if isinstance(schema, int) and schema > lock.SCHEMA else _OLDER
        raise top.fault(f"must be {lock.SCHEMA}, not {schema!r}", "schema", hint=hint)
    if "extends" in top.value:
        return _overlay(directory, top)
    top.only({"schema", "package", "series", "patch", "capability", "refused", "upstream", "pairs"})
    known = _capabilities(top, {})
    patches = {table.name: _patch(table, known) for table in top.named("patch")}
    series: dict[str, Series] = {}
    for table in top.tables("series"):
        read = _series(table, patches, known)
        if read.id in series:
            raise table.fault(f"two series are named {read.id}", "id" if "id" in table.value else "versions")
        series[read.id] = read
    _refuse_unused(top, series.values())
    return Manifest(
        directory,
        top.text("package"),
        tuple(series.values()),
        patches,
        known,
        tuple(_rule(table) for table in top.tables("refused")),
        tuple(_rule(table) for table in top.tables("upstream")),
        tuple(_pair(table) for table in top.tables("pairs")),
    )


def _overlay(directory: Path, top: Table) -> Manifest:
    """Return a site's own patches laid over the built-in ones, for the releases named in its manifest only.

    Each series is the built-in series of its release, followed by the site's patches. Other releases have no series
    here: a site must not believe a private patch applied that the release does not get.
    """
    top.only({"schema", "extends", "series", "patch", "capability"})
    if top.text("extends") != BUILT_IN:
        raise top.fault(f"must be {BUILT_IN!r}", "extends")
    base = manifests.load(manifests.default_directory())
    known = _capabilities(top, base.capabilities)
    own = {table.name: _patch(table, known) for table in top.named("patch")}
    for table in top.named("patch"):
        if table.name in base.patches:
            raise table.fault("a built-in patch has this name: choose another")
    patches = {**{name: patch._replace(built_in=True) for name, patch in base.patches.items()}, **own}
    laid_over: dict[str, Series] = {}
    for table in top.tables("series"):
        laid = _series(table, own, known)
        release = laid.versions.removeprefix("==")
        under = base.verdict(release).series
        if under is None or under.versions != laid.versions:
            what = f"gaudi-patch has no series for {laid.versions}; a site's patches go on top of one (==X.Y.Z)"
            raise table.fault(what, "versions", hint="upgrade gaudi-patch, or see `gaudi-patch list`")
        if release in laid_over:
            raise table.fault(f"two series are for {release}", "versions")
        names = (*under.patches, *laid.patches)
        notes = laid.notes or under.notes
        laid_over[release] = Series(under.id, under.versions, names, lock.brought(names, patches, known), notes)
    _refuse_unused(top, laid_over.values())
    manifest = Manifest(directory, base.package, tuple(laid_over.values()), patches, known, (), (), base.pairs)
    return manifest._replace(refused=base.refused, upstream=base.upstream)


def _capabilities(top: Table, known: Mapping[str, Capability]) -> dict[str, Capability]:
    """Return ``known`` plus the document's capabilities; refuse a duplicate id."""
    capabilities = dict(known)
    for table in top.tables("capability"):
        made = _capability(table)
        if made.id in capabilities:
            raise table.fault("two capabilities have this id", "id")
        capabilities[made.id] = made
    return capabilities


def _refuse_unused(top: Table, series: Iterable[Series]) -> None:
    """Refuse a patch that no series uses: it looks like an applied one."""
    used = {name for entry in series for name in entry.patches}
    unused = [table for table in top.named("patch") if table.name not in used]
    if unused:
        others = "".join(f", nor {table.name}" for table in unused[1:])
        raise unused[0].fault(f"no series uses this patch{others}")


def _capability(table: Table) -> Capability:
    table.only(Capability._fields)
    smoke = table.texts("smoke")
    for index, name in enumerate(smoke):
        if name not in levels.names():
            raise table.fault(f"capability {table.text('id')}: no smoke level {name}", "smoke", index)
    return Capability(table.text("id"), table.text("summary"), table.text("evidence", ""), smoke)


def _patch(table: Table, known: Collection[str]) -> Patch:
    table.only({"title", "why", "upstream", "remove_when", "capabilities"})
    name = table.name
    if name.startswith("/") or ".." in name.split("/"):
        raise table.fault("a patch must be below patches/")
    title, why, upstream, remove_when = (table.text(key) for key in ("title", "why", "upstream", "remove_when"))
    capabilities = table.texts("capabilities")
    for index, capability in enumerate(capabilities):
        if capability not in known:
            raise table.fault(f"{capability}: there is no [[capability]] with that id", "capabilities", index)
    return Patch(name, title, why, upstream, remove_when, capabilities)


def _series(table: Table, patches: Mapping[str, Patch], known: Mapping[str, Capability]) -> Series:
    if "capabilities" in table.value:
        raise table.fault("a series has the capabilities of its patches: declare them there", "capabilities")
    table.only({"id", "versions", "patches", "notes"})
    versions = table.specifier("versions")
    names = table.texts("patches")
    if not names:
        raise table.fault(f"series {versions} lists no patch", "patches")
    for index, name in enumerate(names):
        if name not in patches:
            what = f'{name}: there is no [patch."{name}"] with title, why, upstream, remove_when'
            raise table.fault(what, "patches", index)
        if name in names[:index]:
            raise table.fault(f"{name}: series {versions} lists it twice", "patches", index)
    identifier = table.text("id", "") or versions.removeprefix("==")
    return Series(identifier, versions, names, lock.brought(names, patches, known), table.text("notes", ""))


def _rule(table: Table) -> Rule:
    table.only(Rule._fields)
    return Rule(table.specifier("versions"), table.text("reason"), table.text("advice", ""))


def _pair(table: Table) -> Pair:
    table.only(Pair._fields)
    made = Pair(table.specifier("lmcache"), table.texts("vllm_gaudi"), table.text("note", ""))
    if not made.vllm_gaudi:
        raise table.fault("lists no specifier", "vllm_gaudi")
    for index, specifier in enumerate(made.vllm_gaudi):
        table.read(lambda text=specifier: pairs.words(versions.specifier(text)), "vllm_gaudi", index)  # type: ignore[misc]
    return made


class Lines:
    """The lines of a manifest, looked up only when a fault is found."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def of(self, path: toml_lines.Path) -> int:
        """Return the line of ``path``, or of the innermost enclosing table with a known line."""
        positions = toml_lines.positions(self.file.read_bytes().decode())
        while path and path not in positions:
            path = path[:-1]
        return positions.get(path, 1)


class Table:
    """Typed access to one table; faults name the key and the line."""

    def __init__(self, value: Mapping[str, Any], path: toml_lines.Path, lines: Lines) -> None:
        self.value, self.path, self.lines = value, path, lines

    @property
    def name(self) -> str:
        """Return the table's own key."""
        return str(self.path[-1])

    def fault(self, message: str, *keys: str | int, hint: str = "") -> Exception:
        """Return a fault of this table, or of the key or item ``keys`` in it."""
        key = ".".join(str(part) for part in (*self.path, *keys) if isinstance(part, str))
        return bad_manifest(f"{key}: {message}", str(self.lines.file), self.lines.of((*self.path, *keys)), hint)

    def only(self, allowed: Collection[str]) -> None:
        """Refuse keys other than ``allowed``."""
        for key in self.value:
            if key not in allowed:
                raise self.fault(f"unknown key; known: {', '.join(sorted(allowed))}", key)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a non-empty text; ``default`` if there is no such key."""
        value = self.value.get(key, default)
        if not isinstance(value, str) or ((default is None or key in self.value) and not value.strip()):
            raise self.fault(f"must be a non-empty string, not {value!r}", key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; empty if there is no such key."""
        value = self.value.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fault(f"must be a list of strings, not {value!r}", key)
        return tuple(value)

    def specifier(self, key: str) -> str:
        """Return a PEP 440 specifier."""
        text = self.text(key)
        return self.read(lambda: versions.specifier(text), key)

    def read(self, parse: Callable[[], _T], *keys: str | int) -> _T:
        """Call ``parse``; report a ValueError, the base of packaging's errors, as a fault of ``keys``."""
        try:
            return parse()
        except ValueError as error:
            raise self.fault(f"{error}", *keys) from error

    def tables(self, key: str) -> list[Table]:
        """Return an array of tables."""
        value = self.value.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.fault(f"must be a list of tables: [[{key}]]", key)
        return [Table(item, (*self.path, key, index), self.lines) for index, item in enumerate(value)]

    def named(self, key: str) -> list[Table]:
        """Return a table of tables."""
        value = self.value.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
            raise self.fault("must be a table of tables", key)
        return [Table(item, (*self.path, key, name), self.lines) for name, item in value.items()]


def _parse(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_manifest(f"cannot be read: {error}", str(file)) from error
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        where = int(line[1]) if line else text.count("\n") + 1
        raise bad_manifest(f"is not valid TOML: {error}", str(file), where) from error
    if several := re.search(r'"""|\'\'\'', text):
        # The lock's digest of this file supports single-line strings only.
        line_of = text.count("\n", 0, several.start()) + 1
        raise bad_manifest("has a string on several lines (three quotes); write it on one line", str(file), line_of)
    return document

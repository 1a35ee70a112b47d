"""manifest.lock: convert the compiled manifest to JSON and back.

The lock contains everything that a run needs, including the hashes of every file before and after each series. Its
digest of manifest.toml reveals a lock older than its source, without parsing TOML.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gaudi_patch.disk import sha256
from gaudi_patch.errors import GaudiPatchError, bad_manifest
from gaudi_patch.series.model import Capability, LockedFile, Pair, Patch, Rule, Series
from gaudi_patch.series.versions import specifier

SCHEMA = 2
NAME = "manifest.lock"
SOURCE = "manifest.toml"
SHIPPED = "_patches"  # the directory inside the wheel of gaudi-patch
_PACKAGE = Path(__file__).resolve().parents[1]

#: Longest line of the file: an object or a list that fits is written on one line.
_WIDTH = 240

#: A single-line TOML string, or a comment. `dev lint` refuses multi-line strings.
_STRING_OR_COMMENT = re.compile(rb'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*')


class Content(NamedTuple):
    """A manifest without its directory. ``source_sha256`` is the digest of its manifest.toml."""

    package: str
    series: tuple[Series, ...]
    patches: Mapping[str, Patch]
    capabilities: Mapping[str, Capability]
    refused: tuple[Rule, ...]
    upstream: tuple[Rule, ...]
    pairs: tuple[Pair, ...]
    source_sha256: str = ""


def source_digest(text: bytes) -> str:
    """Return the sha256 of manifest.toml without comments, blank lines and indentation, which have no effect."""
    bare = _STRING_OR_COMMENT.sub(lambda match: b"" if match[0].startswith(b"#") else match[0], text)
    return sha256(b"\n".join(line for line in map(bytes.strip, bare.split(b"\n")) if line))


def renew_hint(directory: Path) -> str:
    """Return what to do about an unusable lock, as a complete command."""
    if _shipped(directory):
        return "reinstall gaudi-patch"
    return f"maintainers: gaudi-patch dev lint --write{option(directory)}"


def option(directory: Path) -> str:
    """Return the option for a printed command to use the patches of ``directory``; "" for the built-in patches."""
    if _shipped(directory) or directory.resolve() == _PACKAGE.parent / "patches":
        return ""
    return f" --manifest {shlex.quote(str(directory.absolute()))}"


def _shipped(directory: Path) -> bool:
    """Return whether this is the copy inside the wheel, which is unchanged since the build; any other may have been
    edited.
    """
    return directory.resolve() == _PACKAGE / SHIPPED


def render(content: Content, source: bytes) -> bytes:
    """Return the lock's bytes for ``content``, which was read from ``source``."""
    document = {
        "schema": SCHEMA,
        "package": content.package,
        "source_sha256": source_digest(source),
        "series": [
            {
                "id": series.id,
                "versions": series.versions,
                "notes": series.notes,
                "patches": series.patches,
                "files": {path: list(hashes) for path, hashes in sorted(series.files.items())},
            }
            for series in content.series
        ],
        "patches": {
            name: {
                "title": patch.title,
                "why": patch.why,
                "upstream": patch.upstream,
                "remove_when": patch.remove_when,
                "capabilities": patch.capabilities,
                "sha256": patch.sha256,
                "hunks": dict(sorted(patch.hunks.items())),
                **({"built_in": True} if patch.built_in else {}),
            }
            for name, patch in content.patches.items()
        },
        "capabilities": [capability._asdict() for capability in content.capabilities.values()],
        "refused": [rule._asdict() for rule in content.refused],
        "upstream": [rule._asdict() for rule in content.upstream],
        "pairs": [pair._asdict() for pair in content.pairs],
    }
    return (_write(document, "") + "\n").encode()


def _write(value: Any, indent: str) -> str:  # noqa: ANN401 - what JSON can hold
    """Format JSON so that diffs are readable: an object or a list on one line if it fits."""
    line = json.dumps(value, ensure_ascii=False)
    if (len(indent) + len(line) <= _WIDTH and indent) or not isinstance(value, dict | list | tuple):
        return line
    more = indent + " "
    if isinstance(value, dict):
        parts = [f"{more}{json.dumps(key, ensure_ascii=False)}: {_write(item, more)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(more + _write(item, more) for item in value) + f"\n{indent}]"


def load(directory: Path) -> Content:
    """Read the lock below ``directory``.

    Raises ``bad-manifest`` if it is missing, damaged, of another schema, or older than manifest.toml beside it.
    """
    file = directory / NAME
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _fault(file, f"cannot be read: {error.strerror}") from error
    content = parse(data, file)
    source = directory / SOURCE
    if not _shipped(directory) and source.is_file() and source_digest(source.read_bytes()) != content.source_sha256:
        raise _fault(file, f"is stale: {SOURCE} beside it has changed since the lock was generated")
    return content


def parse(data: bytes, file: Path) -> Content:
    """Parse a lock and check every type in it; ``file`` is its name in messages."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _fault(file, f"is not valid JSON: {error}", getattr(error, "lineno", 1)) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise _fault(file, f"schema: must be {SCHEMA}, not {schema!r}", 1, "upgrade gaudi-patch" if newer else "")
    try:
        return _content(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _fault(file, f"does not have the form of a lock ({type(error).__name__}: {error})", 1) from error


def _fault(file: Path, message: str, line: int = 0, hint: str = "") -> GaudiPatchError:
    return bad_manifest(message, str(file), line, hint or renew_hint(file.parent))


def _content(document: Mapping[str, Any]) -> Content:
    capabilities = {
        _text(capability["id"]): Capability(
            capability["id"], _text(capability["summary"]), _text(capability["evidence"]), _texts(capability["smoke"])
        )
        for capability in _list(document["capabilities"])
    }
    patches = {_text(name): _patch(name, entry) for name, entry in document["patches"].items()}
    return Content(
        _text(document["package"]),
        tuple(_series(entry, patches, capabilities) for entry in _list(document["series"])),
        patches,
        capabilities,
        tuple(_rule(rule) for rule in _list(document["refused"])),
        tuple(_rule(rule) for rule in _list(document["upstream"])),
        tuple(_pair(pair) for pair in _list(document["pairs"])),
        _text(document["source_sha256"]),
    )


def _patch(name: str, entry: Mapping[str, Any]) -> Patch:
    hunks = {_text(path): int(number) for path, number in entry["hunks"].items()}
    return Patch(
        name,
        _text(entry["title"]),
        _text(entry["why"]),
        _text(entry["upstream"]),
        _text(entry["remove_when"]),
        _texts(entry["capabilities"]),
        _text(entry["sha256"]),
        hunks,
        entry.get("built_in", False) is True,
    )


def _series(entry: Mapping[str, Any], patches: Mapping[str, Patch], known: Mapping[str, Capability]) -> Series:
    names = _texts(entry["patches"])
    files = {_text(path): LockedFile(*(_hash(value) for value in hashes)) for path, hashes in entry["files"].items()}
    versions, capabilities = specifier(_text(entry["versions"])), brought(names, patches, known)
    return Series(_text(entry["id"]), versions, names, capabilities, _text(entry["notes"]), files)


def brought(names: tuple[str, ...], patches: Mapping[str, Patch], known: Mapping[str, Capability]) -> tuple[str, ...]:
    """Return all capabilities of the patches ``names``, in the order of the manifest."""
    have = {capability for name in names for capability in patches[name].capabilities}
    if unknown := have - set(known):
        raise ValueError(f"no capability {', '.join(sorted(unknown))}")
    return tuple(name for name in known if name in have)


def _rule(entry: Mapping[str, Any]) -> Rule:
    return Rule(specifier(_text(entry["versions"])), _text(entry["reason"]), _text(entry["advice"]))


def _pair(entry: Mapping[str, Any]) -> Pair:
    return Pair(
        specifier(_text(entry["lmcache"])), tuple(map(specifier, _texts(entry["vllm_gaudi"]))), _text(entry["note"])
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a string")
    return value


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - what JSON can hold
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(_text, _list(value)))


def _hash(value: object) -> str | None:
    return None if value is None else _text(value)

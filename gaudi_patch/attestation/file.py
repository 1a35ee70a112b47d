"""The attestation as a file: written whole or not at all, and accepted only if it is intact."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import NoReturn, cast

from gaudi_patch.attestation import schema
from gaudi_patch.attestation.document import VERSION, digest
from gaudi_patch.attestation.fields import Attestation
from gaudi_patch.disk import Disk, FileImage, environment_error
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.reading import UnsuitableFileError, parse_json, read_bytes

#: More than an attestation of any series; a larger file is not read to its end.
LIMIT = 16 * 1024 * 1024


def destination(path: Path) -> Path:
    """Return ``path`` resolved, after checking that a file can be written there. Called before anything is changed.

    Raises a usage error if ``path`` cannot be replaced by a file (a directory, a device such as /dev/stdout), an
    environment error if its directory is missing or not writable.
    """
    if str(path) == "-":
        raise _usage("--report must be a file; nothing was changed", "--json prints the result on stdout")
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise _usage(f"--report {path}: exists and is not a regular file; nothing was changed", "choose a new file")
    doing = "checking where the attestation will be written"
    if not target.parent.is_dir():
        raise environment_error(FileNotFoundError(2, "No such directory", str(target.parent)), doing)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise environment_error(PermissionError(13, "Permission denied", str(target.parent)), doing)
    return target


def write(path: Path, document: Attestation, disk: Disk) -> None:
    """Replace ``path`` with ``document``, durably; an OSError leaves the old file in place.

    The file is readable by everybody: the container that checks it seldom runs as the user that built it.
    """
    put(path, text(document), disk)


def text(document: Attestation) -> bytes:
    """Return the attestation as file content, after validating it against its schema."""
    if faults := schema.faults(document):
        raise AssertionError(f"the attestation is not valid by its own schema: {'; '.join(faults)}")
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def put(path: Path, data: bytes, disk: Disk) -> None:
    """Replace ``path`` with ``data``, as :func:`write` does."""
    staged = path.with_name(f".{path.name}.gaudi-patch-{os.getpid()}")
    try:
        disk.write_new(staged, FileImage(data, 0o644))
        disk.replace(staged, path)
        disk.sync_directory(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def read(path: Path, anew: str) -> Attestation:
    """Return the attestation in ``path``; ``anew`` is the command line that writes a new one there.

    Raises ``bad-attestation`` (exit 2) if it is missing, damaged, edited or of another form.
    """
    return read_signed(path, None, anew)[0]


def read_signed(path: Path, key: Path | None, anew: str) -> tuple[Attestation, str]:
    """Return the attestation in ``path``, and the trusted comment of its signature by ``key``; "" without a key.

    With a key, the signature is verified before anything in the file is parsed. Raises the errors of :func:`read` and
    ``signing.verify``.
    """
    try:
        data = read_bytes(path, LIMIT)
    except (FileNotFoundError, NotADirectoryError, UnsuitableFileError) as error:
        _bad(path, f"there is no attestation ({error.strerror})", f"write one: `{anew}`")
    except OSError as error:
        if error.errno == errno.ELOOP:
            _bad(path, "is a link that points to itself", f"write it again: `{anew}`")
        raise environment_error(error, "reading the attestation") from error
    comment = ""
    if key is not None:
        from gaudi_patch.attestation import signing

        comment = signing.verify(path, data, key)
    return _parsed(path, data, anew), comment


def _parsed(path: Path, data: bytes, anew: str) -> Attestation:
    try:
        document = parse_json(data)
    except ValueError as error:
        _bad(path, f"is not valid JSON: {error}", f"write it again: `{anew}`", getattr(error, "lineno", 0))
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is int and version > VERSION:
        _bad(path, f"was written by a newer gaudi-patch (schema_version {version})", "upgrade gaudi-patch")
    faults = schema.faults(document)
    if faults:
        details = faults[:20] if len(faults) > 1 else []
        _bad(path, f"is not an attestation: {faults[0]}", f"write it again: `{anew}`", details=details)
    attested = cast("Attestation", document)  # just validated against the schema
    if attested["sha256"] != digest(attested):
        what = "was changed after it was written: its sha256 does not match its content"
        _bad(path, what, f"write it again: `{anew}`")
    return attested


def _usage(message: str, hint: str) -> GaudiPatchError:
    return GaudiPatchError(Exit.USAGE, "bad-report", message, hint)


def _bad(path: Path, what: str, hint: str, line: int = 0, details: list[str] | None = None) -> NoReturn:
    raise GaudiPatchError(Exit.USAGE, "bad-attestation", what, hint, str(path), line, details or [])

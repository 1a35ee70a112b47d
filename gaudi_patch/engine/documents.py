"""Load the documents that gaudi-patch keeps in a target: state, journal, the attestation of a patched wheel.

All are read alike: from a fixed place, with limits on size and schema, and with every value checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gaudi_patch.disk import read_image
from gaudi_patch.engine import strict
from gaudi_patch.engine.guard import DOCUMENT_LIMIT, Ground
from gaudi_patch.errors import Exit, GaudiPatchError

T = TypeVar("T")


class Kind(NamedTuple):
    """One kind of document: its name in messages, the newest known schema, and the errors to raise.

    ``damaged`` is called with the file and the fault; ``newer`` with the file, the schema and the document.
    """

    name: str
    schema: int
    damaged: Callable[[Path, str], GaudiPatchError]
    newer: Callable[[Path, int, dict[str, Any]], GaudiPatchError]


def load(file: Path, ground: Ground, kind: Kind, parse: Callable[[dict[str, Any], Ground], T]) -> T | None:
    """Read ``file``; return None if it is missing.

    ``parse`` checks the values; its ValueError or KeyError names the wrong one and is raised as ``kind.damaged``.
    """
    image = read_image(file, ground.bounds)
    if image is None:
        return None
    if len(image.data) > DOCUMENT_LIMIT:
        raise kind.damaged(file, f"is too large for a {kind.name} ({len(image.data)} bytes)")
    try:
        document = strict.document(image.data)
        schema = strict.integer(document["schema_version"], "schema_version", 1, 10**6)
        if schema > kind.schema:
            raise kind.newer(file, schema, document)
        return parse(document, ground)
    except KeyError as error:
        raise kind.damaged(file, f"cannot be understood: it has no {error}") from error
    except ValueError as error:
        raise kind.damaged(file, f"cannot be understood: {error}") from error


def damaged_state(file: Path, what: str) -> GaudiPatchError:
    """Return the error for a state or backup that cannot be trusted: only a reinstall restores the pristine files."""
    return GaudiPatchError(
        Exit.HUMAN,
        "state-damaged",
        f"{what}; nothing was changed",
        file=str(file),  # way_out adds the hint
    )


def newer_state(file: Path, schema: int, known: int, writer: str = "") -> GaudiPatchError:
    """Return the error for a state written by a newer gaudi-patch, ``writer``."""
    return GaudiPatchError(
        Exit.REFUSED,
        "state-newer",
        f"was written by a newer gaudi-patch (schema {schema}, this one knows {known}); nothing was changed",
        f"upgrade gaudi-patch; it was written by {writer}" if writer else "upgrade gaudi-patch",
        str(file),
    )

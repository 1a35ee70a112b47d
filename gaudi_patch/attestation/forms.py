"""The file content of an attestation in other tools' forms, and the schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The schemas that `attest --schema` prints.
SCHEMAS: Mapping[str, Path] = {
    "attestation": Path(__file__).with_name("schema.json"),
    "predicate": Path(__file__).with_name("predicate.schema.json"),
}


def text(document: Mapping[str, Any]) -> bytes:
    """Return a document as file content: the same document gives the same bytes."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()

"""The shipped JSON schema of --json, which `gaudi-patch --json-schema` prints."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).with_name("schema.json")


def text() -> str:
    """Return the schema (JSON Schema, draft 2020-12) of the object that a command with --json prints."""
    return FILE.read_text(encoding="utf-8")

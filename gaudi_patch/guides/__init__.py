"""The guides: Markdown files in this directory, to be read here, on a code host, or by `gaudi-patch guide`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
#: In the order in which a newcomer needs them.
NAMES = (
    *("quick-start", "caching", "capacity", "production", "disaggregated", "monitoring", "troubleshooting"),
    *("patched-wheel", "fleet", "patch", "porting"),
)


class Guide(NamedTuple):
    """A guide: its first line is its title, and the paragraph below says what it is about."""

    name: str
    title: str
    summary: str
    markdown: str


def read(name: str) -> Guide:
    """Return the guide ``name``, one of NAMES."""
    markdown = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    title, _, rest = markdown.partition("\n")
    summary = rest.strip().partition("\n\n")[0]
    return Guide(name, title.removeprefix("# "), " ".join(summary.split()), markdown)
